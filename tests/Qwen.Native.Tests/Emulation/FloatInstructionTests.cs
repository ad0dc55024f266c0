using System.Runtime.Intrinsics;
using Qwen.Emulation.Numbers;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Floating-point instructions against C#; roundings bit for bit.</summary>
public sealed class FloatInstructionTests
{
    private static readonly float[] _edges = [0, -0f, 1, -1, float.PositiveInfinity, float.NegativeInfinity, float.NaN, float.Epsilon, 1e-40f, -1e-39f, float.MaxValue, float.MinValue, 65504, 65520, 6e-8f, 3e-8f, 448, 464, 0.5f, 1.5f, 2.5f, -2.5f, 1e10f, -1e10f];

    private static readonly Dictionary<string, Func<float, float, float, float>> _operations = new()
    {
        ["add.f32 %f4, %f1, %f2;"] = (a, b, _) => a + b,
        ["sub.rn.f32 %f4, %f1, %f2;"] = (a, b, _) => a - b,
        ["mul.f32 %f4, %f1, %f2;"] = (a, b, _) => a * b,
        ["mul.ftz.f32 %f4, %f1, %f2;"] = (a, b, _) => Flush(Flush(a) * Flush(b)),
        ["fma.rn.f32 %f4, %f1, %f2, %f3;"] = MathF.FusedMultiplyAdd,
        ["fma.rn.ftz.f32 %f4, %f1, %f2, %f3;"] = (a, b, c) => Flush(MathF.FusedMultiplyAdd(Flush(a), Flush(b), Flush(c))),
        ["fma.rn.sat.f32 %f4, %f1, %f2, %f3;"] = (a, b, c) => MathF.FusedMultiplyAdd(a, b, c) is var v && float.IsNaN(v) ? 0 : Math.Clamp(v, 0, 1),
        ["div.rn.f32 %f4, %f1, %f2;"] = (a, b, _) => a / b,
        ["rcp.approx.ftz.f32 %f4, %f1;"] = (a, _, _) => Flush(1 / Flush(a)),
        ["sqrt.rn.f32 %f4, %f1;"] = (a, _, _) => MathF.Sqrt(a),
        ["rsqrt.approx.f32 %f4, %f1;"] = (a, _, _) => (float)(1 / Math.Sqrt(a)),
        ["ex2.approx.f32 %f4, %f1;"] = (a, _, _) => (float)Math.Pow(2, a),
        ["lg2.approx.f32 %f4, %f1;"] = (a, _, _) => (float)Math.Log2(a),
        ["tanh.approx.f32 %f4, %f1;"] = (a, _, _) => (float)Math.Tanh(a),
        ["min.f32 %f4, %f1, %f2;"] = (a, b, _) => float.MinNumber(a, b),
        ["max.f32 %f4, %f1, %f2;"] = (a, b, _) => float.MaxNumber(a, b),
        ["max.NaN.f32 %f4, %f1, %f2;"] = (a, b, _) => Math.Max(a, b),
        ["abs.f32 %f4, %f1;"] = (a, _, _) => MathF.Abs(a),
        ["neg.f32 %f4, %f1;"] = (a, _, _) => -a,
        ["copysign.f32 %f4, %f1, %f2;"] = (a, b, _) => MathF.CopySign(b, a),
        ["cvt.rni.f32.f32 %f4, %f1;"] = (a, _, _) => MathF.Round(a, MidpointRounding.ToEven),
        ["cvt.rmi.f32.f32 %f4, %f1;"] = (a, _, _) => MathF.Floor(a),
        ["cvt.rn.f16.f32 %h1, %f1; cvt.f32.f16 %f4, %h1;"] = (a, _, _) => (float)(Half)a,
        ["cvt.rn.bf16.f32 %h1, %f1; cvt.f32.bf16 %f4, %h1;"] = (a, _, _) => Bf16(a),
        ["cvt.rz.f16.f32 %h1, %f1; cvt.f32.f16 %f4, %h1;"] = (a, _, _) => (Half)a is var h && Math.Abs((float)h) > Math.Abs(a) ? (float)(a > 0 ? Half.BitDecrement(h) : Half.BitIncrement(h)) : (float)h,
        ["cvt.rzi.s32.f32 %r9, %f1; cvt.rn.f32.s32 %f4, %r9;"] = (a, _, _) => (int)a,
        ["cvt.rni.s8.f32 %r9, %f1; cvt.rn.f32.s32 %f4, %r9;"] = (a, _, _) => float.IsNaN(a) ? 0 : (int)Math.Clamp(MathF.Round(a), -128, 127),
        ["cvt.rzi.u32.f32 %r9, %f1; cvt.rn.f32.u32 %f4, %r9;"] = (a, _, _) => (uint)a,
        ["setp.lt.f32 %p1, %f1, %f2; selp.f32 %f4, %f1, %f3, %p1;"] = (a, b, c) => a < b ? a : c,
        ["setp.neu.f32 %p1, %f1, %f2; selp.f32 %f4, %f1, %f3, %p1;"] = (a, b, c) => a != b ? a : c,
        ["setp.ne.f32 %p1, %f1, %f2; selp.f32 %f4, %f1, %f3, %p1;"] = (a, b, c) => a < b || a > b ? a : c,
        ["setp.nan.f32 %p1, %f1, %f2; selp.f32 %f4, 0f3f800000, %f3, %p1;"] = (a, b, c) => float.IsNaN(a) || float.IsNaN(b) ? 1 : c,
        ["testp.finite.f32 %p1, %f1; selp.f32 %f4, %f2, %f3, %p1;"] = (a, b, c) => float.IsFinite(a) ? b : c,
        ["cvt.f64.f32 %d1, %f1; cvt.f64.f32 %d2, %f2; cvt.f64.f32 %d3, %f3; fma.rn.f64 %d4, %d1, %d2, %d3; cvt.rn.f32.f64 %f4, %d4;"] = (a, b, c) => (float)Math.FusedMultiplyAdd((double)a, b, c),
        ["cvt.rn.satfinite.e4m3x2.f32 %h1, %f2, %f1; cvt.rn.f16x2.e4m3x2 %r9, %h1; mov.b32 {%h2, %h3}, %r9; cvt.f32.f16 %f4, %h2;"] = (a, _, _) => Nearest(a, Float8.E4M3, 448),
        ["cvt.rn.satfinite.e5m2x2.f32 %h1, %f1, %f2; cvt.rn.f16x2.e5m2x2 %r9, %h1; mov.b32 {%h2, %h3}, %r9; cvt.f32.f16 %f4, %h3;"] = (a, _, _) => Nearest(a, Float8.E5M2, 57344),
    };

    public static TheoryData<string> Bodies => [.. _operations.Keys];

    [Theory]
    [MemberData(nameof(Bodies))]
    public void Instruction_RoundsAsItsDefinitionSays(string body)
    {
        Random random = new(11);
        for (int round = 0; round < 6; round++)
        {
            float[][] inputs = [.. Enumerable.Range(0, 3).Select(_ => Enumerable.Range(0, 32).Select(_ => Number(random)).ToArray())];
            uint[] results = Machine.Words("mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;\n" + body + "\nmov.b32 %r101, %f4;",
                [.. inputs.Select(i => i.Select(BitConverter.SingleToUInt32Bits).ToArray())])[0];
            for (int lane = 0; lane < 32; lane++)
            {
                float expected = _operations[body](inputs[0][lane], inputs[1][lane], inputs[2][lane]), got = BitConverter.UInt32BitsToSingle(results[lane]);
                bool same = float.IsNaN(expected) ? float.IsNaN(got) : BitConverter.SingleToUInt32Bits(expected) == results[lane];
                Assert.True(same, $"{body}: {inputs[0][lane]:g9}, {inputs[1][lane]:g9}, {inputs[2][lane]:g9} gave {got:g9} instead of {expected:g9}");
            }
        }
    }

    [Fact]
    public void Half_WidensAndNarrows_EveryCodeAndRandomFloats()
    {
        for (uint code = 0; code < 65536; code += 16)
        {
            Vector512<uint> codes = Vector512.Create(code) + Vector512<uint>.Indices;
            Vector512<float> wide = F16.Widen(codes);
            for (int i = 0; i < 16; i++)
            {
                float expected = (float)BitConverter.UInt16BitsToHalf((ushort)(code + (uint)i));
                Assert.True(float.IsNaN(expected) ? float.IsNaN(wide[i]) : expected.Equals(wide[i]) && float.IsNegative(expected) == float.IsNegative(wide[i]));
            }
        }

        Random random = new(3);
        for (int i = 0; i < 200_000; i++)
        {
            float value = BitConverter.UInt32BitsToSingle((uint)random.NextInt64(1L << 32));
            if (i % 2 == 0)
                value = (float)((random.NextDouble() - 0.5) * Math.Pow(2, random.Next(-26, 17)));
            ushort expected = float.IsNaN(value) ? (ushort)0x7fff : BitConverter.HalfToUInt16Bits((Half)value);
            Assert.Equal(expected, F16.Narrow(Vector512.Create(value))[0]);
        }
    }

    /// <summary>fma of 16-bit formats against the exact sum in 512-bit integers.</summary>
    [Theory]
    [InlineData("f16", 10, -24, 15)]
    [InlineData("bf16", 7, -133, 127)]
    public void HalfFma_RoundsTheExactSumOnce(string type, int mantissa, int least, int most)
    {
        Random random = new(5);
        for (int round = 0; round < 200; round++)
        {
            uint[][] inputs = [.. Enumerable.Range(0, 3).Select(_ => Enumerable.Range(0, 32).Select(_ => Pair(random, type, round)).ToArray())];
            uint[][] results = Machine.Words($"fma.rn.{type}x2 %r101, %r1, %r2, %r3;\nmov.b32 {{%h1, %h2}}, %r1; mov.b32 {{%h3, %h4}}, %r2; mov.b32 {{%h5, %h6}}, %r3;\n" +
                $"fma.rn.{type} %h7, %h2, %h4, %h6;\ncvt.u32.u16 %r102, %h7;", inputs, 2);
            for (int lane = 0; lane < 32; lane++)
            {
                for (int half = 0; half < 2; half++)
                {
                    double[] values = [.. inputs.Select(i => Value((ushort)(i[lane] >> (16 * half)), type))];
                    ushort expected = ExactFma(values[0], values[1], values[2], type, mantissa, least, most), got = (ushort)(results[0][lane] >> (16 * half));
                    Assert.True(expected == got, $"{type}: {values[0]:r} * {values[1]:r} + {values[2]:r} gave 0x{got:x4} instead of 0x{expected:x4}");
                    if (half == 1)
                        Assert.Equal(got, results[1][lane]);
                }
            }
        }
    }

    [Theory]
    [InlineData("add.f16x2 %r101, %r1, %r2;", "f16")]
    [InlineData("sub.f16x2 %r101, %r1, %r2;", "f16")]
    [InlineData("mul.f16x2 %r101, %r1, %r2;", "f16")]
    [InlineData("max.f16x2 %r101, %r1, %r2;", "f16")]
    [InlineData("add.bf16x2 %r101, %r1, %r2;", "bf16")]
    [InlineData("mul.bf16x2 %r101, %r1, %r2;", "bf16")]
    [InlineData("min.bf16x2 %r101, %r1, %r2;", "bf16")]
    public void HalfArithmetic_RoundsOnce(string body, string type)
    {
        Random random = new(9);
        for (int round = 0; round < 50; round++)
        {
            uint[][] inputs = [.. Enumerable.Range(0, 2).Select(_ => Enumerable.Range(0, 32).Select(_ => Pair(random, type, round)).ToArray())];
            uint[] results = Machine.Words(body, inputs)[0];
            for (int lane = 0; lane < 32; lane++)
            {
                for (int half = 0; half < 2; half++)
                {
                    double a = Value((ushort)(inputs[0][lane] >> (16 * half)), type), b = Value((ushort)(inputs[1][lane] >> (16 * half)), type);
                    double exact = body[..3] switch
                    {
                        "add" => a + b,
                        "sub" => a - b,
                        "mul" => a * b,
                        "max" => double.MaxNumber(a, b),
                        _ => double.MinNumber(a, b),
                    };
                    ushort expected = Round(exact, type), got = (ushort)(results[lane] >> (16 * half));
                    Assert.True(expected == got, $"{body}: {a:r}, {b:r} gave 0x{got:x4} instead of 0x{expected:x4}");
                }
            }
        }
    }

    private static float Number(Random random) => random.Next(4) switch
    {
        0 => _edges[random.Next(_edges.Length)],
        1 => BitConverter.UInt32BitsToSingle((uint)random.NextInt64(1L << 32)),
        _ => (float)((random.NextDouble() - 0.5) * Math.Pow(2, random.Next(-20, 20))),
    };

    private static float Flush(float value) => float.IsSubnormal(value) ? MathF.CopySign(0, value) : value;

    private static float Bf16(float value)
    {
        if (!float.IsFinite(value))
            return value;
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return BitConverter.UInt32BitsToSingle((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
    }

    private static float Nearest(float value, Float8 format, float largest)
    {
        if (float.IsNaN(value))
            return value;
        float magnitude = Math.Min(Math.Abs(value), largest), best = 0;
        for (int code = 0; code < 128; code++)
        {
            float candidate = format.Values[code];
            if (!float.IsFinite(candidate) || candidate > largest)
                continue;
            double distance = Math.Abs(candidate - (double)magnitude), before = Math.Abs(best - (double)magnitude);
            if (distance < before || (distance == before && code % 2 == 0))
                best = candidate;
        }

        return MathF.CopySign(best, value);
    }

    private static uint Pair(Random random, string type, int round)
    {
        uint Code()
        {
            // Every other round has nearby exponents, so that sums cancel and tie.
            uint code = (uint)random.Next(65536);
            if (round % 2 == 0)
                code = type == "f16" ? (code & 0x83ff) | (uint)random.Next(12, 18) << 10 : (code & 0x807f) | (uint)random.Next(120, 133) << 7;
            else if (random.Next(8) == 0)
                code &= 0x8007;
            return code;
        }

        return Code() | (Code() << 16);
    }

    private static double Value(ushort code, string type) =>
        type == "f16" ? (double)BitConverter.UInt16BitsToHalf(code) : BitConverter.UInt32BitsToSingle((uint)code << 16);

    private static ushort Round(double exact, string type)
    {
        if (double.IsNaN(exact))
            return 0x7fff;
        if (type == "f16")
            return BitConverter.HalfToUInt16Bits((Half)exact);
        return ExactFma(exact, 1, 0, type, 7, -133, 127) is var code && exact == 0 && double.IsNegative(exact) ? (ushort)0x8000 : code;
    }

    /// <summary>Scales everything to integers, adds, and rounds by hand.</summary>
    private static ushort ExactFma(double a, double b, double c, string type, int mantissa, int least, int most)
    {
        if (!double.IsFinite(a) || !double.IsFinite(b) || !double.IsFinite(c))
        {
            double special = (a * b) + c;
            return double.IsNaN(special) ? (ushort)0x7fff : (ushort)((special < 0 ? 0x8000 : 0) | (type == "f16" ? 0x7c00 : 0x7f80));
        }

        const int Shift = 600;
        System.Numerics.BigInteger sum = (Integer(a, Shift) * Integer(b, Shift)) + (Integer(c, Shift) << Shift);
        if (sum.IsZero)
        {
            bool negative = double.IsNegative(a) != double.IsNegative(b) && double.IsNegative(c);
            return negative ? (ushort)0x8000 : (ushort)0;
        }

        System.Numerics.BigInteger magnitude = System.Numerics.BigInteger.Abs(sum);
        int exponent = (int)magnitude.GetBitLength() - 1 - (2 * Shift);
        int last = Math.Max(exponent - mantissa, least), drop = last + (2 * Shift);
        System.Numerics.BigInteger units = magnitude >> drop, rest = magnitude - (units << drop), half = System.Numerics.BigInteger.One << (drop - 1);
        if (rest > half || (rest == half && !units.IsEven))
            units++;
        double value = (double)units * Math.Pow(2, last);
        int sign = sum.Sign < 0 ? 0x8000 : 0;
        if (value >= Math.Pow(2, most + 1))
            return (ushort)(sign | (type == "f16" ? 0x7c00 : 0x7f80));
        return type == "f16" ? (ushort)(sign | BitConverter.HalfToUInt16Bits((Half)value)) : (ushort)(sign | (int)(BitConverter.SingleToUInt32Bits((float)value) >> 16));
    }

    private static System.Numerics.BigInteger Integer(double value, int shift)
    {
        long bits = BitConverter.DoubleToInt64Bits(value);
        int exponent = (int)(bits >> 52 & 0x7ff);
        long fraction = (bits & ((1L << 52) - 1)) | (exponent == 0 ? 0 : 1L << 52);
        int at = Math.Max(exponent, 1) - 1075 + shift;
        System.Numerics.BigInteger result = at >= 0 ? (System.Numerics.BigInteger)fraction << at : (System.Numerics.BigInteger)fraction >> -at;
        return bits < 0 ? -result : result;
    }
}
