using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>e^x in F32 over all floats, within 1.5 units in the last place, with the same bits at every instruction set.</summary>
internal static class Exponential
{
    /// <summary>e^x; 0 below -104, infinity above 89, subnormal results included, NaN for NaN.</summary>
    /// <remarks>
    /// x = n ln 2 + r with |r| up to (ln 2) / 2: adding 1.5 * 2^23 rounds x / ln 2 to the integer n, and ln 2 comes in two parts, the upper one
    /// short enough for n times it to be exact. e^r is the polynomial of Cephes' expf by Horner's rule in fused steps. 2^n is applied in
    /// two factors, as n reaches beyond the exponents of normal numbers at both ends.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Exp<TLanes>(TLanes x)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        TLanes low = TLanes.Broadcast(-104f), high = TLanes.Broadcast(89f), shift = TLanes.Broadcast(12582912f);
        x = TLanes.SelectLess(x, low, low, x);
        x = TLanes.SelectLess(high, x, high, x);
        TLanes shifted = TLanes.MultiplyAdd(x, TLanes.Broadcast(1.44269504f), shift);
        TLanes n = shifted - shift;
        TLanes r = TLanes.MultiplyAdd(n, TLanes.Broadcast(-0.693359375f), x);
        r = TLanes.MultiplyAdd(n, TLanes.Broadcast(2.12194440e-4f), r);

        TLanes p = TLanes.Broadcast(1.9875691500e-4f);
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(1.3981999507e-3f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(8.3334519073e-3f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(4.1665795894e-2f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(1.6666665459e-1f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(5.0000001201e-1f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(1f));
        p = TLanes.MultiplyAdd(p, r, TLanes.Broadcast(1f));

        TLanes exponent = TLanes.SubtractBits(shifted, shift), half = exponent >> 1, bias = TLanes.BroadcastBits(127);
        TLanes first = TLanes.AddBits(half, bias) << 23;
        TLanes second = TLanes.AddBits(TLanes.SubtractBits(exponent, half), bias) << 23;
        return (p * first) * second;
    }
}
