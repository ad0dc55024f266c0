using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>The exact dots of one sub-block of 16 rows (codes [columns / 4, 16 rows, 4]) with four tokens.</summary>
/// <remarks>
/// Each step takes 4 columns: 64 codes are loaded, a token's 4 activations are broadcast. 16 rows and 4 tokens are 8 accumulators of
/// 256 bits, which with two vectors of codes and one of activations fit the 16 registers of AVX2 (and of VEX-encoded VPDPBUSD).
/// </remarks>
internal static unsafe class PanelDot
{
    /// <summary>d(t) = the sums over the sub-block of code * x(t), a row per lane; token t's codes begin at x + t * next.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Dots<TFormat>(
        byte* codes, sbyte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        if (Avx512BW.IsSupported && IntegerDot.PairsFitInt16<TFormat>())
            Dots512<TFormat>(codes, x, next, out d0, out d1, out d2, out d3);
        else
            Dots256<TFormat>(codes, x, next, out d0, out d1, out d2, out d3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Dots256<TFormat>(
        byte* codes, sbyte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<int> low0 = Vector256<int>.Zero, low1 = low0, low2 = low0, low3 = low0, high0 = low0, high1 = low0, high2 = low0, high3 = low0;
        byte* end = codes + (TFormat.SubBlock * RowPanel.Rows);
        for (; codes < end; codes += 4 * RowPanel.Rows, x += 4)
        {
            Vector256<byte> low = Vector256.Load(codes), high = Vector256.Load(codes + 32);
            Vector256<sbyte> a = Broadcast256(x);
            low0 = Add<TFormat>(low0, low, a);
            high0 = Add<TFormat>(high0, high, a);
            a = Broadcast256(x + next);
            low1 = Add<TFormat>(low1, low, a);
            high1 = Add<TFormat>(high1, high, a);
            a = Broadcast256(x + (2 * next));
            low2 = Add<TFormat>(low2, low, a);
            high2 = Add<TFormat>(high2, high, a);
            a = Broadcast256(x + (3 * next));
            low3 = Add<TFormat>(low3, low, a);
            high3 = Add<TFormat>(high3, high, a);
        }

        d0 = Lanes.Join(low0, high0);
        d1 = Lanes.Join(low1, high1);
        d2 = Lanes.Join(low2, high2);
        d3 = Lanes.Join(low3, high3);
    }

    /// <summary>
    /// .NET 10 has no 512-bit VPDPBUSD, but codes of few bits leave int16 sums room for several products:
    /// VPMADDUBSW and VPADDW on whole vectors do twice the work per cycle of VPDPBUSD on halves.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Dots512<TFormat>(
        byte* codes, sbyte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        d0 = d1 = d2 = d3 = Vector512<int>.Zero;
        int stretch = Math.Min(IntegerDot.PairsPerInt16<TFormat>() * 4, TFormat.SubBlock);
        byte* end = codes + (TFormat.SubBlock * RowPanel.Rows);
        while (codes < end)
        {
            Vector512<short> s0 = Vector512<short>.Zero, s1 = s0, s2 = s0, s3 = s0;
            for (byte* full = codes + (stretch * RowPanel.Rows); codes < full; codes += 4 * RowPanel.Rows, x += 4)
            {
                Vector512<byte> c = Vector512.Load(codes);
                s0 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x));
                s1 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x + next));
                s2 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x + (2 * next)));
                s3 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x + (3 * next)));
            }

            d0 += Avx512BW.MultiplyAddAdjacent(s0, Vector512<short>.One);
            d1 += Avx512BW.MultiplyAddAdjacent(s1, Vector512<short>.One);
            d2 += Avx512BW.MultiplyAddAdjacent(s2, Vector512<short>.One);
            d3 += Avx512BW.MultiplyAddAdjacent(s3, Vector512<short>.One);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Add<TFormat>(Vector256<int> sum, Vector256<byte> codes, Vector256<sbyte> x)
        where TFormat : struct, IQuantizedFormat =>
        AvxVnni.IsSupported ? AvxVnni.MultiplyWideningAndAdd(sum, codes, x) : sum + IntegerDot.Partial<TFormat>(codes, x);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<sbyte> Broadcast256(sbyte* x) => Vector256.Create(*(int*)x).AsSByte();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<sbyte> Broadcast512(sbyte* x) => Vector512.Create(*(int*)x).AsSByte();
}
