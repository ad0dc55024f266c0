using Qwen.Emulation.Execution;
using Qwen.Emulation.Memory;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>The address operand of an instruction, and the places it stands for.</summary>
internal sealed unsafe class Addressing(Source row, long offset, StateSpace space)
{
    private readonly GlobalAccess _global = new();

    public StateSpace Space { get; } = space;

    /// <summary>Computes the addresses of the lanes.</summary>
    public void Addresses(Warp warp, uint mask, ulong* addresses)
    {
        byte* values = warp.Row(row, mask);
        if (row.Bits == 64)
        {
            for (int lane = 0; lane < 32; lane++)
                addresses[lane] = unchecked(((ulong*)values)[lane] + (ulong)offset);
        }
        else
        {
            for (int lane = 0; lane < 32; lane++)
                addresses[lane] = unchecked(((uint*)values)[lane] + (uint)offset);
        }
    }

    /// <summary>The space of a generic address, made relative to its window.</summary>
    public StateSpace Resolve(ref ulong address)
    {
        if (Space != StateSpace.Generic)
            return Space == StateSpace.Constant ? StateSpace.Global : Space;
        if (address - GlobalMemory.SharedWindow < 1UL << 32)
        {
            address -= GlobalMemory.SharedWindow;
            return StateSpace.Shared;
        }

        if (address - GlobalMemory.LocalWindow < 1UL << 32)
        {
            address -= GlobalMemory.LocalWindow;
            return StateSpace.Local;
        }

        return StateSpace.Global;
    }

    public byte* Read(Warp warp, ulong address, int bytes, int lane)
    {
        return Resolve(ref address) switch
        {
            StateSpace.Shared => warp.Block.Shared.Read(warp, address, bytes, lane),
            StateSpace.Local => Local(warp, address, bytes, lane, write: false),
            _ => _global.Read(warp, address, bytes, lane),
        };
    }

    public byte* Write(Warp warp, ulong address, int bytes, int lane)
    {
        return Resolve(ref address) switch
        {
            StateSpace.Shared => warp.Block.Shared.Write(warp, address, bytes, lane),
            StateSpace.Local => Local(warp, address, bytes, lane, write: true),
            _ => _global.Write(warp, address, bytes, lane),
        };
    }

    /// <summary>Checks a range that is named and not read.</summary>
    public void Check(Warp warp, ulong address, int bytes, int lane) => _global.Check(warp, address, bytes, lane);

    /// <summary>A place that is read and written at once. <paramref name="alignment"/> is that of the whole access.</summary>
    public byte* Update(Warp warp, ulong address, int bytes, int lane, int alignment)
    {
        if (address % (ulong)alignment != 0)
            warp.FaultAt(FaultKind.Misaligned, $"the address is not a multiple of {alignment}.", lane, address);
        ulong at = address;
        if (Resolve(ref at) == StateSpace.Shared)
            return warp.Block.Shared.Update(warp, at, bytes, lane);
        Read(warp, address, bytes, lane);
        return Write(warp, address, bytes, lane);
    }

    /// <summary>Notes an access in the block's counts.</summary>
    public void Count(Warp warp, ulong* addresses, uint mask, int bytes, bool write)
    {
        int first = System.Numerics.BitOperations.TrailingZeroCount(mask);
        ulong address = addresses[first];
        switch (Resolve(ref address))
        {
            case StateSpace.Shared:
                warp.Block.Shared.CountBanks(addresses, mask, bytes);
                break;
            case StateSpace.Global when write:
                warp.Block.BytesStored += (long)bytes * System.Numerics.BitOperations.PopCount(mask);
                break;
            case StateSpace.Global:
                warp.Block.BytesLoaded += (long)bytes * System.Numerics.BitOperations.PopCount(mask);
                break;
        }
    }

    private static byte* Local(Warp warp, ulong address, int bytes, int lane, bool write)
    {
        if (address > (ulong)warp.LocalBytes || (ulong)bytes > (ulong)warp.LocalBytes - address)
            warp.FaultAt(FaultKind.OutOfBounds, $"{bytes} bytes of local memory, of which a thread has {warp.LocalBytes}.", lane, address);
        if (address % (ulong)bytes != 0)
            warp.FaultAt(FaultKind.Misaligned, $"the address is not a multiple of {bytes}.", lane, address);
        byte* place = warp.Local + ((long)warp.LocalBytes * lane) + address;
        Span<byte> written = new(place + ((long)warp.LocalBytes * 32), bytes);
        if (write)
            written.Fill(1);
        else if (written.Contains((byte)0))
            warp.FaultAt(FaultKind.UnwrittenMemory, "local memory is read that the thread has not written.", lane, address);
        return place;
    }
}
