using System.Runtime.Intrinsics;
using Qwen.Emulation.Numbers;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary><c>setp</c>, <c>set</c>, <c>selp</c>, <c>slct</c> (PTX ISA, "Comparison and Selection Instructions").</summary>
internal static class Comparisons
{
    public static Instruction SetPredicate(Decoder d)
    {
        string relation = d.TakeAny("eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
            ?? throw d.Error("the comparison is missing.");
        string? logic = d.TakeAny("and", "or", "xor");
        bool flush = d.Take("ftz");
        PtxType type = d.TakeType();
        d.Expect(logic is null ? 3 : 4);
        (int p, int q) = d.At(0) is PairOperand pair ? (d.WritePredicate(pair.First), d.WritePredicate(pair.Second)) : (d.WritePredicate(d.At(0)), -1);
        PredicateSource c = logic is null ? new(-1, false) : d.ReadPredicate(3);
        Func<uint, uint, uint> combine = logic switch
        {
            "or" => (a, b) => a | b,
            "xor" => (a, b) => a ^ b,
            _ => (a, b) => a & b,
        };
        Source x = d.Read(1, type), y = d.Read(2, type);
        switch (type.Name)
        {
            case "f32":
                VectorCompare<float> compare = Floats<float>(relation, d);
                return new Compare<float>(p, q, x, y, flush ? (a, b) => compare(FloatInstructions.Flush(a), FloatInstructions.Flush(b)) : compare, combine, c);
            case "f64":
                return new Compare<double>(p, q, x, y, Floats<double>(relation, d), combine, c);
            case "f16" or "bf16" or "f16x2" or "bf16x2":
                VectorCompare<float> half = Floats<float>(relation, d);
                VectorCompare<uint> low = type.Name[0] == 'f' ? (a, b) => half(F16.Widen(a), F16.Widen(b)).AsUInt32() : (a, b) => half(BF16.Widen(a), BF16.Widen(b)).AsUInt32();
                return type.Bits == 16
                    ? new Compare<uint>(p, q, x, y, low, combine, c)
                    : new ComparePair(p, q, x, y, low, combine, c);
        }

        return (type.Bits, type.IsSigned) switch
        {
            (32, true) => new Compare<int>(p, q, x, y, Integers<int>(relation, d), combine, c),
            (32, false) => new Compare<uint>(p, q, x, y, Integers<uint>(relation, d), combine, c),
            (64, true) => new Compare<long>(p, q, x, y, Integers<long>(relation, d), combine, c),
            (64, false) => new Compare<ulong>(p, q, x, y, Integers<ulong>(relation, d), combine, c),
            (16, false) => new Compare<uint>(p, q, x, y, Integers<uint>(relation, d), combine, c),
            (16, true) => Short(Integers<int>(relation, d)),
            _ => throw d.Error($"the type .{type.Name} is not known here."),
        };

        Compare<int> Short(VectorCompare<int> compare) => new(p, q, x, y, (a, b) => compare(Extend(a), Extend(b)), combine, c);
    }

    public static Instruction SelectByPredicate(Decoder d)
    {
        PtxType type = d.TakeType();
        d.Expect(4);
        Target to = d.Write(0, type);
        Source a = d.Read(1, type), b = d.Read(2, type);
        return type.Bits == 64 ? new Select<ulong>(to, a, b, d.ReadPredicate(3)) : new Select<uint>(to, a, b, d.ReadPredicate(3));
    }

    /// <summary><c>slct</c>: a where c is not negative, else b.</summary>
    public static Instruction SelectBySign(Decoder d)
    {
        d.Take("ftz");
        PtxType[] types = d.TakeTypes();
        d.Expect(4);
        if (types is not [var type, { Name: "s32" or "f32" } by])
            throw d.Error("the instruction needs two types, the second .s32 or .f32.");
        return new PerLane(d.Write(0, type), [d.Read(1, type), d.Read(2, type), d.Read(3, by)], (a, b, c, _) =>
            (by.Name == "s32" ? (int)c >= 0 : BitConverter.UInt32BitsToSingle((uint)c) >= 0) ? a : b);
    }

    private static Vector512<int> Extend(Vector512<int> value) => Vector512.ShiftRightArithmetic(Vector512.ShiftLeft(value, 16), 16);

    private static VectorCompare<T> Integers<T>(string relation, Decoder d) => relation switch
    {
        "eq" => Vector512.Equals,
        "ne" => (a, b) => ~Vector512.Equals(a, b),
        "lt" or "lo" => Vector512.LessThan,
        "le" or "ls" => Vector512.LessThanOrEqual,
        "gt" or "hi" => Vector512.GreaterThan,
        "ge" or "hs" => Vector512.GreaterThanOrEqual,
        _ => throw d.Error($"the comparison .{relation} is of floating-point numbers."),
    };

    private static VectorCompare<T> Floats<T>(string relation, Decoder d)
    {
        return relation switch
        {
            "eq" => Vector512.Equals,
            "ne" => (a, b) => ~Vector512.Equals(a, b) & Numbers(a, b),
            "lt" => Vector512.LessThan,
            "le" => Vector512.LessThanOrEqual,
            "gt" => Vector512.GreaterThan,
            "ge" => Vector512.GreaterThanOrEqual,
            "equ" => (a, b) => Vector512.Equals(a, b) | ~Numbers(a, b),
            "neu" => (a, b) => ~Vector512.Equals(a, b),
            "ltu" => (a, b) => ~Vector512.GreaterThanOrEqual(a, b),
            "leu" => (a, b) => ~Vector512.GreaterThan(a, b),
            "gtu" => (a, b) => ~Vector512.LessThanOrEqual(a, b),
            "geu" => (a, b) => ~Vector512.LessThan(a, b),
            "num" => Numbers,
            "nan" => (a, b) => ~Numbers(a, b),
            _ => throw d.Error($"the comparison .{relation} is of integers."),
        };

        static Vector512<T> Numbers(Vector512<T> a, Vector512<T> b) => Vector512.Equals(a, a) & Vector512.Equals(b, b);
    }
}

/// <summary><c>setp.f16x2</c>: p of the low halves, q of the high ones.</summary>
internal sealed unsafe class ComparePair(int p, int q, Source a, Source b, VectorCompare<uint> compare, Func<uint, uint, uint> combine, PredicateSource c) : Instruction
{
    public override void Execute(Execution.Warp warp, uint mask)
    {
        uint* x = (uint*)warp.Row(a, mask), y = (uint*)warp.Row(b, mask);
        uint low = 0, high = 0;
        for (int i = 0; i < 32; i += 16)
        {
            Vector512<uint> u = Vector512.Load(x + i), v = Vector512.Load(y + i);
            low |= (uint)Vector512.ExtractMostSignificantBits(compare(u, v)) << i;
            high |= (uint)Vector512.ExtractMostSignificantBits(compare(Vector512.ShiftRightLogical(u, 16), Vector512.ShiftRightLogical(v, 16))) << i;
        }

        uint with = warp.Predicate(c, mask);
        warp.SetPredicate(p, combine(low, with), mask);
        warp.SetPredicate(q, combine(high, with), mask);
    }
}
