using System.Numerics;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Memory;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary><c>mov</c> and <c>cvta</c>.</summary>
internal static class Moves
{
    public static Instruction Move(Decoder d)
    {
        PtxType type = d.TakeType();
        d.Expect(2);
        if (type.Kind == TypeKind.Predicate)
            return new PredicateLogic(d.WritePredicate(d.At(0)), d.ReadPredicate(1), new(-1, false), (a, _) => a);
        if (d.At(1) is SpecialOperand { Name: "%clock" or "%clock_hi" or "%clock64" or "%globaltimer" } clock)
            return new ReadClock(d.Write(0, type), clock.Name == "%clock_hi");
        if (d.At(1) is VectorOperand from)
        {
            PtxType part = Part(d, type, from.Items.Count);
            return new Pack(d.Write(0, type), [.. from.Items.Select(i => d.Read(i, part))], part.Bits);
        }

        if (d.At(0) is VectorOperand to)
        {
            PtxType part = Part(d, type, to.Items.Count);
            return new Unpack([.. to.Items.Select(i => d.Write(i, part))], d.Read(1, type), part.Bits);
        }

        return Copy(d, type);
    }

    /// <summary>Addresses of a space to generic ones and back: global addresses are the same, shared and local ones lie in windows.</summary>
    public static Instruction ConvertAddress(Decoder d)
    {
        bool back = d.Take("to");
        string? space = d.TakeAny("global", "shared", "shared::cta", "local", "const", "param");
        PtxType type = d.TakeType();
        d.Expect(2);
        if (type.Bits != 64)
            throw d.Error("generic addresses have 64 bits.");
        ulong window = space switch
        {
            "shared" or "shared::cta" => GlobalMemory.SharedWindow,
            "local" => GlobalMemory.LocalWindow,
            null => throw d.Error("the state space is missing."),
            _ => 0,
        };
        if (window == 0)
            return Copy(d, type);
        return new Elementwise<ulong>(d.Write(0, type), d.Read(1, type), d.Layout.Zero, d.Layout.Zero, back
            ? (a, _, _) => a - Vector512.Create(window) : (a, _, _) => a + Vector512.Create(window));
    }

    private static Instruction Copy(Decoder d, PtxType type) => type.Bits == 64
        ? new Elementwise<ulong>(d.Write(0, type), d.Read(1, type), d.Layout.Zero, d.Layout.Zero, (a, _, _) => a)
        : new Elementwise<uint>(d.Write(0, type), d.Read(1, type), d.Layout.Zero, d.Layout.Zero, (a, _, _) => a);

    private static PtxType Part(Decoder d, PtxType type, int count) => (type.Bits, count) switch
    {
        (16, 2) => new(TypeKind.Bits, 8, "b8"),
        (32, 2) => PtxType.B16,
        (32, 4) => new(TypeKind.Bits, 8, "b8"),
        (64, 2) => PtxType.B32,
        (64, 4) => PtxType.B16,
        _ => throw d.Error($"{count} parts don't make a .{type.Name}."),
    };

    private sealed class Pack(Target to, Source[] from, int bits) : Instruction
    {
        public override void Execute(Warp warp, uint mask)
        {
            foreach (Source part in from)
            {
                unsafe
                {
                    warp.Row(part, mask);
                }
            }

            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                ulong value = 0;
                for (int i = from.Length - 1; i >= 0; i--)
                    value = (value << bits) | (warp.Lane(from[i], lane) & IntegerInstructions.Mask(bits));
                warp.SetLane(to, lane, value);
            }

            Written(warp, to, mask);
        }
    }

    private sealed unsafe class Unpack(Target[] to, Source from, int bits) : Instruction
    {
        public override void Execute(Warp warp, uint mask)
        {
            warp.Row(from, mask);
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
            {
                int lane = BitOperations.TrailingZeroCount(lanes);
                ulong value = warp.Lane(from, lane);
                for (int i = 0; i < to.Length; i++)
                {
                    if (to[i].Offset >= 0)
                        warp.SetLane(to[i], lane, value >> (bits * i) & IntegerInstructions.Mask(bits));
                }
            }

            foreach (Target part in to)
                Written(warp, part, mask);
        }
    }

    /// <summary>A clock that ticks once for each instruction of the warp.</summary>
    private sealed class ReadClock(Target to, bool high) : Instruction
    {
        public override void Execute(Warp warp, uint mask)
        {
            ulong ticks = (ulong)warp.Executed;
            for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
                warp.SetLane(to, BitOperations.TrailingZeroCount(lanes), high ? ticks >> 32 : ticks);
            Written(warp, to, mask);
        }
    }

    private static unsafe void Written(Warp warp, Target to, uint mask)
    {
        if (to.Offset >= 0)
            warp.Written[to.Slot] |= mask;
    }
}
