using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>The exact dots of one sub-block of 16 panel rows with four tokens: the inner loop of prefill.</summary>
/// <remarks>
/// A step loads 64 bytes of codes and broadcasts 4 bytes of activations for each token. What they are depends on the products the machine has:
/// - Bytes, for codes of up to 6 bits: VPMADDUBSW takes 4 columns, codes less the offset as signed bytes and activations plus 128 as
///   unsigned ones, and sums stay in int16. They start from -128 times the sum of the codes (the panel has it), so the offsets of both cost
///   nothing here. Sums may wrap on the way; what they end at fits.
/// - Words, for codes of 8 bits: VPMADDWD takes 2 columns of codes, less the offset, and activations widened to int16; a step has the even, then
///   one the odd ones of 4 columns, as bytes become words with fewest instructions so.
/// - VPDPBUSD, where .NET 10 has it (on 256 bits only): 4 columns of unsigned codes and signed activations. It is twice as fast as words.
/// With 256 bits 16 rows and 4 tokens are 8 accumulators, which fit the 16 registers of AVX2.
/// </remarks>
internal static unsafe class PanelDot
{
    /// <summary>Bytes of a step.</summary>
    public const int StepBytes = 4 * RowPanel.Rows;

    /// <summary>Whether codes of 8 bits are multiplied as int16 on this machine.</summary>
    public static bool HasWords
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Avx2.IsSupported && !AvxVnni.IsSupported;
    }

    /// <summary>Whether panels of this format hold unsigned bytes for VPDPBUSD.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsVnni<TFormat>()
        where TFormat : struct, IQuantizedFormat => AvxVnni.IsSupported && !(Avx512BW.IsSupported && IntegerDot.PairsFitInt16<TFormat>());

    /// <summary>Whether panels of this format hold int16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsWords<TFormat>()
        where TFormat : struct, IQuantizedFormat => HasWords && !IntegerDot.PairsFitInt16<TFormat>();

    /// <summary>Whether panels of this format hold signed bytes and starts of their sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool IsBytes<TFormat>()
        where TFormat : struct, IQuantizedFormat => !IsWords<TFormat>() && !IsVnni<TFormat>();

    /// <summary>Bytes from the activations of a chunk's first sub-block to those of its b-th.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static uint ActivationBytes<TFormat>(uint b)
        where TFormat : struct, IQuantizedFormat =>
        IsWords<TFormat>() ? (b / 2 * QuantizedActivations.WordRun * 2 * sizeof(short)) + (b % 2 * 16 * sizeof(short)) : b * (uint)TFormat.SubBlock;

    /// <summary>Steps of a sub-block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int Steps<TFormat>()
        where TFormat : struct, IQuantizedFormat => TFormat.SubBlock / (IsWords<TFormat>() ? 2 : 4);

    /// <summary>Steps whose products an int16 takes, at two a step; all, where sums are int32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int StepsPerSum<TFormat>()
        where TFormat : struct, IQuantizedFormat
    {
        if (!IsBytes<TFormat>())
            return Steps<TFormat>();
        int largest = 2 * sbyte.MaxValue * Math.Max(TFormat.Offset, TFormat.MaxCode - TFormat.Offset);
        return Math.Min(Steps<TFormat>(), 1 << BitOperations.Log2((uint)(short.MaxValue / largest)));
    }

    /// <summary>The dots of a sub-block, a row per lane; token t's activations begin at x + t * next.</summary>
    /// <param name="codes">[Steps, 16 rows, 4 bytes].</param>
    /// <param name="starts">Of bytes: [Steps / StepsPerSum, 16 rows, 2] int16 that the sums begin with.</param>
    /// <param name="x">In the form that the codes ask for.</param>
    /// <param name="next">Bytes from token to token.</param>
    /// <param name="d0">Dots with the first token.</param>
    /// <param name="d1">Dots with the second.</param>
    /// <param name="d2">Dots with the third.</param>
    /// <param name="d3">Dots with the fourth.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Dots<TFormat>(
        byte* codes, byte* starts, byte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        if (Avx512BW.IsSupported && !IsVnni<TFormat>())
            Dots512<TFormat>(codes, starts, x, next, out d0, out d1, out d2, out d3);
        else
            Dots256<TFormat>(codes, starts, x, next, out d0, out d1, out d2, out d3);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Dots512<TFormat>(
        byte* codes, byte* starts, byte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        d0 = d1 = d2 = d3 = default;
        for (int sum = 0; sum < Steps<TFormat>(); sum += StepsPerSum<TFormat>())
        {
            Vector512<int> s0 = IsWords<TFormat>() ? default : Vector512.Load((int*)(starts + (sum / StepsPerSum<TFormat>() * StepBytes))), s1 = s0, s2 = s0, s3 = s0;
            for (int i = 0; i < StepsPerSum<TFormat>(); i += 2)
            {
                // Eight products, then their sums: a sum right after its product takes a multiplier's port from the next one.
                // On Zen 4 that makes 9 cycles of 11.
                Vector512<byte> c = Vector512.Load(codes), d = Vector512.Load(codes + StepBytes);
                Vector512<int> p0 = Product<TFormat>(c, x), p1 = Product<TFormat>(c, x + next);
                Vector512<int> p2 = Product<TFormat>(c, x + (2 * next)), p3 = Product<TFormat>(c, x + (3 * next));
                byte* odd = x + OddBytes<TFormat>();
                Vector512<int> q0 = Product<TFormat>(d, odd), q1 = Product<TFormat>(d, odd + next);
                Vector512<int> q2 = Product<TFormat>(d, odd + (2 * next)), q3 = Product<TFormat>(d, odd + (3 * next));
                s0 = Add<TFormat>(s0, p0);
                s1 = Add<TFormat>(s1, p1);
                s2 = Add<TFormat>(s2, p2);
                s3 = Add<TFormat>(s3, p3);
                s0 = Add<TFormat>(s0, q0);
                s1 = Add<TFormat>(s1, q1);
                s2 = Add<TFormat>(s2, q2);
                s3 = Add<TFormat>(s3, q3);
                codes += 2 * StepBytes;
                x += IsWords<TFormat>() ? 4 : 8;
            }

            if (Steps<TFormat>() == StepsPerSum<TFormat>())
            {
                (d0, d1, d2, d3) = (Total(s0), Total(s1), Total(s2), Total(s3));
            }
            else
            {
                d0 += Total(s0);
                d1 += Total(s1);
                d2 += Total(s2);
                d3 += Total(s3);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector512<int> Total(Vector512<int> sum) => IsWords<TFormat>() ? sum : Avx512BW.MultiplyAddAdjacent(sum.AsInt16(), Vector512<short>.One);
    }

    /// <summary>Bytes from the activations of an even step to those of the odd one after it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int OddBytes<TFormat>()
        where TFormat : struct, IQuantizedFormat => IsWords<TFormat>() ? QuantizedActivations.WordRun * sizeof(short) : 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Product<TFormat>(Vector512<byte> codes, byte* x)
        where TFormat : struct, IQuantizedFormat
    {
        Vector512<int> four = Vector512.Create(*(int*)x);
        return IsWords<TFormat>()
            ? Avx512BW.MultiplyAddAdjacent(codes.AsInt16(), four.AsInt16())
            : Avx512BW.MultiplyAddAdjacent(four.AsByte(), codes.AsSByte()).AsInt32();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Add<TFormat>(Vector512<int> sum, Vector512<int> product)
        where TFormat : struct, IQuantizedFormat => IsWords<TFormat>() ? sum + product : (sum.AsInt16() + product.AsInt16()).AsInt32();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Dots256<TFormat>(
        byte* codes, byte* starts, byte* x, long next, out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3)
        where TFormat : struct, IQuantizedFormat
    {
        d0 = d1 = d2 = d3 = default;
        for (int sum = 0; sum < Steps<TFormat>(); sum += StepsPerSum<TFormat>())
        {
            byte* start = starts + (sum / StepsPerSum<TFormat>() * StepBytes);
            Vector256<int> low0 = IsBytes<TFormat>() ? Vector256.Load((int*)start) : default, low1 = low0, low2 = low0, low3 = low0;
            Vector256<int> high0 = IsBytes<TFormat>() ? Vector256.Load((int*)(start + 32)) : default, high1 = high0, high2 = high0, high3 = high0;
            for (int i = 0; i < StepsPerSum<TFormat>(); i++)
            {
                Vector256<byte> low = Vector256.Load(codes), high = Vector256.Load(codes + 32);
                Add<TFormat>(ref low0, ref high0, low, high, x);
                Add<TFormat>(ref low1, ref high1, low, high, x + next);
                Add<TFormat>(ref low2, ref high2, low, high, x + (2 * next));
                Add<TFormat>(ref low3, ref high3, low, high, x + (3 * next));
                codes += StepBytes;
                x += IsWords<TFormat>() ? ((i & 1) == 0 ? OddBytes<TFormat>() : 4 - OddBytes<TFormat>()) : 4;
            }

            if (Steps<TFormat>() == StepsPerSum<TFormat>())
            {
                (d0, d1, d2, d3) = (Total(low0, high0), Total(low1, high1), Total(low2, high2), Total(low3, high3));
            }
            else
            {
                d0 += Total(low0, high0);
                d1 += Total(low1, high1);
                d2 += Total(low2, high2);
                d3 += Total(low3, high3);
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector512<int> Total(Vector256<int> low, Vector256<int> high) => IsWords<TFormat>() || IsVnni<TFormat>()
            ? Lanes.Join(low, high)
            : Lanes.Join(Avx2.MultiplyAddAdjacent(low.AsInt16(), Vector256<short>.One), Avx2.MultiplyAddAdjacent(high.AsInt16(), Vector256<short>.One));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Add<TFormat>(ref Vector256<int> lowSum, ref Vector256<int> highSum, Vector256<byte> low, Vector256<byte> high, byte* x)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<int> four = Vector256.Create(*(int*)x);
        if (IsVnni<TFormat>())
        {
            lowSum = AvxVnni.MultiplyWideningAndAdd(lowSum, low, four.AsSByte());
            highSum = AvxVnni.MultiplyWideningAndAdd(highSum, high, four.AsSByte());
        }
        else if (IsWords<TFormat>())
        {
            lowSum += Avx2.MultiplyAddAdjacent(low.AsInt16(), four.AsInt16());
            highSum += Avx2.MultiplyAddAdjacent(high.AsInt16(), four.AsInt16());
        }
        else
        {
            lowSum = (lowSum.AsInt16() + Avx2.MultiplyAddAdjacent(four.AsByte(), low.AsSByte())).AsInt32();
            highSum = (highSum.AsInt16() + Avx2.MultiplyAddAdjacent(four.AsByte(), high.AsSByte())).AsInt32();
        }
    }
}
