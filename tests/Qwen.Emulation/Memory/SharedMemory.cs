using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;

namespace Qwen.Emulation.Memory;

/// <summary>
/// The shared memory of a block, with who wrote and who read each byte last. What a warp does falls into segments, numbered over the block,
/// that end where it synchronizes; a warp knows up to which segment every other warp's doing comes before its own (vector clocks, as in
/// Flanagan and Freund, "FastTrack", 2009). An access of a byte that another warp wrote, or a write of a byte that another warp read, in a
/// segment not known to come before, is a race.
/// </summary>
/// <remarks>
/// A tag is (segment &lt;&lt; 6 | warp + 1); several unordered readers are tagged as warp 63, atomic operations as 62, with the latest segment. Such a byte may be written once
/// any warp is known up to that segment: as segments count over the block, all of them are after a barrier for all; after one for some warps a race may be missed, but none is invented.
/// Segments count on from block to block, so that tags of earlier blocks read as unwritten.
/// </remarks>
internal sealed unsafe class SharedMemory : IDisposable
{
    private const uint Pending = uint.MaxValue;
    private const uint Many = 63;
    private const uint Atomic = 62;
    private readonly byte* _data;
    private readonly uint* _writers;
    private readonly uint* _readers;
    private readonly HashSet<uint> _engine = []; // segments in which the copy engine wrote for a warp
    private uint _segment = 1;
    private uint _oldest;

    public SharedMemory(int bytes)
    {
        Bytes = bytes;
        int padded = bytes + 64;
        _data = (byte*)NativeMemory.AlignedAlloc((nuint)padded, 128);
        _writers = (uint*)NativeMemory.AlignedAlloc((nuint)padded * 4, 64);
        _readers = (uint*)NativeMemory.AlignedAlloc((nuint)padded * 4, 64);
        Forget();
    }

    public int Bytes { get; }

    /// <summary>Passes over the banks that accesses took without conflicts, and beyond.</summary>
    public long Wavefronts { get; private set; }

    public long Conflicts { get; private set; }

    /// <summary>Begins a block: nothing is written. Returns its first segment.</summary>
    public uint Start()
    {
        if (_segment > 1 << 25)
        {
            Forget();
            _segment = 1;
        }

        (Wavefronts, Conflicts) = (0, 0);
        _engine.Clear();
        _segment += 2;
        _oldest = _segment << 6;
        return _segment;
    }

    /// <summary>A place for a read, all of whose bytes were written by others before, or by this warp.</summary>
    public byte* Read(Warp warp, ulong address, int bytes, int lane)
    {
        Check(warp, address, bytes, lane);
        uint* writers = _writers + address;
        uint* readers = _readers + address;
        uint own = Tag(warp);
        uint writer = *writers, reader = *readers;
        if (bytes == 16 ? Same16(writers, writer) && Same16(readers, reader) : bytes == 4 && Same4(writers, writer) && Same4(readers, reader))
        {
            CheckRead(warp, writer, address, lane);
            if (reader != own)
            {
                uint next = Reader(warp, reader, own);
                for (int i = 0; i < bytes; i++)
                    readers[i] = next;
            }

            return _data + address;
        }

        for (int i = 0; i < bytes; i++)
        {
            CheckRead(warp, writers[i], address + (ulong)i, lane);
            readers[i] = Reader(warp, readers[i], own);
        }

        return _data + address;
    }

    /// <summary>Sixteen bytes that the tensor cores read: who wrote them as a thread has said so by <c>fence.proxy.async</c>.</summary>
    public byte* ReadAsync(Warp warp, ulong address)
    {
        byte* place = Read(warp, address, 16, 0);
        uint* writers = _writers + address;
        int different = Same16(writers, *writers) ? 1 : 16;
        for (int i = 0; i < different; i++)
        {
            uint other = (writers[i] & 63) - 1, segment = writers[i] >> 6;
            if (other < 32 && segment > warp.Block.Fenced((int)other) && !_engine.Contains(segment))
                warp.Fault(FaultKind.MissingProxyFence, $"tensor cores read shared memory that {Name(writers[i])} written without fence.proxy.async behind.", 0, address + (ulong)i);
        }

        return place;
    }

    /// <summary>What the warp wrote so far is seen by tensor cores and copy engine once it is ordered.</summary>
    public void FenceProxy(Warp warp)
    {
        warp.Fenced = warp.Segment;
        warp.Segment = ++_segment;
    }

    /// <summary>The copy engine writes for a warp, from now on until its next segment begins.</summary>
    public void BeginEngine(Warp warp)
    {
        warp.Segment = ++_segment;
        _engine.Add(warp.Segment);
    }

    /// <summary>A place for a write, all of whose bytes nobody uses in between.</summary>
    public byte* Write(Warp warp, ulong address, int bytes, int lane) => Claim(warp, address, bytes, lane, Tag(warp));

    /// <summary>A place for an atomic operation: atomics of several warps don't race with each other, only with plain accesses.</summary>
    public byte* Update(Warp warp, ulong address, int bytes, int lane)
    {
        Check(warp, address, bytes, lane);
        uint own = (warp.Segment << 6) | Atomic;
        for (int i = 0; i < bytes; i++)
        {
            ref uint writer = ref _writers[(long)address + i];
            ref uint reader = ref _readers[(long)address + i];
            if (writer < _oldest)
                warp.FaultAt(FaultKind.UnwrittenMemory, "shared memory is updated that nobody has written.", lane, address);
            if (writer == Pending || (writer & 63) != Atomic)
                CheckWrite(warp, writer, reader, address + (ulong)i, lane);
            else if (reader >= _oldest)
                CheckWrite(warp, 0, reader, address + (ulong)i, lane);
            (writer, reader) = (Math.Max(writer == Pending || (writer & 63) != Atomic ? 0 : writer, own), 0);
        }

        return _data + address;
    }

    /// <summary>Whether a barrier object can be used: its initialization came before.</summary>
    public void Touch(Warp warp, ulong address, int lane)
    {
        Check(warp, address, 8, lane);
        CheckRead(warp, _writers[address], address, lane);
    }

    /// <summary>A place that an asynchronous copy will write: nobody may touch it until <see cref="Complete"/>.</summary>
    public byte* BeginCopy(Warp warp, ulong address, int bytes, int lane) => Claim(warp, address, bytes, lane, Pending);

    public void Complete(Warp warp, byte* place, int bytes) => new Span<uint>(_writers + (place - _data), bytes).Fill(Tag(warp));

    /// <summary>All that the warps did up to here comes before all that those who wait do next.</summary>
    public void Synchronize(List<(Warp Warp, bool Waits)> warps)
    {
        Span<uint> known = stackalloc uint[32];
        uint last = _segment; // what any of these warps does next has a later number, so all up to here is known of each
        foreach ((Warp warp, _) in warps)
        {
            Release(warp, known);
            known[warp.Index] = last;
        }

        foreach ((Warp warp, bool waits) in warps)
        {
            if (waits)
                Acquire(warp, known);
        }
    }

    /// <summary>Adds what a warp did and knows to <paramref name="known"/>, and starts a segment of it.</summary>
    public void Release(Warp warp, Span<uint> known)
    {
        for (int i = 0; i < 32; i++)
            known[i] = Math.Max(known[i], warp.Known[i]);
        known[warp.Index] = Math.Max(known[warp.Index], warp.Segment);
        warp.Segment = ++_segment;
    }

    public static void Acquire(Warp warp, ReadOnlySpan<uint> known)
    {
        for (int i = 0; i < 32; i++)
            warp.Known[i] = Math.Max(warp.Known[i], known[i]);
    }

    /// <summary>Counts passes over the 32 banks of 4 bytes: a pass serves 32 lanes of 4 bytes, 16 of 8 or 8 of 16, each bank one word.</summary>
    public void CountBanks(ulong* addresses, uint mask, int bytes)
    {
        int lanes = bytes <= 4 ? 32 : 128 / bytes;
        Span<uint> words = stackalloc uint[32 * 32];
        Span<int> counts = stackalloc int[32];
        for (int from = 0; from < 32; from += lanes)
        {
            uint part = (lanes == 32 ? mask : (mask >> from) & ((1U << lanes) - 1)) << (lanes == 32 ? 0 : from);
            if (part == 0)
                continue;
            Wavefronts++;
            counts.Clear();
            int most = 1;
            for (int lane = from; lane < from + lanes; lane++)
            {
                if ((part >> lane & 1) == 0)
                    continue;
                uint first = (uint)(addresses[lane] >> 2), last = (uint)((addresses[lane] + (ulong)bytes - 1) >> 2);
                for (uint word = first; word <= last; word++)
                {
                    int bank = (int)(word & 31);
                    Span<uint> seen = words.Slice(bank * 32, counts[bank]);
                    if (seen.Contains(word) || seen.Length == 32)
                        continue;
                    words[(bank * 32) + counts[bank]++] = word;
                    most = Math.Max(most, counts[bank]);
                }
            }

            Conflicts += most - 1;
        }
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_data);
        NativeMemory.AlignedFree(_writers);
        NativeMemory.AlignedFree(_readers);
    }

    private static uint Tag(Warp warp) => (warp.Segment << 6) | (uint)(warp.Index + 1);

    private static bool Same16(uint* tags, uint tag) => Vector512.EqualsAll(Vector512.Load(tags), Vector512.Create(tag));

    private static bool Same4(uint* tags, uint tag) => Vector128.EqualsAll(Vector128.Load(tags), Vector128.Create(tag));

    private byte* Claim(Warp warp, ulong address, int bytes, int lane, uint tag)
    {
        Check(warp, address, bytes, lane);
        uint* writers = _writers + address;
        uint* readers = _readers + address;
        uint writer = *writers, reader = *readers;
        bool same = bytes == 16 ? Same16(writers, writer) && Same16(readers, reader) : bytes == 4 && Same4(writers, writer) && Same4(readers, reader);
        for (int i = 0; i < (same ? 1 : bytes); i++)
            CheckWrite(warp, writers[i], readers[i], address + (ulong)i, lane);
        for (int i = 0; i < bytes; i++)
            (writers[i], readers[i]) = (tag, 0);
        return _data + address;
    }

    private void Check(Warp warp, ulong address, int bytes, int lane)
    {
        if (address > (ulong)Bytes || (ulong)bytes > (ulong)Bytes - address)
            warp.FaultAt(FaultKind.OutOfBounds, $"{bytes} bytes of shared memory, of which the block has {Bytes}.", lane, address);
        if (address % (ulong)bytes != 0)
            warp.FaultAt(FaultKind.Misaligned, $"the address is not a multiple of {bytes}.", lane, address);
    }

    private void CheckRead(Warp warp, uint writer, ulong address, int lane)
    {
        if (writer == Pending)
            warp.FaultAt(FaultKind.PendingCopy, "shared memory is read while an asynchronous copy to it was not waited for.", lane, address);
        if (writer < _oldest)
            warp.FaultAt(FaultKind.UnwrittenMemory, "shared memory is read that nobody has written.", lane, address);
        if (!IsOrdered(warp, writer))
            warp.FaultAt(FaultKind.Race, $"shared memory is read that {Name(writer)} written with no barrier in between.", lane, address);
    }

    private void CheckWrite(Warp warp, uint writer, uint reader, ulong address, int lane)
    {
        if (writer == Pending)
            warp.FaultAt(FaultKind.PendingCopy, "shared memory is written while an asynchronous copy to it was not waited for.", lane, address);
        if (writer >= _oldest && !IsOrdered(warp, writer))
            warp.FaultAt(FaultKind.Race, $"shared memory is written that {Name(writer)} written with no barrier in between.", lane, address);
        if (reader >= _oldest && !IsOrdered(warp, reader))
            warp.FaultAt(FaultKind.Race, $"shared memory is written that {Name(reader)} read with no barrier in between.", lane, address);
    }

    private static string Name(uint tag) => (tag & 63) switch
    {
        Many => "several warps have",
        Atomic => "an atomic operation has",
        uint other => $"warp {other - 1} has",
    };

    private static bool IsOrdered(Warp warp, uint tag)
    {
        uint other = (tag & 63) - 1, segment = tag >> 6;
        if (other == (uint)warp.Index)
            return true;
        if (other < 32)
            return segment <= warp.Known[other];
        uint known = 0;
        for (int i = 0; i < warp.Block.WarpCount; i++)
            known = Math.Max(known, warp.Known[i]);

        return segment <= known;
    }

    private uint Reader(Warp warp, uint reader, uint own) => reader < _oldest || IsOrdered(warp, reader) ? own : Math.Max(reader, own) | Many;

    private void Forget()
    {
        new Span<uint>(_writers, Bytes + 64).Clear();
        new Span<uint>(_readers, Bytes + 64).Clear();
    }
}
