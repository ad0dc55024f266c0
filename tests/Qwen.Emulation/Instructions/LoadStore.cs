using System.Numerics;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary><c>ld</c>: one, two or four elements a lane into as many registers.</summary>
internal sealed unsafe class Load(Addressing from, PtxType type, Target[] to, bool ordered) : Instruction
{
    private readonly int _bytes = type.Bytes * to.Length;

    public override bool OrdersBlocks => ordered;

    public override Flow Flow => ordered ? Flow.Yield : Flow.Next;

    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        from.Addresses(warp, mask, addresses);
        from.Count(warp, addresses, mask, _bytes, write: false);
        nint* places = stackalloc nint[32];
        ulong last = 0;
        nint place = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            if (place == 0 || addresses[lane] != last || from.Space == StateSpace.Local)
                place = (nint)from.Read(warp, last = addresses[lane], _bytes, lane);
            places[lane] = place;
        }

        for (int i = 0; i < to.Length; i++)
        {
            if (to[i].Offset < 0)
                continue;
            byte* row = warp.Registers + to[i].Offset;
            int at = i * type.Bytes;
            if (to[i].Bits == 64)
                Wide((ulong*)row, places, mask, at);
            else if (type.Bytes == 4)
                Words((uint*)row, places, mask, at);
            else
                Narrow((uint*)row, places, mask, at, to[i].Bits == 32 ? uint.MaxValue : (1U << to[i].Bits) - 1);
            warp.Written[to[i].Slot] |= mask;
        }
    }

    private static void Words(uint* row, nint* places, uint mask, int at)
    {
        if (mask == uint.MaxValue)
        {
            for (int lane = 0; lane < 32; lane++)
                row[lane] = *(uint*)(places[lane] + at);
            return;
        }

        for (; mask != 0; mask &= mask - 1)
        {
            int lane = BitOperations.TrailingZeroCount(mask);
            row[lane] = *(uint*)(places[lane] + at);
        }
    }

    private void Narrow(uint* row, nint* places, uint mask, int at, uint keep)
    {
        for (; mask != 0; mask &= mask - 1)
        {
            int lane = BitOperations.TrailingZeroCount(mask);
            row[lane] = (uint)Element(places[lane] + at) & keep;
        }
    }

    private void Wide(ulong* row, nint* places, uint mask, int at)
    {
        for (; mask != 0; mask &= mask - 1)
        {
            int lane = BitOperations.TrailingZeroCount(mask);
            row[lane] = Element(places[lane] + at);
        }
    }

    private ulong Element(nint place)
    {
        return (type.Bytes, type.IsSigned) switch
        {
            (1, false) => *(byte*)place,
            (1, true) => unchecked((ulong)*(sbyte*)place),
            (2, false) => *(ushort*)place,
            (2, true) => unchecked((ulong)*(short*)place),
            (4, false) => *(uint*)place,
            (4, true) => unchecked((ulong)*(int*)place),
            _ => *(ulong*)place,
        };
    }
}

/// <summary><c>st</c>: one, two or four elements a lane.</summary>
internal sealed unsafe class Store(Addressing to, PtxType type, Source[] from, bool ordered) : Instruction
{
    private readonly int _bytes = type.Bytes * from.Length;

    public override bool OrdersBlocks => ordered;

    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        to.Addresses(warp, mask, addresses);
        to.Count(warp, addresses, mask, _bytes, write: true);
        byte* data = stackalloc byte[32 * 16];
        for (int i = 0; i < from.Length; i++)
        {
            byte* row = warp.Row(from[i], mask);
            for (int lane = 0; lane < 32; lane++)
            {
                byte* element = data + (lane * _bytes) + (i * type.Bytes);
                ulong value = from[i].Bits == 64 ? ((ulong*)row)[lane] : ((uint*)row)[lane];
                switch (type.Bytes)
                {
                    case 1:
                        *element = (byte)value;
                        break;
                    case 2:
                        *(ushort*)element = (ushort)value;
                        break;
                    case 4:
                        *(uint*)element = (uint)value;
                        break;
                    default:
                        *(ulong*)element = value;
                        break;
                }
            }
        }

        nint* places = stackalloc nint[32];
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            places[lane] = (nint)to.Write(warp, addresses[lane], _bytes, lane);
        }

        if (to.Space != StateSpace.Local)
            CheckLanes(warp, addresses, mask, data);
        for (; mask != 0; mask &= mask - 1)
        {
            int lane = BitOperations.TrailingZeroCount(mask);
            byte* place = (byte*)places[lane];
            byte* value = data + (lane * _bytes);
            switch (_bytes)
            {
                case 4:
                    *(uint*)place = *(uint*)value;
                    break;
                case 16:
                    Vector128.Store(Vector128.Load(value), place);
                    break;
                default:
                    for (int i = 0; i < _bytes; i++)
                        place[i] = value[i];
                    break;
            }
        }
    }

    /// <summary>Two lanes that store different values to a byte: which one stays is undefined.</summary>
    private void CheckLanes(Warp warp, ulong* addresses, uint mask, byte* data)
    {
        ulong previous = 0;
        bool ascending = true;
        for (uint lanes = mask; lanes != 0 && ascending; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ascending = addresses[lane] >= previous;
            previous = addresses[lane] + (ulong)_bytes;
        }

        if (ascending)
            return;
        for (uint first = mask; first != 0; first &= first - 1)
        {
            int a = BitOperations.TrailingZeroCount(first);
            for (uint second = first & (first - 1); second != 0; second &= second - 1)
            {
                int b = BitOperations.TrailingZeroCount(second);
                if (addresses[a] != addresses[b])
                    continue;
                if (!new ReadOnlySpan<byte>(data + (a * _bytes), _bytes).SequenceEqual(new ReadOnlySpan<byte>(data + (b * _bytes), _bytes)))
                    warp.FaultAt(FaultKind.Race, $"lanes {a} and {b} of the warp store different values to the same place.", b, addresses[b]);
            }
        }
    }
}

/// <summary><c>ld.param</c>: the same bytes of the arguments for every lane.</summary>
internal sealed unsafe class LoadParameter(int at, PtxType type, Target[] to) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        byte[] parameters = warp.Block.Launch.Parameters;
        for (int i = 0; i < to.Length; i++)
        {
            ulong value = 0;
            for (int b = type.Bytes - 1; b >= 0; b--)
                value = (value << 8) | parameters[at + (i * type.Bytes) + b];
            if (type.IsSigned && type.Bits < 64)
                value = unchecked((ulong)((long)(value << (64 - type.Bits)) >> (64 - type.Bits)));
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                warp.SetLane(to[i], BitOperations.TrailingZeroCount(lanes), value);
            warp.Written[to[i].Slot] |= mask;
        }
    }
}
