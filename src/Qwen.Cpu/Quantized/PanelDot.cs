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
    private const int StepBytes = 4 * RowPanel.Rows;

    /// <summary>d(t) = the sums over the sub-block of code * x(t), a row per lane; token t's codes begin at x + t * next.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Dots<TFormat>(
        byte* codes, sbyte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        if (Avx512BW.IsSupported && IntegerDot.PairsFitInt16<TFormat>())
            Dots512<TFormat>(codes, x, next, out d0, out d1, out d2, out d3);
        else if (Avx512BW.IsSupported && !AvxVnni.IsSupported)
            NibbleDots512<TFormat>(codes, x, next, out d0, out d1, out d2, out d3);
        else
            Dots256<TFormat>(codes, x, next, out d0, out d1, out d2, out d3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Dots256<TFormat>(
        byte* codes, sbyte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<int> low0 = Vector256<int>.Zero, low1 = low0, low2 = low0, low3 = low0, high0 = low0, high1 = low0, high2 = low0, high3 = low0;
        for (byte* end = codes + (TFormat.SubBlock * RowPanel.Rows); codes < end; codes += 4 * StepBytes, x += 16)
        {
            Step(codes, x, ref low0, ref low1, ref low2, ref low3, ref high0, ref high1, ref high2, ref high3);
            Step(codes + StepBytes, x + 4, ref low0, ref low1, ref low2, ref low3, ref high0, ref high1, ref high2, ref high3);
            Step(codes + (2 * StepBytes), x + 8, ref low0, ref low1, ref low2, ref low3, ref high0, ref high1, ref high2, ref high3);
            Step(codes + (3 * StepBytes), x + 12, ref low0, ref low1, ref low2, ref low3, ref high0, ref high1, ref high2, ref high3);
        }

        d0 = Lanes.Join(low0, high0);
        d1 = Lanes.Join(low1, high1);
        d2 = Lanes.Join(low2, high2);
        d3 = Lanes.Join(low3, high3);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        void Step(
            byte* c, sbyte* a,
            ref Vector256<int> l0, ref Vector256<int> l1, ref Vector256<int> l2, ref Vector256<int> l3,
            ref Vector256<int> h0, ref Vector256<int> h1, ref Vector256<int> h2, ref Vector256<int> h3)
        {
            Vector256<byte> low = Vector256.Load(c), high = Vector256.Load(c + 32);
            Add<TFormat>(ref l0, ref h0, low, high, a);
            Add<TFormat>(ref l1, ref h1, low, high, a + next);
            Add<TFormat>(ref l2, ref h2, low, high, a + (2 * next));
            Add<TFormat>(ref l3, ref h3, low, high, a + (3 * next));
        }
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
        for (byte* end = codes + (TFormat.SubBlock * RowPanel.Rows); codes < end;)
        {
            Vector512<short> s0 = Vector512<short>.Zero, s1 = s0, s2 = s0, s3 = s0;
            Step(codes, x, ref s0, ref s1, ref s2, ref s3);
            Step(codes + StepBytes, x + 4, ref s0, ref s1, ref s2, ref s3);
            codes += 2 * StepBytes;
            x += 8;
            if (IntegerDot.PairsPerInt16<TFormat>() >= 4)
            {
                Step(codes, x, ref s0, ref s1, ref s2, ref s3);
                Step(codes + StepBytes, x + 4, ref s0, ref s1, ref s2, ref s3);
                codes += 2 * StepBytes;
                x += 8;
            }

            if (IntegerDot.PairsPerInt16<TFormat>() >= 8 && TFormat.SubBlock == 32)
            {
                Step(codes, x, ref s0, ref s1, ref s2, ref s3);
                Step(codes + StepBytes, x + 4, ref s0, ref s1, ref s2, ref s3);
                Step(codes + (2 * StepBytes), x + 8, ref s0, ref s1, ref s2, ref s3);
                Step(codes + (3 * StepBytes), x + 12, ref s0, ref s1, ref s2, ref s3);
                codes += 4 * StepBytes;
                x += 16;
            }

            d0 += Avx512BW.MultiplyAddAdjacent(s0, Vector512<short>.One);
            d1 += Avx512BW.MultiplyAddAdjacent(s1, Vector512<short>.One);
            d2 += Avx512BW.MultiplyAddAdjacent(s2, Vector512<short>.One);
            d3 += Avx512BW.MultiplyAddAdjacent(s3, Vector512<short>.One);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        void Step(byte* c, sbyte* a, ref Vector512<short> s0, ref Vector512<short> s1, ref Vector512<short> s2, ref Vector512<short> s3)
        {
            Vector512<byte> four = Vector512.Load(c);
            s0 += Avx512BW.MultiplyAddAdjacent(four, Broadcast512(a));
            s1 += Avx512BW.MultiplyAddAdjacent(four, Broadcast512(a + next));
            s2 += Avx512BW.MultiplyAddAdjacent(four, Broadcast512(a + (2 * next)));
            s3 += Avx512BW.MultiplyAddAdjacent(four, Broadcast512(a + (3 * next)));
        }
    }

    /// <summary>For AVX-512 without the VEX-encoded VPDPBUSD (.NET 10 has no other): codes of 8 bits as two of 4, whose products fit int16 sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void NibbleDots512<TFormat>(
        byte* codes, sbyte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        Vector512<byte> nibble = Vector512.Create((byte)0x0F);
        Vector512<short> low0 = Vector512<short>.Zero, low1 = low0, low2 = low0, low3 = low0, high0 = low0, high1 = low0, high2 = low0, high3 = low0;
        for (byte* end = codes + (TFormat.SubBlock * RowPanel.Rows); codes < end; codes += StepBytes, x += 4)
        {
            Vector512<byte> four = Vector512.Load(codes);
            Vector512<byte> low = four & nibble, high = (four.AsUInt16() >> 4).AsByte() & nibble;
            Add(ref low0, ref high0, low, high, Broadcast512(x));
            Add(ref low1, ref high1, low, high, Broadcast512(x + next));
            Add(ref low2, ref high2, low, high, Broadcast512(x + (2 * next)));
            Add(ref low3, ref high3, low, high, Broadcast512(x + (3 * next)));
        }

        d0 = Sum(low0, high0);
        d1 = Sum(low1, high1);
        d2 = Sum(low2, high2);
        d3 = Sum(low3, high3);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static void Add(ref Vector512<short> lowSum, ref Vector512<short> highSum, Vector512<byte> low, Vector512<byte> high, Vector512<sbyte> four)
        {
            lowSum += Avx512BW.MultiplyAddAdjacent(low, four);
            highSum += Avx512BW.MultiplyAddAdjacent(high, four);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector512<int> Sum(Vector512<short> low, Vector512<short> high) =>
            Avx512BW.MultiplyAddAdjacent(low, Vector512<short>.One) + Avx512BW.MultiplyAddAdjacent(high, Vector512.Create((short)16));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add<TFormat>(ref Vector256<int> lowSum, ref Vector256<int> highSum, Vector256<byte> low, Vector256<byte> high, sbyte* x)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<sbyte> four = Vector256.Create(*(int*)x).AsSByte();
        lowSum = AvxVnni.IsSupported ? AvxVnni.MultiplyWideningAndAdd(lowSum, low, four) : lowSum + IntegerDot.Partial<TFormat>(low, four);
        highSum = AvxVnni.IsSupported ? AvxVnni.MultiplyWideningAndAdd(highSum, high, four) : highSum + IntegerDot.Partial<TFormat>(high, four);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<sbyte> Broadcast512(sbyte* x) => Vector512.Create(*(int*)x).AsSByte();
}
