using System.Runtime.InteropServices;

namespace Qwen.Cpu;

/// <summary>Zeroed native memory for <typeparamref name="T"/>, aligned to a cache line, with one owner.</summary>
/// <remarks>Kernels take plain pointers; the object that made the buffer keeps it alive while they run.</remarks>
public sealed unsafe class NativeBuffer<T> : SafeHandle
    where T : unmanaged
{
    /// <summary>Bytes of a cache line, and of an AVX-512 vector: the alignment of every buffer.</summary>
    public const int Alignment = 64;

    /// <summary>Allocates <paramref name="length"/> zeroed elements.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The length is negative, or its bytes overflow.</exception>
    /// <exception cref="OutOfMemoryException">The system has no such block of memory.</exception>
    public NativeBuffer(long length)
        : base(0, ownsHandle: true)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, (long.MaxValue / sizeof(T)) - Alignment);
        // Zeroed by the system page by page as it is touched: a large buffer that is never used costs no memory.
        SetHandle((nint)NativeMemory.AllocZeroed(((nuint)length * (nuint)sizeof(T)) + Alignment));
        Length = length;
    }

    /// <summary>Elements.</summary>
    public long Length { get; }

    /// <summary>The first element. Valid until the buffer is disposed.</summary>
    public T* Pointer
    {
        get
        {
            ObjectDisposedException.ThrowIf(IsClosed, this);
            return (T*)((handle + Alignment - 1) & -Alignment);
        }
    }

    /// <summary>The whole buffer.</summary>
    /// <exception cref="OverflowException">It is longer than a span can be.</exception>
    public Span<T> Span => new(Pointer, checked((int)Length));

    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        NativeMemory.Free((void*)handle);
        return true;
    }
}
