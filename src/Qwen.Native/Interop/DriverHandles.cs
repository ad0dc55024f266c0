using System.Runtime.InteropServices;

namespace Qwen.Native.Interop;

/// <summary>A device's primary context, retained. What is made in it keeps it alive.</summary>
internal sealed class CudaContextHandle : SafeHandle
{
    // The current context belongs to the thread; remembering it makes the check one comparison. It holds the handle, not the address, since the
    // driver may hand out the address of a released context again.
    [ThreadStatic]
    private static CudaContextHandle? current;

    private readonly int _device;

    private CudaContextHandle(nint context, int device)
        : base(0, ownsHandle: true)
    {
        SetHandle(context);
        _device = device;
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Retains the context of a CUdevice.</summary>
    public static CudaContextHandle Retain(int device)
    {
        CudaDriver.DevicePrimaryCtxRetain(out nint context, device).Check();
        return new CudaContextHandle(context, device);
    }

    /// <summary>Makes it the calling thread's context.</summary>
    public void MakeCurrent()
    {
        if (!ReferenceEquals(current, this))
            TryMakeCurrent().Check(nameof(CudaDriver.CtxSetCurrent));
    }

    /// <summary>As <see cref="MakeCurrent"/>, for finalizers, which must not throw.</summary>
    public CuResult TryMakeCurrent()
    {
        CuResult result = CudaDriver.CtxSetCurrent(handle);
        if (result == CuResult.Success)
            current = this;
        return result;
    }

    /// <summary>Counts a thing that was made in it, until <see cref="SafeHandle.DangerousRelease"/>.</summary>
    public void AddReference()
    {
        bool added = false;
        DangerousAddRef(ref added);
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        if (ReferenceEquals(current, this))
            current = null;
        return CudaDriver.DevicePrimaryCtxRelease(_device) == CuResult.Success;
    }
}

/// <summary>A thing of a context, destroyed by <see cref="Destroy"/> with that context current, on whichever thread.</summary>
internal abstract class ContextOwnedHandle() : SafeHandle(0, ownsHandle: true)
{
    private CudaContextHandle? _context;

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Ties it to the context that it was made in.</summary>
    public void BelongTo(CudaContextHandle context)
    {
        context.AddReference();
        _context = context;
    }

    /// <summary>Calls the driver's function that destroys it.</summary>
    protected abstract CuResult Destroy(nint thing);

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        _context?.TryMakeCurrent();
        CuResult result = Destroy(handle);
        _context?.DangerousRelease();
        return result == CuResult.Success;
    }
}

/// <summary>CUmodule.</summary>
internal sealed class CudaModuleHandle : ContextOwnedHandle
{
    protected override CuResult Destroy(nint thing) => CudaDriver.ModuleUnload(thing);
}

/// <summary>CUstream.</summary>
internal sealed class CudaStreamHandle : ContextOwnedHandle
{
    protected override CuResult Destroy(nint thing) => CudaDriver.StreamDestroy(thing);
}

/// <summary>CUevent.</summary>
internal sealed class CudaEventHandle : ContextOwnedHandle
{
    protected override CuResult Destroy(nint thing) => CudaDriver.EventDestroy(thing);
}

/// <summary>CUgraph.</summary>
internal sealed class CudaGraphHandle : ContextOwnedHandle
{
    protected override CuResult Destroy(nint thing) => CudaDriver.GraphDestroy(thing);
}

/// <summary>CUgraphExec.</summary>
internal sealed class CudaGraphExecHandle : ContextOwnedHandle
{
    protected override CuResult Destroy(nint thing) => CudaDriver.GraphExecDestroy(thing);
}
