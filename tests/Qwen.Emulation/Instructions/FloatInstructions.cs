using System.Runtime.Intrinsics;
using Qwen.Emulation.Numbers;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>
/// Floating-point arithmetic (PTX ISA, "Floating Point Instructions" and "Half Precision Floating Point Instructions"). Roundings are to nearest
/// even, once. The <c>.approx</c> functions are computed in double precision and rounded: closer than hardware, which is allowed a few units.
/// </summary>
internal static class FloatInstructions
{
    private static readonly PtxType F32 = PtxType.Find("f32")!.Value;

    public static Instruction Add(Decoder d, PtxType type) => Arithmetic(d, type, 2, (a, b, _) => a + b, (a, b, _) => a + b);

    public static Instruction Subtract(Decoder d, PtxType type) => Arithmetic(d, type, 2, (a, b, _) => a - b, (a, b, _) => a - b);

    public static Instruction Multiply(Decoder d, PtxType type) => type.Name is "bf16" or "bf16x2"
        ? Half(d, type, 2, (a, b, _) => Halves.Fma<BF16>(a, b, Vector512.Create(0x8000u)))
        : Arithmetic(d, type, 2, (a, b, _) => a * b, (a, b, _) => a * b);

    public static Instruction Fma(Decoder d, PtxType type)
    {
        if (!d.Has("rn") && type.Name is "f32" or "f64" && !d.Has("rn"))
            throw d.Error("the rounding .rn is expected; others are not known.");
        return type.Name switch
        {
            "f16" or "f16x2" => Half(d, type, 3, Halves.Fma<F16>),
            "bf16" or "bf16x2" => Half(d, type, 3, Halves.Fma<BF16>),
            _ => Arithmetic(d, type, 3, Vector512.FusedMultiplyAdd, Math.FusedMultiplyAdd),
        };
    }

    public static Instruction Minimum(Decoder d, PtxType type) => d.Take("NaN")
        ? Arithmetic(d, type, 2, (a, b, _) => Canonical(Vector512.Min(a, b)), (a, b, _) => Math.Min(a, b))
        : Arithmetic(d, type, 2, (a, b, _) => Canonical(Vector512.MinNumber(a, b)), (a, b, _) => double.MinNumber(a, b));

    public static Instruction Maximum(Decoder d, PtxType type) => d.Take("NaN")
        ? Arithmetic(d, type, 2, (a, b, _) => Canonical(Vector512.Max(a, b)), (a, b, _) => Math.Max(a, b))
        : Arithmetic(d, type, 2, (a, b, _) => Canonical(Vector512.MaxNumber(a, b)), (a, b, _) => double.MaxNumber(a, b));

    public static Instruction Absolute(Decoder d, PtxType type) => type.Bits == 16 || type.Name.EndsWith("x2", StringComparison.Ordinal)
        ? Half(d, type, 1, (a, _, _) => a & Vector512.Create(0x7fffu)) : Arithmetic(d, type, 1, (a, _, _) => Vector512.Abs(a), (a, _, _) => Math.Abs(a));

    public static Instruction Negate(Decoder d, PtxType type) => type.Bits == 16 || type.Name.EndsWith("x2", StringComparison.Ordinal)
        ? Half(d, type, 1, (a, _, _) => a ^ Vector512.Create(0x8000u)) : Arithmetic(d, type, 1, (a, _, _) => -a, (a, _, _) => -a);

    public static Instruction Divide(Decoder d, PtxType type)
    {
        if (d.TakeAny("approx", "full", "rn") is null)
            throw d.Error("a division is .approx, .full or .rn.");
        return Arithmetic(d, type, 2, (a, b, _) => a / b, (a, b, _) => a / b);
    }

    public static Instruction Function(Decoder d, Func<double, double> function)
    {
        PtxType type = d.TakeType();
        if (d.TakeAny("approx", "rn") is null)
            throw d.Error("the function is .approx or .rn.");
        return Arithmetic(d, type, 1, (a, _, _) => Map(a, function), (a, _, _) => function(a));
    }

    public static Instruction SquareRoot(Decoder d)
    {
        d.TakeAny("approx", "rn");
        return Arithmetic(d, d.TakeType(), 1, (a, _, _) => Vector512.Sqrt(a), (a, _, _) => Math.Sqrt(a));
    }

    public static Instruction Reciprocal(Decoder d)
    {
        d.TakeAny("approx", "rn");
        return Arithmetic(d, d.TakeType(), 1, (a, _, _) => Vector512<float>.One / a, (a, _, _) => 1 / a);
    }

    public static Instruction CopySign(Decoder d)
    {
        PtxType type = d.TakeType();
        return Arithmetic(d, type, 2, (a, b, _) => Vector512.CopySign(b, a), (a, b, _) => Math.CopySign(b, a));
    }

    public static Instruction TestProperty(Decoder d)
    {
        string? property = d.TakeAny("finite", "infinite", "number", "notanumber", "normal", "subnormal");
        PtxType type = d.TakeType();
        d.Expect(2);
        if (type.Name != "f32")
            throw d.Error("only .f32 is known.");
        VectorCompare<float> test = property switch
        {
            "finite" => (a, _) => Vector512.IsFinite(a),
            "infinite" => (a, _) => Vector512.IsInfinity(a),
            "number" => (a, _) => ~Vector512.IsNaN(a),
            "notanumber" => (a, _) => Vector512.IsNaN(a),
            "normal" => (a, _) => Vector512.IsNormal(a),
            "subnormal" => (a, _) => Vector512.IsSubnormal(a),
            _ => throw d.Error("the property is missing."),
        };
        return new Compare<float>(d.WritePredicate(d.At(0)), -1, d.Read(1, type), d.Read(1, type), test, (a, _) => a, new(-1, false));
    }

    /// <summary>Subnormals become zeros of their sign.</summary>
    public static Vector512<float> Flush(Vector512<float> value)
    {
        Vector512<uint> bits = value.AsUInt32();
        Vector512<uint> tiny = Vector512.LessThan(bits & Vector512.Create(0x7fffffffu), Vector512.Create(0x00800000u));
        return Vector512.ConditionalSelect(tiny, bits & Vector512.Create(0x80000000u), bits).AsSingle();
    }

    private static Vector512<float> Canonical(Vector512<float> value) =>
        Vector512.ConditionalSelect(Vector512.Equals(value, value), value, Vector512.Create(0x7fffffffu).AsSingle());

    private static Vector512<float> Map(Vector512<float> value, Func<double, double> function)
    {
        for (int i = 0; i < 16; i++)
            value = value.WithElement(i, (float)function(value[i]));
        return value;
    }

    private static Instruction Arithmetic(Decoder d, PtxType type, int sources, VectorOp<float> op, Func<double, double, double, double> wide)
    {
        switch (type.Name)
        {
            case "f16" or "f16x2":
                return Half(d, type, sources, (a, b, c) => F16.Narrow(op(F16.Widen(a), F16.Widen(b), F16.Widen(c))));
            case "bf16" or "bf16x2":
                return Half(d, type, sources, (a, b, c) => BF16.Narrow(op(BF16.Widen(a), BF16.Widen(b), BF16.Widen(c))));
            case "f64":
                d.Take("rn");
                Source[] from = Sources(d, type, sources);
                return new PerLane(d.Write(0, type), from, (a, b, c, _) => BitConverter.DoubleToUInt64Bits(
                    wide(BitConverter.UInt64BitsToDouble(a), BitConverter.UInt64BitsToDouble(b), BitConverter.UInt64BitsToDouble(c))));
            case "f32":
                d.Take("rn");
                bool flush = d.Take("ftz"), saturate = d.Take("sat");
                VectorOp<float> inner = op;
                if (flush)
                    inner = (a, b, c) => Flush(op(Flush(a), Flush(b), Flush(c)));
                VectorOp<float> outer = inner;
                if (saturate)
                    outer = (a, b, c) => Vector512.MinNumber(Vector512.MaxNumber(inner(a, b, c), Vector512<float>.Zero), Vector512<float>.One);
                Source[] s = Sources(d, type, sources);
                return new Elementwise<float>(d.Write(0, type), s[0], sources > 1 ? s[1] : d.Layout.Zero, sources > 2 ? s[2] : d.Layout.Zero, outer);
            default:
                throw d.Error($"the type .{type.Name} is not known here.");
        }
    }

    private static Elementwise<uint> Half(Decoder d, PtxType type, int sources, VectorOp<uint> op)
    {
        bool f16 = type.Name.StartsWith("f16", StringComparison.Ordinal);
        d.Take("rn");
        bool flush = d.Take("ftz"), relu = d.Take("relu"), saturate = d.Take("sat");
        d.Take("noftz");
        VectorOp<uint> inner = op;
        if (flush)
            inner = (a, b, c) => FlushHalf(op(FlushHalf(a, f16), FlushHalf(b, f16), FlushHalf(c, f16)), f16);
        VectorOp<uint> outer = inner;
        if (relu || saturate)
            outer = (a, b, c) => Clamp(inner(a, b, c), relu, saturate, f16);
        if (type.Bits == 32)
            outer = f16 ? Halves.Pairs<F16>(outer) : Halves.Pairs<BF16>(outer);
        else
            outer = Low(outer);
        Source[] s = Sources(d, type, sources);
        return new(d.Write(0, type), s[0], sources > 1 ? s[1] : d.Layout.Zero, sources > 2 ? s[2] : d.Layout.Zero, outer);
    }

    private static VectorOp<uint> Low(VectorOp<uint> op) => (a, b, c) => op(a, b, c) & Vector512.Create(0xffffu);

    private static Vector512<uint> FlushHalf(Vector512<uint> code, bool f16)
    {
        Vector512<uint> tiny = Vector512.LessThan(code & Vector512.Create(0x7fffu), Vector512.Create(f16 ? 0x400u : 0x80u));
        return Vector512.ConditionalSelect(tiny, code & Vector512.Create(0x8000u), code);
    }

    /// <summary>relu: negative values and NaN to zero (NaN stays NaN: 0x7fff); sat: to [0, 1], NaN to zero.</summary>
    private static Vector512<uint> Clamp(Vector512<uint> code, bool relu, bool saturate, bool f16)
    {
        code &= Vector512.Create(0xffffu);
        Vector512<uint> negative = Vector512.GreaterThanOrEqual(code, Vector512.Create(0x8000u));
        uint infinity = f16 ? 0x7c00u : 0x7f80u, one = f16 ? 0x3c00u : 0x3f80u;
        if (relu)
            code = Vector512.ConditionalSelect(negative & Vector512.LessThanOrEqual(code, Vector512.Create(infinity | 0x8000)), Vector512<uint>.Zero, code);
        if (!saturate)
            return code;
        Vector512<uint> nan = Vector512.GreaterThan(code & Vector512.Create(0x7fffu), Vector512.Create(infinity));
        return Vector512.ConditionalSelect(negative | nan, Vector512<uint>.Zero, Vector512.Min(code, Vector512.Create(one)));
    }

    private static Source[] Sources(Decoder d, PtxType type, int count)
    {
        d.Expect(count + 1);
        return [.. Enumerable.Range(1, count).Select(i => d.Read(i, type))];
    }
}
