namespace Qwen.Native.Device;

/// <summary>What a device is and has.</summary>
/// <param name="Name">Its name, for people.</param>
/// <param name="Major">Compute capability, major.</param>
/// <param name="Minor">Compute capability, minor.</param>
/// <param name="PtxVersion">The newest PTX version its driver compiles, times ten (82 for 8.2).</param>
/// <param name="Multiprocessors">Streaming multiprocessors.</param>
/// <param name="SharedMemoryPerBlock">Most shared memory a block may opt in to, in bytes.</param>
/// <param name="SharedMemoryPerMultiprocessor">Shared memory of a multiprocessor, in bytes.</param>
/// <param name="ThreadsPerMultiprocessor">Threads that a multiprocessor holds at once.</param>
/// <param name="L2Bytes">Size of the L2 cache.</param>
/// <param name="MemoryBytes">Size of the memory.</param>
public sealed record DeviceInfo(
    string Name, int Major, int Minor, int PtxVersion, int Multiprocessors, int SharedMemoryPerBlock, int SharedMemoryPerMultiprocessor,
    int ThreadsPerMultiprocessor, long L2Bytes, long MemoryBytes)
{
    /// <summary>The compute capability as PTX targets write it: 80, 86, 89, 90.</summary>
    public int ComputeCapability => (Major * 10) + Minor;
}

/// <summary>
/// The narrow seam between kernels and a GPU: memory, modules, launches, matrix products, streams, events and graphs. It is implemented by
/// the real device (<c>CudaDevice</c>) and by the emulated device of the tests, which runs the same PTX text on the CPU and checks it.
/// </summary>
/// <remarks>
/// A device and all that it made belong to one thread at a time. What it made is disposed before it. Calls on a stream run in order, after
/// the call has returned; host memory given to a copy must stay as it is until the stream has passed it. Faults of running kernels surface
/// at the next <see cref="IDeviceStream.Synchronize"/> or, on the emulated device, at the launch itself.
/// </remarks>
public interface IDevice : IDisposable
{
    /// <summary>What it is and has.</summary>
    DeviceInfo Info { get; }

    /// <summary>Memory that can still be allocated, in bytes.</summary>
    long FreeMemory { get; }

    /// <summary>Takes device memory, aligned to 256 bytes. Its contents are undefined.</summary>
    /// <exception cref="DeviceOutOfMemoryException">There is not that much.</exception>
    DeviceBuffer Allocate(long bytes);

    /// <summary>Takes page-locked host memory: copies to and from it run without the CPU.</summary>
    PinnedBuffer AllocatePinned(long bytes);

    /// <summary>Compiles PTX text.</summary>
    /// <exception cref="DeviceException">The compiler refused it; the message has its log.</exception>
    IDeviceModule LoadModule(string ptx);

    /// <summary>A stream of work that runs in order, on its own.</summary>
    IDeviceStream CreateStream();

    /// <summary>A mark in a stream.</summary>
    IDeviceEvent CreateEvent();

    /// <summary>Whether the matrix library computes <paramref name="shape"/> on this device.</summary>
    bool Supports(in MatmulShape shape);

    /// <summary>Prepares a matrix product: the library's best algorithm for the shape is looked up once.</summary>
    /// <exception cref="NotSupportedException">The library does not compute it: <see cref="Supports"/> is false.</exception>
    IMatmul CreateMatmul(in MatmulShape shape);
}

/// <summary>Compiled PTX.</summary>
public interface IDeviceModule : IDisposable
{
    /// <summary>An entry of the module, valid as long as the module.</summary>
    /// <param name="entry">Its name.</param>
    /// <param name="dynamicSharedBytes">Dynamic shared memory that its launches will ask for.</param>
    /// <exception cref="DeviceException">There is none of that name, or a block can't have that much shared memory.</exception>
    IDeviceFunction Function(string entry, int dynamicSharedBytes = 0);
}

/// <summary>A kernel, ready to launch.</summary>
public interface IDeviceFunction
{
    /// <summary>Its name.</summary>
    string Name { get; }

    /// <summary>Registers, static shared memory and local memory (spills) it uses.</summary>
    FunctionResources Resources { get; }

    /// <summary>Blocks of so many threads, with the dynamic shared memory it was made with, that one multiprocessor holds at once.</summary>
    int BlocksPerMultiprocessor(int threads);
}

/// <summary>What a kernel takes of a multiprocessor.</summary>
/// <param name="Registers">Registers a thread.</param>
/// <param name="StaticSharedBytes">Static shared memory of a block.</param>
/// <param name="LocalBytes">Local memory of a thread: what was spilled, or could not be kept in registers.</param>
public readonly record struct FunctionResources(int Registers, int StaticSharedBytes, int LocalBytes);

/// <summary>Three extents: of a grid in blocks, or of a block in threads.</summary>
/// <param name="X">The innermost.</param>
/// <param name="Y">The middle one.</param>
/// <param name="Z">The outermost.</param>
public readonly record struct Dim3(int X, int Y = 1, int Z = 1)
{
    /// <summary>Elements in all.</summary>
    public long Count => (long)X * Y * Z;

    /// <summary>A line of <paramref name="x"/>.</summary>
    public static implicit operator Dim3(int x) => new(x);
}

/// <summary>Work in order.</summary>
public interface IDeviceStream : IDisposable
{
    /// <summary>Copies from the host.</summary>
    unsafe void CopyToDevice(DevicePointer to, void* from, long bytes);

    /// <summary>Copies to the host.</summary>
    unsafe void CopyToHost(void* to, DevicePointer from, long bytes);

    /// <summary>Copies within the device. The ranges must not overlap.</summary>
    void Copy(DevicePointer to, DevicePointer from, long bytes);

    /// <summary>Sets every byte.</summary>
    void Fill(DevicePointer to, byte value, long bytes);

    /// <summary>Launches a kernel.</summary>
    /// <param name="function">The kernel.</param>
    /// <param name="grid">Blocks.</param>
    /// <param name="block">Threads of a block.</param>
    /// <param name="arguments">The parameters in order, a slot each: a pointer, or a 32-bit value (or a float's bits) in the low half. See <see cref="Argument"/>.</param>
    /// <param name="overlapPrevious">
    /// Programmatic dependent launch: the kernel may start while the one before it ends; it waits itself before it touches what that one wrote.
    /// Ignored before compute capability 9.0.
    /// </param>
    void Launch(IDeviceFunction function, Dim3 grid, Dim3 block, ReadOnlySpan<ulong> arguments, bool overlapPrevious = false);

    /// <summary>y[t, o] = alpha * sum over i of x[t, i] * w[o, i], scaled, plus bias, plus y where the shape accumulates.</summary>
    /// <param name="matmul">The product.</param>
    /// <param name="operands">Its operands.</param>
    void Matmul(IMatmul matmul, in MatmulOperands operands);

    /// <summary>Marks this point.</summary>
    void Record(IDeviceEvent mark);

    /// <summary>What follows runs after a mark of another stream.</summary>
    void Wait(IDeviceEvent mark);

    /// <summary>From here on, calls are noted and not run, until <see cref="EndCapture"/>. No allocation, module load or synchronization meanwhile.</summary>
    void BeginCapture();

    /// <summary>Ends the noting; what was noted can be run again and again.</summary>
    IDeviceGraph EndCapture();

    /// <summary>Runs a graph.</summary>
    void Launch(IDeviceGraph graph);

    /// <summary>Waits until all is done.</summary>
    /// <exception cref="DeviceException">A kernel failed.</exception>
    void Synchronize();
}

/// <summary>A mark in a stream.</summary>
public interface IDeviceEvent : IDisposable
{
    /// <summary>Whether the stream has passed it; also true if it was never recorded.</summary>
    bool IsDone { get; }

    /// <summary>Waits until the stream has passed it.</summary>
    void Synchronize();

    /// <summary>Milliseconds since another mark; both must be done.</summary>
    float MillisecondsSince(IDeviceEvent earlier);
}

/// <summary>A captured sequence of calls.</summary>
public interface IDeviceGraph : IDisposable
{
    /// <summary>Kernels, copies and products in it.</summary>
    int Nodes { get; }
}
