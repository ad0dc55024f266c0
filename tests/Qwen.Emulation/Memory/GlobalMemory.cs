using System.Runtime.InteropServices;
using Qwen.Native.Device;

namespace Qwen.Emulation.Memory;

/// <summary>A piece of global memory, with a byte for each of its bytes that says whether it was written.</summary>
internal sealed unsafe class Allocation(ulong start, long bytes, bool readOnly)
{
    /// <summary>As few as the scales of a block of a quantized KV cache: what belongs to another sequence is another piece.</summary>
    public const int PieceBytes = 64;

    public ulong Start { get; } = start;

    public long Bytes { get; } = bytes;

    /// <summary>Whether kernels only read it: constants.</summary>
    public bool IsReadOnly { get; } = readOnly;

    /// <summary>The launch that wrote each <see cref="PieceBytes"/> last; 0 for the host and copies. Of interest to a launch that overlaps others.</summary>
    public long[] Writers { get; } = new long[(bytes + PieceBytes - 1) / PieceBytes];

    public byte* Data { get; private set; } = (byte*)NativeMemory.AllocZeroed((nuint)bytes + 64);

    public byte* Written { get; private set; } = (byte*)NativeMemory.AllocZeroed((nuint)bytes + 64);

    public bool IsFree => Data == null;

    public bool Holds(ulong address, long bytes) => address >= Start && bytes <= Bytes && address - Start <= (ulong)(Bytes - bytes);

    public void Free()
    {
        NativeMemory.Free(Data);
        NativeMemory.Free(Written);
        Data = null;
        Written = null;
    }
}

/// <summary>
/// Global memory: allocations with gaps between them at addresses that are never used again, so that an address outside any, or in one that
/// was given back, is always told.
/// </summary>
internal sealed unsafe class GlobalMemory(long capacity) : IDisposable
{
    /// <summary>Where generic addresses name shared memory.</summary>
    public const ulong SharedWindow = 0x0100_0000_0000_0000;

    /// <summary>Where generic addresses name local memory.</summary>
    public const ulong LocalWindow = 0x0200_0000_0000_0000;

    private const ulong Gap = 64 << 10;
    private Allocation[] _allocations = new Allocation[64];
    private int _count;
    private ulong _next = 0x0000_0007_0000_0000;

    public long Capacity { get; } = capacity;

    public long Used { get; private set; }

    public int Live { get; private set; }

    public Allocation Allocate(long bytes, bool readOnly = false)
    {
        long rounded = (bytes + 255) / 256 * 256;
        if (rounded > Capacity - Used)
            throw new DeviceOutOfMemoryException(bytes, Capacity - Used);
        Allocation allocation = new(_next, bytes, readOnly);
        _next += (ulong)rounded + Gap;
        if (_count == _allocations.Length)
            Array.Resize(ref _allocations, _count * 2);
        _allocations[_count++] = allocation;
        Used += rounded;
        Live++;
        return allocation;
    }

    public void Free(Allocation allocation)
    {
        Used -= (allocation.Bytes + 255) / 256 * 256;
        Live--;
        allocation.Free();
    }

    /// <summary>The allocation at or before an address; null if there is none.</summary>
    public Allocation? Before(ulong address)
    {
        int low = 0, high = _count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_allocations[middle].Start <= address)
                low = middle + 1;
            else
                high = middle;
        }

        return low == 0 ? null : _allocations[low - 1];
    }

    /// <summary>Why an access of an address outside every allocation, or in a freed one, is a fault.</summary>
    public (FaultKind Kind, string Detail) Explain(ulong address, long bytes)
    {
        if (Before(address) is not { } near)
            return (FaultKind.OutOfBounds, $"{bytes} bytes of global memory at no allocation.");
        if (near.IsFree && near.Holds(address, 0))
            return (FaultKind.UseAfterFree, $"{bytes} bytes at {address - near.Start} in an allocation of {near.Bytes} bytes that was given back.");
        return (FaultKind.OutOfBounds, $"{bytes} bytes at {address - near.Start} from the start of the nearest allocation, which has {near.Bytes} bytes.");
    }

    /// <summary>A range that the host, a copy or the matrix library uses.</summary>
    /// <exception cref="DeviceException">It is not in one allocation.</exception>
    public Allocation Range(DevicePointer pointer, long bytes, string what)
    {
        if (bytes < 0)
            throw new DeviceException($"{what}: the range has {bytes} bytes.");
        if (Before(pointer.Address) is { IsFree: false } found && found.Holds(pointer.Address, bytes))
            return found;
        (FaultKind kind, string detail) = Explain(pointer.Address, bytes);
        throw new DeviceException($"{what}: {kind}: {detail} Address {pointer}.");
    }

    /// <summary>A range that is read.</summary>
    /// <exception cref="DeviceException">It is not in one allocation, or holds bytes that nobody wrote.</exception>
    public byte* Read(DevicePointer pointer, long bytes, string what)
    {
        Allocation allocation = Range(pointer, bytes, what);
        long at = (long)(pointer.Address - allocation.Start), unwritten = FirstUnwritten(allocation, at, bytes);
        if (unwritten >= 0)
            throw new DeviceException($"{what}: {FaultKind.UnwrittenMemory}: the byte at {unwritten} of {bytes} was never written. Address {pointer}.");
        return allocation.Data + at;
    }

    /// <summary>A range that is written.</summary>
    /// <exception cref="DeviceException">It is not in one allocation.</exception>
    public byte* Write(DevicePointer pointer, long bytes, string what, long writer = 0)
    {
        Allocation allocation = Range(pointer, bytes, what);
        long at = (long)(pointer.Address - allocation.Start);
        NativeMemory.Fill(allocation.Written + at, (nuint)bytes, 1);
        int first = (int)(at / Allocation.PieceBytes), end = (int)((at + bytes + Allocation.PieceBytes - 1) / Allocation.PieceBytes);
        allocation.Writers.AsSpan(first, end - first).Fill(writer);
        return allocation.Data + at;
    }

    public static long FirstUnwritten(Allocation allocation, long at, long bytes)
    {
        for (long done = 0; done < bytes;)
        {
            int part = (int)Math.Min(bytes - done, 1 << 30);
            int found = new ReadOnlySpan<byte>(allocation.Written + at + done, part).IndexOf((byte)0);
            if (found >= 0)
                return done + found;
            done += part;
        }

        return -1;
    }

    public void Dispose()
    {
        for (int i = 0; i < _count; i++)
        {
            if (!_allocations[i].IsFree)
                _allocations[i].Free();
        }

        _count = 0;
    }
}
