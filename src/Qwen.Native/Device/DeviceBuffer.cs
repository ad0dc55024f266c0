using System.Runtime.InteropServices;

namespace Qwen.Native.Device;

/// <summary>Device memory with one owner. Each device derives its own, whose <c>ReleaseHandle</c> gives the memory back.</summary>
public abstract class DeviceBuffer : SafeHandle
{
    /// <summary>Takes over memory.</summary>
    /// <param name="pointer">Its address.</param>
    /// <param name="bytes">Its size.</param>
    protected DeviceBuffer(DevicePointer pointer, long bytes)
        : base(0, ownsHandle: true)
    {
        SetHandle((nint)pointer.Address);
        ByteCount = bytes;
    }

    /// <summary>Its size.</summary>
    public long ByteCount { get; }

    /// <summary>Its address.</summary>
    /// <exception cref="ObjectDisposedException">It was given back.</exception>
    public DevicePointer Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return new DevicePointer((ulong)handle);
        }
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;
}

/// <summary>Page-locked host memory with one owner. Each device derives its own.</summary>
public abstract unsafe class PinnedBuffer : SafeHandle
{
    /// <summary>Takes over memory.</summary>
    /// <param name="pointer">Its address.</param>
    /// <param name="bytes">Its size.</param>
    protected PinnedBuffer(void* pointer, long bytes)
        : base(0, ownsHandle: true)
    {
        SetHandle((nint)pointer);
        ByteCount = bytes;
    }

    /// <summary>Its size.</summary>
    public long ByteCount { get; }

    /// <summary>Its address.</summary>
    /// <exception cref="ObjectDisposedException">It was given back.</exception>
    public void* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return (void*)handle;
        }
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;
}
