using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;

namespace Qwen.Emulation.Instructions;

/// <summary>An operation on as many lanes as fit a vector; operands it lacks are zero.</summary>
internal delegate Vector512<T> VectorOp<T>(Vector512<T> a, Vector512<T> b, Vector512<T> c);

/// <summary>A comparison: all bits of a lane where it holds.</summary>
internal delegate Vector512<T> VectorCompare<T>(Vector512<T> a, Vector512<T> b);

/// <summary>An operation on one lane, on values at their register's width; operands it lacks are zero.</summary>
internal delegate ulong LaneOp(ulong a, ulong b, ulong c, ulong d);

/// <summary>Sets of lanes as vectors.</summary>
internal static class Lanes
{
    private static readonly Vector512<uint> Bits32 = Vector512.Create(1u, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768);
    private static readonly Vector512<ulong> Bits64 = Vector512.Create(1ul, 2, 4, 8, 16, 32, 64, 128);

    /// <summary>All bits of the lanes of <paramref name="mask"/> from lane <paramref name="from"/> on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<T> Select<T>(uint mask, int from)
    {
        if (Unsafe.SizeOf<T>() == 4)
            return Vector512.Equals(Vector512.Create(mask >> from) & Bits32, Bits32).As<uint, T>();
        return Vector512.Equals(Vector512.Create((ulong)(mask >> from)) & Bits64, Bits64).As<ulong, T>();
    }

    /// <summary>Stores the lanes of <paramref name="mask"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static unsafe void Store<T>(Vector512<T> value, T* row, uint mask, int from)
        where T : unmanaged
    {
        if (mask != uint.MaxValue)
            value = Vector512.ConditionalSelect(Select<T>(mask, from), value, Vector512.Load(row + from));
        Vector512.Store(value, row + from);
    }
}

/// <summary>d = op(a, b, c) on whole registers, in vectors.</summary>
internal sealed unsafe class Elementwise<T>(Target to, Source a, Source b, Source c, VectorOp<T> op) : Instruction
    where T : unmanaged
{
    public override void Execute(Warp warp, uint mask)
    {
        T* x = (T*)warp.Row(a, mask), y = (T*)warp.Row(b, mask), z = (T*)warp.Row(c, mask), d = (T*)(warp.Registers + to.Offset);
        for (int i = 0; i < 32; i += Vector512<T>.Count)
            Lanes.Store(op(Vector512.Load(x + i), Vector512.Load(y + i), Vector512.Load(z + i)), d, mask, i);
        warp.Written[to.Slot] |= mask;
    }
}

/// <summary>A 64-bit result of 32-bit sources: d = op(a, b, c), a and b widened (with their sign or zeros), c of 64 bits.</summary>
internal sealed unsafe class Widening(Target to, Source a, Source b, Source c, bool signed, VectorOp<ulong> op) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        uint* x = (uint*)warp.Row(a, mask), y = (uint*)warp.Row(b, mask);
        ulong* z = (ulong*)warp.Row(c, mask), d = (ulong*)(warp.Registers + to.Offset);
        for (int i = 0; i < 32; i += 8)
            Lanes.Store(op(Widen(Vector256.Load(x + i)), Widen(Vector256.Load(y + i)), Vector512.Load(z + i)), d, mask, i);
        warp.Written[to.Slot] |= mask;
    }

    private Vector512<ulong> Widen(Vector256<uint> value)
    {
        return signed
            ? Vector512.Create(Vector256.WidenLower(value.AsInt32()), Vector256.WidenUpper(value.AsInt32())).AsUInt64()
            : Vector512.Create(Vector256.WidenLower(value), Vector256.WidenUpper(value));
    }
}

/// <summary>d = op(a, b, c, d), a lane at a time.</summary>
internal sealed unsafe class PerLane(Target to, Source[] from, LaneOp op) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        ulong* values = stackalloc ulong[4];
        for (int i = 0; i < from.Length; i++)
            warp.Row(from[i], mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            for (int i = 0; i < from.Length; i++)
                values[i] = warp.Lane(from[i], lane);
            if (to.Offset >= 0)
                warp.SetLane(to, lane, op(values[0], values[1], values[2], values[3]));
        }

        if (to.Offset >= 0)
            warp.Written[to.Slot] |= mask;
    }
}

/// <summary>p|q = (a ? b) op c on vectors.</summary>
internal sealed unsafe class Compare<T>(int p, int q, Source a, Source b, VectorCompare<T> compare, Func<uint, uint, uint> combine, PredicateSource c) : Instruction
    where T : unmanaged
{
    public override void Execute(Warp warp, uint mask)
    {
        T* x = (T*)warp.Row(a, mask), y = (T*)warp.Row(b, mask);
        uint holds = 0;
        for (int i = 0; i < 32; i += Vector512<T>.Count)
            holds |= (uint)Vector512.ExtractMostSignificantBits(compare(Vector512.Load(x + i), Vector512.Load(y + i))) << i;
        uint with = warp.Predicate(c, mask);
        warp.SetPredicate(p, combine(holds, with), mask);
        warp.SetPredicate(q, combine(~holds, with), mask);
    }
}

/// <summary>p = a op b op c on predicates.</summary>
internal sealed class PredicateLogic(int to, PredicateSource a, PredicateSource b, Func<uint, uint, uint> op) : Instruction
{
    public override void Execute(Warp warp, uint mask) => warp.SetPredicate(to, op(warp.Predicate(a, mask), warp.Predicate(b, mask)), mask);
}

/// <summary>d = p ? a : b.</summary>
internal sealed unsafe class Select<T>(Target to, Source a, Source b, PredicateSource p) : Instruction
    where T : unmanaged
{
    public override void Execute(Warp warp, uint mask)
    {
        uint first = warp.Predicate(p, mask);
        T* x = (T*)warp.Row(a, mask & first), y = (T*)warp.Row(b, mask & ~first), d = (T*)(warp.Registers + to.Offset);
        for (int i = 0; i < 32; i += Vector512<T>.Count)
            Lanes.Store(Vector512.ConditionalSelect(Lanes.Select<T>(first, i), Vector512.Load(x + i), Vector512.Load(y + i)), d, mask, i);
        warp.Written[to.Slot] |= mask;
    }
}
