using System.Numerics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>Arithmetic over several words: <c>add.cc</c>, <c>addc</c>, <c>sub.cc</c>, <c>subc</c>. The carry is a predicate of its own.</summary>
internal sealed unsafe class Carry(Target to, Source a, Source b, int flag, bool subtract, bool takes, bool leaves) : Instruction
{
    public static bool Is(Decoder d) => d.Has("cc");

    public static Instruction Decode(Decoder d, bool subtract)
    {
        bool leaves = d.Take("cc");
        PtxType type = d.TakeType();
        d.Expect(3);
        if (type.Bits is not (32 or 64) || type.Kind == TypeKind.Float)
            throw d.Error("the numbers have 32 or 64 bits.");
        return new Carry(d.Write(0, type), d.Read(1, type), d.Read(2, type), d.Layout.Predicate(d.Scope.CarryFlag), subtract, d.Name is "addc" or "subc", leaves);
    }

    public override void Execute(Warp warp, uint mask)
    {
        warp.Row(a, mask);
        warp.Row(b, mask);
        uint before = takes ? warp.Predicate(new(flag, false), mask) : 0, after = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            UInt128 x = warp.Lane(a, lane), y = warp.Lane(b, lane), c = before >> lane & 1;
            UInt128 result = subtract ? unchecked(x - y - c) : x + y + c;
            warp.SetLane(to, lane, (ulong)(result & ulong.MaxValue));
            if ((result >> to.Bits & 1) != 0)
                after |= 1U << lane;
        }

        warp.Written[to.Slot] |= mask;
        if (leaves)
            warp.SetPredicate(flag, after, mask);
    }
}
