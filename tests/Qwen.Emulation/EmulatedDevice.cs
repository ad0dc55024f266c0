using Qwen.Emulation.Memory;
using Qwen.Emulation.Programs;
using Qwen.Native.Blas;
using Qwen.Native.Device;

namespace Qwen.Emulation;

/// <summary>
/// A GPU that is not there: runs PTX text on the CPU, warp by warp, and reports what a real device would silently do wrong. Kernels run to
/// their end in <see cref="IDeviceStream.Launch(IDeviceFunction, Dim3, Dim3, ReadOnlySpan{ulong}, bool)"/>, and their faults are thrown there. See docs/emulated-device.md.
/// </summary>
public sealed class EmulatedDevice : IDevice
{
    private readonly List<DeviceFaultException> _faults = [];
    private readonly List<string> _problems = [];
    private int _modules, _streams, _events, _graphs, _matmuls, _pinned;

    /// <summary>Makes a device.</summary>
    /// <param name="info">What it is; <see cref="Describe"/> makes one.</param>
    public EmulatedDevice(DeviceInfo info)
    {
        Info = info;
        Memory = new GlobalMemory(info.MemoryBytes);
    }

    /// <summary>Makes a device of a compute capability.</summary>
    /// <param name="computeCapability">80, 86, 89 or 90.</param>
    public EmulatedDevice(int computeCapability = 90)
        : this(Describe(computeCapability))
    {
    }

    /// <inheritdoc/>
    public DeviceInfo Info { get; }

    /// <inheritdoc/>
    public long FreeMemory => Memory.Capacity - Memory.Used;

    /// <summary>Warp instructions that one launch may execute.</summary>
    public long InstructionBudget { get; set; } = 500_000_000;

    /// <summary>The version of cublasLt whose rules hold, as cublasLtGetVersion gives it.</summary>
    public int MatrixLibraryVersion { get; init; } = 13_00_00;

    /// <summary>The faults there were.</summary>
    public IReadOnlyList<DeviceFaultException> Faults => _faults;

    /// <summary>What kernels did so far.</summary>
    public Statistics Statistics { get; } = new();

    internal GlobalMemory Memory { get; }

    /// <summary>Streams that note calls instead of running them.</summary>
    internal int Capturing { get; set; }

    /// <summary>The number of the last operation.</summary>
    internal long Serial { get; set; }

    /// <summary>The first operation that may be under way when the next launch starts, if that overlaps.</summary>
    internal long FirstUnfinished { get; set; }

    internal bool IsDisposed { get; private set; }

    /// <summary>Describes a device with the limits of a compute capability and 16 multiprocessors.</summary>
    /// <param name="computeCapability">80, 86, 89 or 90.</param>
    /// <param name="ptxVersion">The newest PTX version it compiles, times ten.</param>
    /// <param name="memoryBytes">Its memory.</param>
    public static DeviceInfo Describe(int computeCapability, int ptxVersion = 90, long memoryBytes = 4L << 30)
    {
        (int shared, int perMultiprocessor, int threads) = computeCapability switch
        {
            80 => (163, 164, 2048),
            86 or 89 => (99, 100, 1536),
            90 => (227, 228, 2048),
            _ => throw new ArgumentOutOfRangeException(nameof(computeCapability), computeCapability, "80, 86, 89 or 90."),
        };
        return new($"Emulated sm_{computeCapability}", computeCapability / 10, computeCapability % 10, ptxVersion, 16, shared << 10, perMultiprocessor << 10,
            threads, 32L << 20, memoryBytes);
    }

    /// <inheritdoc/>
    public DeviceBuffer Allocate(long bytes)
    {
        Check();
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        return new EmulatedBuffer(this, Memory.Allocate(bytes));
    }

    /// <inheritdoc/>
    public PinnedBuffer AllocatePinned(long bytes)
    {
        Check();
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        _pinned++;
        return new EmulatedPinnedBuffer(this, bytes);
    }

    /// <inheritdoc/>
    public IDeviceModule LoadModule(string ptx)
    {
        Check();
        EmulatedModule module = new(this, ptx);
        _modules++;
        return module;
    }

    /// <inheritdoc/>
    public IDeviceStream CreateStream()
    {
        Check();
        _streams++;
        return new EmulatedStream(this);
    }

    /// <inheritdoc/>
    public IDeviceEvent CreateEvent()
    {
        Check();
        _events++;
        return new EmulatedEvent(this);
    }

    /// <inheritdoc/>
    public bool Supports(in MatmulShape shape) => MatmulRules.WhyNot(shape, Info.ComputeCapability, MatrixLibraryVersion) is null;

    /// <inheritdoc/>
    public IMatmul CreateMatmul(in MatmulShape shape)
    {
        Check();
        if (MatmulRules.WhyNot(shape, Info.ComputeCapability, MatrixLibraryVersion) is { } reason)
            throw new NotSupportedException($"The matrix library does not compute {shape}: {reason}");
        _matmuls++;
        return new EmulatedMatmul(this, shape);
    }

    /// <summary>Gives everything back.</summary>
    /// <exception cref="InvalidOperationException">Something that the device made was not disposed, or pinned memory was written out of bounds.</exception>
    public void Dispose()
    {
        if (IsDisposed)
            return;
        IsDisposed = true;
        Leaked(Memory.Live, "buffers");
        Leaked(_pinned, "pinned buffers");
        Leaked(_modules, "modules");
        Leaked(_streams, "streams");
        Leaked(_events, "events");
        Leaked(_graphs, "graphs");
        Leaked(_matmuls, "matrix products");
        Memory.Dispose();
        if (_problems.Count > 0)
            throw new InvalidOperationException($"The emulated device was disposed with {string.Join(", ", _problems)}.");

        void Leaked(int count, string what)
        {
            if (count > 0)
                _problems.Add($"{count} {what} still in use");
        }
    }

    internal void Note(DeviceFaultException fault) => _faults.Add(fault);

    internal void ModuleDisposed() => _modules--;

    internal void StreamDisposed() => _streams--;

    internal void EventDisposed() => _events--;

    internal void GraphCreated() => _graphs++;

    internal void GraphDisposed() => _graphs--;

    internal void MatmulDisposed() => _matmuls--;

    internal void PinnedDisposed(bool damaged)
    {
        _pinned--;
        if (damaged)
            _problems.Add("pinned memory written out of its bounds");
    }

    private void Check()
    {
        ObjectDisposedException.ThrowIf(IsDisposed, this);
        if (Capturing > 0)
            throw new DeviceException("Nothing is made while a stream is capturing.");
    }
}
