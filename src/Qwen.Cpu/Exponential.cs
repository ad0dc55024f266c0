using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>e^x in 16 lanes, within 2 units in the last place, with the same bits on every instruction set.</summary>
/// <remarks>
/// x = n ln 2 + r with |r| &lt;= ln 2 / 2 (Cody and Waite's two-part ln 2); e^r by its Taylor polynomial of degree 7, whose error is below
/// 2^-27; times 2^n by its exponent bits. Below -87.3 the result would be subnormal and is 0; above 88.7 it is infinity; NaN stays NaN.
/// </remarks>
internal static class Exponential
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Of(Vector512<float> x)
    {
        Vector512<float> clamped = Vector512.Min(Vector512.Max(x, Vector512.Create(-88f)), Vector512.Create(89f));
        // Adding 1.5 * 2^23 rounds to a whole number, which is then in the low bits of the mantissa.
        Vector512<float> magic = Vector512.Create(12582912f);
        Vector512<float> shifted = Vector512.FusedMultiplyAdd(clamped, Vector512.Create(1.44269504f), magic);
        Vector512<float> n = shifted - magic;
        Vector512<float> r = Vector512.FusedMultiplyAdd(n, Vector512.Create(-0.693359375f), clamped);
        r = Vector512.FusedMultiplyAdd(n, Vector512.Create(2.12194440e-4f), r);

        Vector512<float> p = Vector512.Create(1f / 5040);
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 720));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 120));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 24));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(1f / 6));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512.Create(0.5f));
        p = Vector512.FusedMultiplyAdd(p, r, Vector512<float>.One);
        p = Vector512.FusedMultiplyAdd(p, r, Vector512<float>.One);

        // 2^n in two steps, as n may be 128, which has no exponent of its own.
        Vector512<int> whole = shifted.AsInt32() - magic.AsInt32();
        Vector512<int> half = whole >> 1;
        p *= ((half + Vector512.Create(127)) << 23).AsSingle();
        p *= ((whole - half + Vector512.Create(127)) << 23).AsSingle();

        p = Vector512.ConditionalSelect(Vector512.LessThan(x, Vector512.Create(-87.33654f)), Vector512<float>.Zero, p);
        p = Vector512.ConditionalSelect(Vector512.GreaterThan(x, Vector512.Create(88.72283f)), Vector512.Create(float.PositiveInfinity), p);
        return Vector512.ConditionalSelect(Vector512.Equals(x, x), p, x);
    }
}
