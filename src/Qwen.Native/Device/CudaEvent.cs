using Qwen.Native.Interop;

namespace Qwen.Native.Device;

/// <summary>A mark in a stream of a real device.</summary>
internal sealed class CudaEvent : IDeviceEvent
{
    private readonly CudaContextHandle _context;
    private readonly CudaEventHandle _handle;

    public CudaEvent(CudaContextHandle context)
    {
        _context = context;
        CudaDriver.EventCreate(out _handle, EventFlags.Default).Check();
        _handle.BelongTo(context);
    }

    /// <summary>CUevent.</summary>
    public CudaEventHandle Handle => _handle;

    /// <inheritdoc/>
    public bool IsDone
    {
        get
        {
            _context.MakeCurrent();
            CuResult result = CudaDriver.EventQuery(_handle);
            if (result == CuResult.NotReady)
                return false;
            result.Check(nameof(CudaDriver.EventQuery));
            return true;
        }
    }

    /// <inheritdoc/>
    public void Synchronize()
    {
        _context.MakeCurrent();
        CudaDriver.EventSynchronize(_handle).Check();
    }

    /// <inheritdoc/>
    public float MillisecondsSince(IDeviceEvent earlier)
    {
        _context.MakeCurrent();
        CudaDriver.EventElapsedTime(out float milliseconds, ((CudaEvent)earlier).Handle, _handle).Check();
        return milliseconds;
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();
}
