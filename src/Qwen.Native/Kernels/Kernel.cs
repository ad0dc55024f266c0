using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>A kernel compiled for a device. What derives from it builds the PTX and launches it with typed arguments.</summary>
/// <param name="cache">Where it is compiled.</param>
/// <param name="kernel">Its PTX.</param>
public abstract class Kernel(KernelCache cache, PtxKernel kernel)
{
    /// <summary>Threads of a block.</summary>
    public int Threads => kernel.Threads;

    /// <summary>The compiled kernel.</summary>
    public IDeviceFunction Function { get; } = cache.Compile(kernel);

    /// <summary>Launches blocks of <see cref="Threads"/>.</summary>
    protected void Launch(IDeviceStream stream, Dim3 grid, ReadOnlySpan<ulong> arguments, bool overlapPrevious = false) =>
        stream.Launch(Function, grid, Threads, arguments, overlapPrevious);
}
