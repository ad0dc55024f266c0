using System.Runtime.Intrinsics;
using Qwen.Emulation.Numbers;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary><c>cvt</c>: every pair of types has one meaning: the source's exact value, rounded once to the destination.</summary>
internal static class Conversions
{
    public static Instruction Convert(Decoder d)
    {
        PtxType[] types = d.TakeTypes();
        if (types.Length != 2)
            throw d.Error("a conversion needs two types.");
        (PtxType to, PtxType from) = (types[0], types[1]);
        string? rounding = d.TakeAny("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna");
        bool flush = d.Take("ftz"), saturate = d.Take("sat"), finite = d.Take("satfinite"), relu = d.Take("relu");
        if (to.Name.EndsWith("x2", StringComparison.Ordinal))
            return Pair(d, to, from, rounding, finite, relu);
        d.Expect(2);
        Target target = d.Write(0, to, wider: true);
        Source source = d.Read(1, from, wider: true);
        bool exactWidth = target.Bits == to.Bits && source.Bits == from.Bits;
        if (exactWidth && !saturate && !flush && !relu && !finite && Fast(to.Name, from.Name, rounding, target, source, d.Layout.Zero) is { } fast)
            return fast;
        if (to.Kind != TypeKind.Float && from.Kind != TypeKind.Float)
            return Integers(target, source, to, from, saturate);
        if (from.Kind == TypeKind.Float && to.Kind != TypeKind.Float && rounding is not ("rni" or "rzi" or "rmi" or "rpi"))
            throw d.Error("a conversion to an integer needs .rni, .rzi, .rmi or .rpi.");
        if (from.Kind != TypeKind.Float && rounding is not ("rn" or "rz" or "rm" or "rp"))
            throw d.Error("a conversion from an integer needs a rounding.");
        if (from.Kind == TypeKind.Float && to.Kind == TypeKind.Float && to.Bits < from.Bits && rounding is null)
            throw d.Error("a conversion to a narrower format needs a rounding.");

        Func<ulong, double> read = Reader(from, flush);
        Func<double, ulong> write = Writer(to, rounding ?? "rn", flush, finite, d);
        return new PerLane(target, [source], (a, _, _, _) =>
        {
            double value = read(a);
            if (saturate)
                value = double.IsNaN(value) ? 0 : to.Kind == TypeKind.Float ? Math.Clamp(value, 0, 1) : value;
            if (relu && !(value > 0) && !double.IsNaN(value))
                value = 0;
            return write(value);
        });
    }

    private static Instruction? Fast(string to, string from, string? rounding, Target target, Source source, Source zero) => (to, from, rounding) switch
    {
        ("f32", "s32", "rn") => new Elementwise<uint>(target, source, zero, zero, (a, _, _) => Vector512.ConvertToSingle(a.AsInt32()).AsUInt32()),
        ("f32", "f16", null) => new Elementwise<uint>(target, source, zero, zero, (a, _, _) => F16.Widen(a).AsUInt32()),
        ("f32", "bf16", null) => new Elementwise<uint>(target, source, zero, zero, (a, _, _) => BF16.Widen(a).AsUInt32()),
        ("f16", "f32", "rn") => new Elementwise<uint>(target, source, zero, zero, (a, _, _) => F16.Narrow(a.AsSingle())),
        ("bf16", "f32", "rn") => new Elementwise<uint>(target, source, zero, zero, (a, _, _) => BF16.Narrow(a.AsSingle())),
        ("u64" or "s64", "u32", null) => new Widening(target, source, zero, zero, false, (a, _, _) => a),
        ("u64" or "s64", "s32", null) => new Widening(target, source, zero, zero, true, (a, _, _) => a),
        _ => null,
    };

    private static PerLane Integers(Target target, Source source, PtxType to, PtxType from, bool saturate)
    {
        return new(target, [source], (a, _, _, _) =>
        {
            ulong low = a & IntegerInstructions.Mask(from.Bits);
            Int128 value = from.IsSigned ? IntegerInstructions.Signed(low, from.Bits) : (Int128)low;
            if (saturate)
                value = Int128.Clamp(value, Least(to), Most(to));
            ulong result = (ulong)(UInt128)value & IntegerInstructions.Mask(to.Bits);
            return to.IsSigned ? (ulong)IntegerInstructions.Signed(result, to.Bits) : result;
        });
    }

    private static Int128 Least(PtxType type) => type.IsSigned ? -(Int128.One << (type.Bits - 1)) : 0;

    private static Int128 Most(PtxType type) => (Int128.One << (type.Bits - (type.IsSigned ? 1 : 0))) - 1;

    private static Func<ulong, double> Reader(PtxType type, bool flush) => type.Name switch
    {
        "f32" => a => Flushed(BitConverter.UInt32BitsToSingle((uint)a), flush),
        "f16" => a => (double)BitConverter.UInt16BitsToHalf((ushort)a),
        "bf16" => a => BitConverter.UInt32BitsToSingle((uint)a << 16),
        "f64" => BitConverter.UInt64BitsToDouble,
        "s64" or "u64" => a => type.IsSigned ? (long)a : (double)a,
        _ => a => type.IsSigned ? IntegerInstructions.Signed(a & IntegerInstructions.Mask(type.Bits), type.Bits) : (a & IntegerInstructions.Mask(type.Bits)),
    };

    private static Func<double, ulong> Writer(PtxType type, string rounding, bool flush, bool finite, Decoder d)
    {
        if (type.Kind != TypeKind.Float)
        {
            double least = (double)Least(type), most = (double)Most(type);
            return value =>
            {
                if (double.IsNaN(value))
                    return type.Bits == 64 ? 1UL << 63 : 0;
                double whole = ToInteger(value, rounding);
                Int128 clamped = whole <= least ? Least(type) : whole >= most ? Most(type) : (Int128)whole;
                return (ulong)(UInt128)clamped;
            };
        }

        if (rounding is "rni" or "rzi" or "rmi" or "rpi" && type.Name is "f32" or "f64" or "f16")
        {
            return type.Name switch
            {
                "f32" => value => BitConverter.SingleToUInt32Bits((float)ToInteger(value, rounding)),
                "f64" => value => BitConverter.DoubleToUInt64Bits(ToInteger(value, rounding)),
                _ => value => BitConverter.HalfToUInt16Bits((System.Half)ToInteger(value, rounding)),
            };
        }

        return type.Name switch
        {
            "f64" => BitConverter.DoubleToUInt64Bits,
            "f32" => value => BitConverter.SingleToUInt32Bits((float)Flushed(Directed(value, (float)value, rounding, f => (f > value, f < value), MathF.BitDecrement, MathF.BitIncrement), flush)),
            "f16" => value => double.IsNaN(value) ? 0x7ffful : BitConverter.HalfToUInt16Bits(Directed(value, Limit((System.Half)value, finite), rounding, h => ((double)h > value, (double)h < value), System.Half.BitDecrement, System.Half.BitIncrement)),
            "bf16" when rounding == "rn" => value => BF16.Narrow(Vector512.Create((float)value))[0],
            "bf16" when rounding == "rz" => value => double.IsNaN(value) ? 0x7ffful : BitConverter.SingleToUInt32Bits((float)value) >> 16,
            "tf32" when rounding is "rna" or "rn" => value => (BitConverter.SingleToUInt32Bits((float)value) + 0x1000) & 0xffffe000,
            _ => throw d.Error($"the conversion to .{type.Name} with .{rounding} is not known."),
        };

        static System.Half Limit(System.Half value, bool finite) => finite && System.Half.IsInfinity(value) ? (value > (System.Half)0 ? System.Half.MaxValue : System.Half.MinValue) : value;
    }

    private static T Directed<T>(double exact, T nearest, string rounding, Func<T, (bool Above, bool Below)> compare, Func<T, T> down, Func<T, T> up)
    {
        (bool above, bool below) = compare(nearest);
        return rounding switch
        {
            "rz" when above && exact > 0 => down(nearest),
            "rz" when below && exact < 0 => up(nearest),
            "rm" when above => down(nearest),
            "rp" when below => up(nearest),
            _ => nearest,
        };
    }

    private static double ToInteger(double value, string rounding) => rounding switch
    {
        "rzi" => Math.Truncate(value),
        "rmi" => Math.Floor(value),
        "rpi" => Math.Ceiling(value),
        _ => Math.Round(value, MidpointRounding.ToEven),
    };

    private static double Flushed(double value, bool flush) => flush && Math.Abs(value) < 1.1754943508222875e-38 ? Math.CopySign(0, value) : value;

    /// <summary>Two values into one register; the first source goes to the high half.</summary>
    private static Instruction Pair(Decoder d, PtxType to, PtxType from, string? rounding, bool finite, bool relu)
    {
        Source zero = d.Layout.Zero;
        if (from.Name is "e4m3x2" or "e5m2x2" && to.Name == "f16x2")
        {
            d.Expect(2);
            ReadOnlyMemory<float> values = (from.Name == "e4m3x2" ? Float8.E4M3 : Float8.E5M2).Values.ToArray();
            ulong Code(ulong a) => Relu(float.IsNaN(values.Span[(int)(a & 0xff)]) ? (ushort)0x7fff : BitConverter.HalfToUInt16Bits((System.Half)values.Span[(int)(a & 0xff)]), relu);
            return new PerLane(d.Write(0, PtxType.B32), [d.Read(1, PtxType.B16)], (a, _, _, _) => Code(a) | (Code(a >> 8) << 16));
        }

        if (rounding != "rn" && rounding != "rz")
            throw d.Error("the conversion needs .rn.");
        if (to.Name is "e4m3x2" or "e5m2x2")
        {
            if (!finite)
                throw d.Error("the conversion needs .satfinite.");
            Float8 format = to.Name == "e4m3x2" ? Float8.E4M3 : Float8.E5M2;
            ulong Encode(float value) => format.Encode(relu && value < 0 ? 0 : value);
            if (from.Name == "f16x2")
            {
                d.Expect(2);
                return new PerLane(d.Write(0, PtxType.B16), [d.Read(1, PtxType.B32)], (a, _, _, _) =>
                    Encode((float)BitConverter.UInt16BitsToHalf((ushort)a)) | (Encode((float)BitConverter.UInt16BitsToHalf((ushort)(a >> 16))) << 8));
            }

            d.Expect(3);
            return new PerLane(d.Write(0, PtxType.B16), [d.Read(1, from), d.Read(2, from)], (a, b, _, _) =>
                Encode(BitConverter.UInt32BitsToSingle((uint)b)) | (Encode(BitConverter.UInt32BitsToSingle((uint)a)) << 8));
        }

        if (from.Name != "f32" || rounding != "rn" || finite)
            throw d.Error($"the conversion from .{from.Name} to .{to.Name} is not known with these modifiers.");
        d.Expect(3);
        Source high = d.Read(1, from), low = d.Read(2, from);
        VectorOp<uint> narrow = to.Name == "f16x2" ? (a, _, _) => F16.Narrow(a.AsSingle()) : (a, _, _) => BF16.Narrow(a.AsSingle());
        return new Elementwise<uint>(d.Write(0, to), high, low, zero, (a, b, c) =>
        {
            if (relu)
            {
                a = Vector512.ConditionalSelect(Vector512.LessThan(a.AsSingle(), Vector512<float>.Zero).AsUInt32(), Vector512<uint>.Zero, a);
                b = Vector512.ConditionalSelect(Vector512.LessThan(b.AsSingle(), Vector512<float>.Zero).AsUInt32(), Vector512<uint>.Zero, b);
            }

            return narrow(b, c, c) | Vector512.ShiftLeft(narrow(a, c, c), 16);
        });
    }

    private static ulong Relu(ushort code, bool relu) => relu && code >= 0x8000 ? 0u : code;
}
