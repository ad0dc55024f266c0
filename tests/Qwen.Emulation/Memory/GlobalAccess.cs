using Qwen.Emulation.Execution;

namespace Qwen.Emulation.Memory;

/// <summary>How an instruction of a kernel reaches global memory: finds the allocation (the last one first) and checks the access.</summary>
internal sealed unsafe class GlobalAccess
{
    private Allocation? _last;

    public byte* Read(Warp warp, ulong address, int bytes, int lane)
    {
        Allocation allocation = Find(warp, address, bytes, lane);
        long at = (long)(address - allocation.Start);
        if (!warp.GridWaited && MayBeWritten(warp.Block.Launch, allocation.Writers[at / Allocation.PieceBytes]))
            warp.FaultAt(FaultKind.MissingGridWait, "memory that a launch before may still write is read before griddepcontrol.wait.", lane, address);
        byte* written = allocation.Written + at;
        bool all = bytes switch
        {
            1 => *written == 1,
            2 => *(ushort*)written == 0x0101,
            4 => *(uint*)written == 0x01010101,
            8 => *(ulong*)written == 0x0101010101010101,
            16 => *(ulong*)written == 0x0101010101010101 && ((ulong*)written)[1] == 0x0101010101010101,
            _ => GlobalMemory.FirstUnwritten(allocation, at, bytes) < 0,
        };
        if (!all)
        {
            ulong first = address + (ulong)GlobalMemory.FirstUnwritten(allocation, at, bytes);
            warp.FaultAt(FaultKind.UnwrittenMemory, $"global memory is read that nobody has written: byte {first - allocation.Start} of an allocation of {allocation.Bytes}.", lane, first);
        }

        return allocation.Data + at;
    }

    public byte* Write(Warp warp, ulong address, int bytes, int lane)
    {
        Allocation allocation = Find(warp, address, bytes, lane);
        if (allocation.IsReadOnly)
            warp.FaultAt(FaultKind.ReadOnly, "constant memory is written.", lane, address);
        if (!warp.GridWaited)
            warp.FaultAt(FaultKind.MissingGridWait, "global memory is written before griddepcontrol.wait, while the previous launch may still use it.", lane, address);
        long at = (long)(address - allocation.Start);
        allocation.Writers[at / Allocation.PieceBytes] = warp.Block.Launch.Serial;
        byte* written = allocation.Written + at;
        for (int i = 0; i < bytes; i++)
            written[i] = 1;
        return allocation.Data + at;
    }

    /// <summary>Checks a range that is named and not read.</summary>
    public void Check(Warp warp, ulong address, int bytes, int lane) => Find(warp, address, bytes, lane);

    // What the launch itself wrote is another matter.
    private static bool MayBeWritten(Execution.LaunchContext launch, long writer) => writer > 0 && writer >= launch.FirstUnfinished && writer != launch.Serial;

    private Allocation Find(Warp warp, ulong address, int bytes, int lane)
    {
        Allocation? allocation = _last;
        if (allocation is null || allocation.IsFree || !allocation.Holds(address, bytes))
        {
            allocation = warp.Block.Launch.Memory.Before(address);
            if (allocation is null || allocation.IsFree || !allocation.Holds(address, bytes))
            {
                (FaultKind kind, string detail) = warp.Block.Launch.Memory.Explain(address, bytes);
                warp.FaultAt(kind, detail, lane, address);
            }

            _last = allocation;
        }

        if ((bytes & (bytes - 1)) == 0 && (address & (ulong)(bytes - 1)) != 0 && bytes <= 16)
            warp.FaultAt(FaultKind.Misaligned, $"the address is not a multiple of {bytes}.", lane, address);
        return allocation;
    }
}
