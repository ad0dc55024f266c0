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
    /// <summary>d(t) = start(t) + sum over the sub-block of code * x(t), a row per lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Dots<TFormat>(
        byte* codes, sbyte* x0, sbyte* x1, sbyte* x2, sbyte* x3, int start0, int start1, int start2, int start3,
        out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        if (Avx512BW.IsSupported && IntegerDot.PairsFitInt16<TFormat>())
        {
            d0 = Vector512.Create(start0);
            d1 = Vector512.Create(start1);
            d2 = Vector512.Create(start2);
            d3 = Vector512.Create(start3);
            AddPairs512<TFormat>(codes, x0, x1, x2, x3, ref d0, ref d1, ref d2, ref d3);
            return;
        }

        Vector256<int> low0 = Vector256.Create(start0), low1 = Vector256.Create(start1), low2 = Vector256.Create(start2), low3 = Vector256.Create(start3);
        Vector256<int> high0 = low0, high1 = low1, high2 = low2, high3 = low3;
        for (int k = 0; k < TFormat.SubBlock; k += 4, codes += 4 * RowPanel.Rows)
        {
            Vector256<byte> low = Vector256.Load(codes), high = Vector256.Load(codes + 32);
            Vector256<sbyte> a = Broadcast256(x0 + k);
            low0 = Add<TFormat>(low0, low, a);
            high0 = Add<TFormat>(high0, high, a);
            a = Broadcast256(x1 + k);
            low1 = Add<TFormat>(low1, low, a);
            high1 = Add<TFormat>(high1, high, a);
            a = Broadcast256(x2 + k);
            low2 = Add<TFormat>(low2, low, a);
            high2 = Add<TFormat>(high2, high, a);
            a = Broadcast256(x3 + k);
            low3 = Add<TFormat>(low3, low, a);
            high3 = Add<TFormat>(high3, high, a);
        }

        d0 = Vector512.Create(low0, high0);
        d1 = Vector512.Create(low1, high1);
        d2 = Vector512.Create(low2, high2);
        d3 = Vector512.Create(low3, high3);
    }

    /// <summary>
    /// .NET 10 has no 512-bit VPDPBUSD, but codes of few bits leave int16 sums room for several products:
    /// VPMADDUBSW and VPADDW on whole vectors do twice the work per cycle of VPDPBUSD on halves.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void AddPairs512<TFormat>(
        byte* codes, sbyte* x0, sbyte* x1, sbyte* x2, sbyte* x3,
        ref Vector512<int> d0, ref Vector512<int> d1, ref Vector512<int> d2, ref Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        Vector512<short> one = Vector512<short>.One;
        int stretch = Math.Min(IntegerDot.PairsPerInt16<TFormat>() * 4, TFormat.SubBlock);
        for (int from = 0; from < TFormat.SubBlock; from += stretch)
        {
            Vector512<short> s0 = Vector512<short>.Zero, s1 = s0, s2 = s0, s3 = s0;
            for (int k = from; k < from + stretch; k += 4, codes += 4 * RowPanel.Rows)
            {
                Vector512<byte> c = Vector512.Load(codes);
                s0 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x0 + k));
                s1 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x1 + k));
                s2 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x2 + k));
                s3 += Avx512BW.MultiplyAddAdjacent(c, Broadcast512(x3 + k));
            }

            d0 += Avx512BW.MultiplyAddAdjacent(s0, one);
            d1 += Avx512BW.MultiplyAddAdjacent(s1, one);
            d2 += Avx512BW.MultiplyAddAdjacent(s2, one);
            d3 += Avx512BW.MultiplyAddAdjacent(s3, one);
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
