using System.Numerics;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Numbers;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary><c>atom</c> and <c>red</c>: lanes one after the other, upwards.</summary>
internal static class Atomics
{
    public static Instruction Decode(Decoder d, bool returns)
    {
        d.TakeAny("relaxed", "acquire", "release", "acq_rel");
        d.TakeAny("cta", "gpu", "sys", "cluster");
        StateSpace space = d.TakeAny("global", "shared", "shared::cta") switch
        {
            "global" => StateSpace.Global,
            null => StateSpace.Generic,
            _ => StateSpace.Shared,
        };
        string operation = d.TakeAny("add", "min", "max", "and", "or", "xor", "inc", "dec", "exch", "cas") ?? throw d.Error("the operation is missing.");
        int vector = d.TakeAny("v2", "v4") is { } v ? v[1] - '0' : 1;
        d.Take("noftz");
        PtxType type = d.TakeType();
        if (vector > 1 && (returns || type.Name != "f32" || operation != "add" || space != StateSpace.Global))
            throw d.Error("a vector is for red.global.add.f32 only.");
        int first = returns ? 1 : 0;
        d.Expect(first + (operation == "cas" ? 3 : 2));
        Source[] values = [.. d.Vector(first + 1).Select(o => d.Read(o, type))];
        if (values.Length != vector)
            throw d.Error($"{vector} values are expected.");
        Source with = operation == "cas" ? d.Read(first + 2, type) : d.Layout.Zero;
        return new Atomic(returns ? d.Write(0, type) : new(-1, -1, type.Bits), d.Addressing(first, space), values, with, type, operation == "cas", Operation(operation, type, d));
    }

    /// <summary>A function of what is there and what comes.</summary>
    public static Func<ulong, ulong, ulong> Operation(string name, PtxType type, Decoder d)
    {
        if (name is "exch" or "cas")
            return type.Bits is 16 or 32 or 64 && type.Kind == TypeKind.Bits ? (_, b) => b : throw d.Error("the operation is of .b32 or .b64.");
        if (type.Kind == TypeKind.Float)
        {
            return (name, type.Name) switch
            {
                ("add", "f32") => (a, b) => BitConverter.SingleToUInt32Bits(BitConverter.UInt32BitsToSingle((uint)a) + BitConverter.UInt32BitsToSingle((uint)b)),
                ("add", "f64") => (a, b) => BitConverter.DoubleToUInt64Bits(BitConverter.UInt64BitsToDouble(a) + BitConverter.UInt64BitsToDouble(b)),
                ("add", "f16" or "f16x2") => Pair((a, b, _) => F16.Narrow(F16.Widen(a) + F16.Widen(b))),
                ("add", "bf16" or "bf16x2") => Pair((a, b, _) => BF16.Narrow(BF16.Widen(a) + BF16.Widen(b))),
                _ => throw d.Error($"the operation .{name} of .{type.Name} is not known."),
            };
        }

        long Sign(ulong value) => IntegerInstructions.Signed(value, type.Bits);
        return name switch
        {
            "add" => (a, b) => unchecked(a + b),
            "min" when type.IsSigned => (a, b) => Sign(a) < Sign(b) ? a : b,
            "min" => Math.Min,
            "max" when type.IsSigned => (a, b) => Sign(a) > Sign(b) ? a : b,
            "max" => Math.Max,
            "and" => (a, b) => a & b,
            "or" => (a, b) => a | b,
            "xor" => (a, b) => a ^ b,
            "inc" => (a, b) => a >= b ? 0 : a + 1,
            _ => (a, b) => a == 0 || a > b ? b : a - 1,
        };
    }

    private static Func<ulong, ulong, ulong> Pair(VectorOp<uint> op) => (a, b) =>
    {
        Vector512<uint> low = op(Vector512.Create((uint)a), Vector512.Create((uint)b), default);
        Vector512<uint> high = op(Vector512.Create((uint)a >> 16), Vector512.Create((uint)b >> 16), default);
        return low[0] | (high[0] << 16);
    };
}

internal sealed unsafe class Atomic(Target to, Addressing at, Source[] values, Source with, PtxType type, bool exchange, Func<ulong, ulong, ulong> op) : Instruction
{
    public override bool OrdersBlocks => at.Space != StateSpace.Shared;

    public override Flow Flow => at.Space != StateSpace.Shared ? Flow.Yield : Flow.Next;

    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        at.Addresses(warp, mask, addresses);
        at.Count(warp, addresses, mask, type.Bytes * values.Length, write: true);
        warp.Row(with, mask);
        foreach (Source value in values)
            warp.Row(value, mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            for (int i = 0; i < values.Length; i++)
            {
                byte* place = at.Update(warp, addresses[lane] + (ulong)(i * type.Bytes), type.Bytes, lane, i == 0 ? type.Bytes * values.Length : 1);
                ulong old = type.Bytes switch
                {
                    2 => *(ushort*)place,
                    4 => *(uint*)place,
                    _ => *(ulong*)place,
                };
                ulong value = warp.Lane(values[i], lane);
                ulong result = exchange ? (old == value ? warp.Lane(with, lane) : old) : op(old, value);
                switch (type.Bytes)
                {
                    case 2:
                        *(ushort*)place = (ushort)result;
                        break;
                    case 4:
                        *(uint*)place = (uint)result;
                        break;
                    default:
                        *(ulong*)place = result;
                        break;
                }

                if (to.Offset >= 0)
                    warp.SetLane(to, lane, old);
            }
        }

        if (to.Offset >= 0)
            warp.Written[to.Slot] |= mask;
    }
}
