using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Instructions;

namespace Qwen.Emulation.Numbers;

/// <summary>A 16-bit floating-point format, on vectors of 32-bit lanes whose low half holds a code.</summary>
internal interface IHalf
{
    /// <summary>The values; exact. The high half of a lane is ignored.</summary>
    static abstract Vector512<float> Widen(Vector512<uint> codes);

    /// <summary>The nearest codes, ties to even, overflow to infinity, NaN to 0x7fff.</summary>
    static abstract Vector512<uint> Narrow(Vector512<float> values);

    /// <summary>Whether a product of two values is exact as a float, wherever it is neither huge nor tiny.</summary>
    static abstract string Name { get; }
}

/// <summary>IEEE half.</summary>
internal readonly struct F16 : IHalf
{
    public static string Name => "f16";

    public static Vector512<float> Widen(Vector512<uint> codes)
    {
        Vector512<uint> magnitude = Vector512.ShiftLeft(codes & Vector512.Create(0x7fffu), 13);
        Vector512<uint> sign = Vector512.ShiftLeft(codes & Vector512.Create(0x8000u), 16);

        // Exponents are 112 too small, subnormals included: a multiplication by 2^112 is exact and sets both right.
        Vector512<uint> scaled = (magnitude.AsSingle() * Vector512.Create(BitConverter.UInt32BitsToSingle((127 + 112) << 23))).AsUInt32();
        Vector512<uint> special = Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(0x7c00u << 13));
        return (scaled | (special & Vector512.Create(0x7f800000u)) | sign).AsSingle();
    }

    public static Vector512<uint> Narrow(Vector512<float> values)
    {
        Vector512<uint> bits = values.AsUInt32();
        Vector512<uint> magnitude = bits & Vector512.Create(0x7fffffffu);

        // A subnormal result: adding 0.5 puts its last bit at the float's last, so the addition rounds.
        Vector512<uint> small = (magnitude.AsSingle() + Vector512.Create(0.5f)).AsUInt32() - Vector512.Create(0x3f000000u);
        Vector512<uint> odd = Vector512.ShiftRightLogical(magnitude, 13) & Vector512<uint>.One;
        Vector512<uint> normal = Vector512.ShiftRightLogical(magnitude + Vector512.Create(unchecked(0xfffu - (112u << 23))) + odd, 13);
        Vector512<uint> result = Vector512.ConditionalSelect(Vector512.LessThan(magnitude, Vector512.Create(113u << 23)), small, normal);
        result = Vector512.ConditionalSelect(Vector512.GreaterThanOrEqual(magnitude, Vector512.Create(0x477ff000u)), Vector512.Create(0x7c00u), result);
        Vector512<uint> signed = result | Vector512.ShiftRightLogical(bits & Vector512.Create(0x80000000u), 16);
        return Vector512.ConditionalSelect(Vector512.GreaterThan(magnitude, Vector512.Create(0x7f800000u)), Vector512.Create(0x7fffu), signed);
    }
}

/// <summary>The upper half of a float.</summary>
internal readonly struct BF16 : IHalf
{
    public static string Name => "bf16";

    public static Vector512<float> Widen(Vector512<uint> codes) => Vector512.ShiftLeft(codes, 16).AsSingle();

    public static Vector512<uint> Narrow(Vector512<float> values)
    {
        Vector512<uint> bits = values.AsUInt32();
        Vector512<uint> odd = Vector512.ShiftRightLogical(bits, 16) & Vector512<uint>.One;
        Vector512<uint> result = Vector512.ShiftRightLogical(bits + Vector512.Create(0x7fffu) + odd, 16);
        Vector512<uint> magnitude = bits & Vector512.Create(0x7fffffffu);
        return Vector512.ConditionalSelect(Vector512.GreaterThan(magnitude, Vector512.Create(0x7f800000u)), Vector512.Create(0x7fffu), result);
    }
}

/// <summary>Arithmetic of 16-bit formats with one rounding, one value or a pair a lane.</summary>
internal static class Halves
{
    /// <summary>a * b + c, rounded once.</summary>
    /// <remarks>
    /// The product is exact as a float. The sum is rounded to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008): its last bit
    /// is set where anything was lost, so the second rounding, to 16 bits, sees what the exact sum would show it.
    /// </remarks>
    public static Vector512<uint> Fma<T>(Vector512<uint> a, Vector512<uint> b, Vector512<uint> c)
        where T : struct, IHalf
    {
        Vector512<float> x = T.Widen(a), y = T.Widen(b), z = T.Widen(c);
        Vector512<float> product = x * y, size = Vector512.Abs(product);
        Vector512<float> nonzero = ~(Vector512.Equals(x, Vector512<float>.Zero) | Vector512.Equals(y, Vector512<float>.Zero));
        Vector512<float> inexact = (Vector512.LessThan(size, Vector512.Create(1e-30f)) & nonzero) | Vector512.GreaterThan(size, Vector512.Create(1e36f));
        if (inexact.AsUInt32() != Vector512<uint>.Zero)
            return FmaExtreme<T>(x, y, z);
        Vector512<float> sum = product + z;
        Vector512<float> part = sum - product;
        Vector512<float> lost = (product - (sum - part)) + (z - part);
        return T.Narrow(ToOdd(sum, lost));
    }

    /// <summary>Does an operation of one or two floats to both halves of each lane.</summary>
    public static VectorOp<uint> Pairs<T>(VectorOp<uint> op)
        where T : struct, IHalf => (a, b, c) =>
            (op(a, b, c) & Vector512.Create(0xffffu))
            | Vector512.ShiftLeft(op(Vector512.ShiftRightLogical(a, 16), Vector512.ShiftRightLogical(b, 16), Vector512.ShiftRightLogical(c, 16)), 16);

    private static Vector512<float> ToOdd(Vector512<float> sum, Vector512<float> lost)
    {
        Vector512<uint> bits = sum.AsUInt32();
        Vector512<uint> even = Vector512.Equals(bits & Vector512<uint>.One, Vector512<uint>.Zero);
        Vector512<uint> finite = Vector512.LessThan(bits & Vector512.Create(0x7fffffffu), Vector512.Create(0x7f800000u));
        Vector512<uint> inexact = ~Vector512.Equals(lost, Vector512<float>.Zero).AsUInt32() & even & finite;
        Vector512<uint> away = Vector512.Equals((bits ^ lost.AsUInt32()) & Vector512.Create(0x80000000u), Vector512<uint>.Zero);
        Vector512<uint> step = (away & Vector512<uint>.One) | (~away & Vector512<uint>.AllBitsSet);
        return (bits + (inexact & step)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Vector512<uint> FmaExtreme<T>(Vector512<float> x, Vector512<float> y, Vector512<float> z)
        where T : struct, IHalf
    {
        Vector512<float> result = default;
        for (int i = 0; i < 16; i++)
        {
            double product = (double)x[i] * y[i], sum = product + z[i], part = sum - product;
            double lost = (product - (sum - part)) + (z[i] - part);
            if (double.IsFinite(sum) && lost != 0 && (BitConverter.DoubleToInt64Bits(sum) & 1) == 0)
                sum = lost > 0 ? Math.BitIncrement(sum) : Math.BitDecrement(sum);
            float value = (float)sum;
            if (float.IsFinite(value) && value != sum && (BitConverter.SingleToUInt32Bits(value) & 1) == 0)
                value = sum > value ? MathF.BitIncrement(value) : MathF.BitDecrement(value);
            result = result.WithElement(i, value);
        }

        return T.Narrow(result);
    }
}

