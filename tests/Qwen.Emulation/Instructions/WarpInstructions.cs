using System.Numerics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>Exchange between the lanes of a warp: shuffles, votes, matches, reductions (PTX ISA, "Parallel Synchronization and Communication Instructions").</summary>
internal static class WarpInstructions
{
    /// <summary>Every lane that is named must take part, and every lane that takes part must be named.</summary>
    public static void CheckMembers(Warp warp, uint mask, uint members)
    {
        if ((mask & ~members) != 0)
            warp.Fault(FaultKind.InactiveLane, $"a lane takes part that the member mask 0x{members:x8} does not name.", mask & ~members, null);
        if ((members & warp.Live & ~mask) != 0)
            warp.Fault(FaultKind.InactiveLane, $"the lanes 0x{members & warp.Live & ~mask:x8} that the member mask 0x{members:x8} names are elsewhere.", members & warp.Live & ~mask, null);
    }

    public static Instruction Shuffle(Decoder d)
    {
        if (!d.Take("sync"))
            throw d.Error("a shuffle is .sync.");
        string mode = d.TakeAny("idx", "up", "down", "bfly") ?? throw d.Error("the shuffle has no mode.");
        d.TakeType();
        d.Expect(5);
        (Operand to, int p) = d.At(0) is PairOperand pair ? (pair.First, d.WritePredicate(pair.Second)) : (d.At(0), -1);
        return new ShuffleLanes(mode, d.Write(to, PtxType.B32), p, d.Read(1, PtxType.B32), d.Read(2, PtxType.B32), d.Read(3, PtxType.B32), d.Read(4, PtxType.B32));
    }

    public static Instruction Vote(Decoder d)
    {
        if (!d.Take("sync"))
            throw d.Error("a vote is .sync.");
        string mode = d.TakeAny("ballot", "all", "any", "uni") ?? throw d.Error("the vote has no mode.");
        d.Take("b32");
        d.Take("pred");
        d.Expect(3);
        return mode == "ballot"
            ? new VoteLanes(mode, d.Write(0, PtxType.B32), -1, d.ReadPredicate(1), d.Read(2, PtxType.B32))
            : new VoteLanes(mode, new(-1, -1, 32), d.WritePredicate(d.At(0)), d.ReadPredicate(1), d.Read(2, PtxType.B32));
    }

    public static Instruction Match(Decoder d)
    {
        bool all = d.TakeAny("any", "all") is { } mode ? mode == "all" : throw d.Error("the match has no mode.");
        if (!d.Take("sync"))
            throw d.Error("a match is .sync.");
        PtxType type = d.TakeType();
        d.Expect(3);
        (Operand to, int p) = d.At(0) is PairOperand pair ? (pair.First, d.WritePredicate(pair.Second)) : (d.At(0), -1);
        return new MatchLanes(all, d.Write(to, PtxType.B32), p, d.Read(1, type), d.Read(2, PtxType.B32));
    }

    public static Instruction Reduce(Decoder d)
    {
        if (!d.Take("sync"))
            throw d.Error("a reduction is .sync.");
        string operation = d.TakeAny("add", "min", "max", "and", "or", "xor") ?? throw d.Error("the reduction has no operation.");
        PtxType type = d.TakeType();
        d.Expect(3);
        if (type.Bits != 32 || type.Kind == TypeKind.Float)
            throw d.Error("the reduction is of 32-bit integers.");
        return new ReduceLanes(d.Write(0, type), d.Read(1, type), d.Read(2, PtxType.B32), Atomics.Operation(operation, type, d));
    }

    public static Instruction ActiveMask(Decoder d)
    {
        d.Take("b32");
        d.Expect(1);
        return new ActiveLanes(d.Write(0, PtxType.B32));
    }

    public static Instruction Elect(Decoder d)
    {
        if (!d.Take("sync"))
            throw d.Error("an election is .sync.");
        d.Expect(2);
        if (d.At(0) is not PairOperand pair)
            throw d.Error("the destination is a register and a predicate.");
        return new ElectLane(d.Write(pair.First, PtxType.B32), d.WritePredicate(pair.Second), d.Read(1, PtxType.B32));
    }
}

internal sealed unsafe class ShuffleLanes(string mode, Target to, int p, Source from, Source by, Source clamp, Source members) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        uint* values = (uint*)warp.Row(from, mask), by_ = (uint*)warp.Row(by, mask), clamps = (uint*)warp.Row(clamp, mask), member = (uint*)warp.Row(members, mask);
        uint* result = stackalloc uint[32];
        uint valid = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            if (lane == BitOperations.TrailingZeroCount(mask) || member[lane] != member[BitOperations.TrailingZeroCount(mask)])
                WarpInstructions.CheckMembers(warp, mask, member[lane]);
            int b = (int)(by_[lane] & 31), bound = (int)(clamps[lane] & 31), segment = (int)(clamps[lane] >> 8 & 31);
            int most = (lane & segment) | (bound & ~segment), least = lane & segment;
            (int source, bool inside) = mode switch
            {
                "up" => (lane - b, lane - b >= most),
                "down" => (lane + b, lane + b <= most),
                "bfly" => (lane ^ b, (lane ^ b) <= most),
                _ => (least | (b & ~segment), (least | (b & ~segment)) <= most),
            };
            if (!inside)
                source = lane;
            else
                valid |= 1U << lane;
            if ((mask >> source & 1) == 0)
                warp.FaultAt(FaultKind.InactiveLane, $"the shuffle reads lane {source}, which does not take part.", lane, null);
            result[lane] = values[source];
        }

        if (to.Offset >= 0)
        {
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                ((uint*)(warp.Registers + to.Offset))[lane] = result[lane];
            }

            warp.Written[to.Slot] |= mask;
        }

        warp.SetPredicate(p, valid, mask);
    }
}

internal sealed unsafe class VoteLanes(string mode, Target to, int p, PredicateSource of, Source members) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        uint* member = (uint*)warp.Row(members, mask);
        WarpInstructions.CheckMembers(warp, mask, member[BitOperations.TrailingZeroCount(mask)]);
        uint votes = warp.Predicate(of, mask) & mask;
        bool result = mode switch
        {
            "all" => votes == mask,
            "any" => votes != 0,
            _ => votes == 0 || votes == mask,
        };
        if (to.Offset >= 0)
        {
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                warp.SetLane(to, BitOperations.TrailingZeroCount(lanes), votes);
            warp.Written[to.Slot] |= mask;
        }

        warp.SetPredicate(p, result ? uint.MaxValue : 0, mask);
    }
}

internal sealed unsafe class MatchLanes(bool all, Target to, int p, Source of, Source members) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        warp.Row(of, mask);
        uint* member = (uint*)warp.Row(members, mask);
        WarpInstructions.CheckMembers(warp, mask, member[BitOperations.TrailingZeroCount(mask)]);
        uint same = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            same = 0;
            for (uint others = mask; others != 0; others &= others - 1)
            {
                int other = BitOperations.TrailingZeroCount(others);
                if (warp.Lane(of, other) == warp.Lane(of, lane))
                    same |= 1U << other;
            }

            warp.SetLane(to, lane, !all || same == mask ? same : 0);
        }

        warp.Written[to.Slot] |= mask;
        warp.SetPredicate(p, same == mask ? uint.MaxValue : 0, mask);
    }
}

internal sealed unsafe class ReduceLanes(Target to, Source from, Source members, Func<ulong, ulong, ulong> op) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        warp.Row(from, mask);
        uint* member = (uint*)warp.Row(members, mask);
        int first = BitOperations.TrailingZeroCount(mask);
        WarpInstructions.CheckMembers(warp, mask, member[first]);
        ulong result = warp.Lane(from, first);
        for (uint lanes = mask & (mask - 1); lanes != 0; lanes &= lanes - 1)
            result = op(result, warp.Lane(from, BitOperations.TrailingZeroCount(lanes)));
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            warp.SetLane(to, BitOperations.TrailingZeroCount(lanes), result);
        warp.Written[to.Slot] |= mask;
    }
}

internal sealed unsafe class ActiveLanes(Target to) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            warp.SetLane(to, BitOperations.TrailingZeroCount(lanes), mask);
        warp.Written[to.Slot] |= mask;
    }
}

internal sealed unsafe class ElectLane(Target to, int p, Source members) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        uint* member = (uint*)warp.Row(members, mask);
        int leader = BitOperations.TrailingZeroCount(mask);
        WarpInstructions.CheckMembers(warp, mask, member[leader]);
        if (to.Offset >= 0)
        {
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                warp.SetLane(to, BitOperations.TrailingZeroCount(lanes), (ulong)leader);
            warp.Written[to.Slot] |= mask;
        }

        warp.SetPredicate(p, 1U << leader, mask);
    }
}
