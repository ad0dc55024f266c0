using Qwen.Native.Interop;

namespace Qwen.Native.Device;

/// <summary>Memory of a real device.</summary>
internal sealed class CudaBuffer : DeviceBuffer
{
    private readonly CudaContextHandle _context;

    public CudaBuffer(CudaContextHandle context, ulong address, long bytes)
        : base(new DevicePointer(address), bytes)
    {
        context.AddReference();
        _context = context;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        _context.TryMakeCurrent();
        CuResult result = CudaDriver.MemFree((ulong)handle);
        _context.DangerousRelease();
        return result == CuResult.Success;
    }
}

/// <summary>Host memory that the driver locked.</summary>
internal sealed unsafe class CudaPinnedBuffer : PinnedBuffer
{
    private readonly CudaContextHandle _context;

    public CudaPinnedBuffer(CudaContextHandle context, void* address, long bytes)
        : base(address, bytes)
    {
        context.AddReference();
        _context = context;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        _context.TryMakeCurrent();
        CuResult result = CudaDriver.MemFreeHost((void*)handle);
        _context.DangerousRelease();
        return result == CuResult.Success;
    }
}
