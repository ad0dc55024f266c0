using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>Exact dots of unsigned weight codes with int8 activations: the one place that differs by instruction set.</summary>
internal static unsafe class IntegerDot
{
    /// <summary>32 products summed into 8 lanes: lanes 0-3 get columns 0-15, lanes 4-7 columns 16-31.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<int> Partial<TFormat>(Vector256<byte> codes, Vector256<sbyte> x)
        where TFormat : struct, IQuantizedFormat
    {
        if (AvxVnni.IsSupported)
            return AvxVnni.MultiplyWideningAndAdd(Vector256<int>.Zero, codes, x);
        if (Avx2.IsSupported)
        {
            if (PairsFitInt16<TFormat>())
                return Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(codes, x), Vector256<short>.One);
            Vector256<byte> low = Vector256.Create((byte)0x0F);
            Vector256<short> units = Avx2.MultiplyAddAdjacent(codes & low, x);
            Vector256<short> sixteens = Avx2.MultiplyAddAdjacent((codes.AsUInt16() >> 4).AsByte() & low, x);
            return Avx2.MultiplyAddAdjacent(units, Vector256<short>.One) + Avx2.MultiplyAddAdjacent(sixteens, Vector256.Create((short)16));
        }

        return Vector256.Create(Portable(codes.GetLower(), x.GetLower()), Portable(codes.GetUpper(), x.GetUpper()));
    }

    /// <summary>Whether two products of a code and an activation fit an int16, so that VPMADDUBSW cannot saturate.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool PairsFitInt16<TFormat>()
        where TFormat : struct, IQuantizedFormat => PairsPerInt16<TFormat>() > 0;

    /// <summary>How many results of VPMADDUBSW an int16 can sum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int PairsPerInt16<TFormat>()
        where TFormat : struct, IQuantizedFormat => short.MaxValue / (2 * TFormat.MaxCode * sbyte.MaxValue);

    /// <summary>The sums of both halves of eight vectors: p0's lower half, p1's, .. p7's, then the upper halves in that order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> Sums(
        Vector512<int> p0, Vector512<int> p1, Vector512<int> p2, Vector512<int> p3, Vector512<int> p4, Vector512<int> p5, Vector512<int> p6, Vector512<int> p7)
    {
        if (Avx512F.IsSupported)
        {
            // Each 128-bit lane of a: that lane's sums of p0 .. p3; of b: of p4 .. p7.
            Vector512<long> a = QuadSums(p0, p1, p2, p3).AsInt64(), b = QuadSums(p4, p5, p6, p7).AsInt64();
            return Avx512F.PermuteVar8x64x2(a, Vector512.Create(0L, 1, 8, 9, 4, 5, 12, 13), b).AsInt32()
                + Avx512F.PermuteVar8x64x2(a, Vector512.Create(2L, 3, 10, 11, 6, 7, 14, 15), b).AsInt32();
        }

        return Vector512.Create(
            Sums(p0.GetLower(), p1.GetLower(), p2.GetLower(), p3.GetLower(), p4.GetLower(), p5.GetLower(), p6.GetLower(), p7.GetLower()),
            Sums(p0.GetUpper(), p1.GetUpper(), p2.GetUpper(), p3.GetUpper(), p4.GetUpper(), p5.GetUpper(), p6.GetUpper(), p7.GetUpper()));
    }

    /// <summary>The sums of the halves of eight vectors: p0's lower, p0's upper, p1's lower ..</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> HalfSums(
        Vector256<int> p0, Vector256<int> p1, Vector256<int> p2, Vector256<int> p3, Vector256<int> p4, Vector256<int> p5, Vector256<int> p6, Vector256<int> p7)
    {
        if (Avx512F.IsSupported)
        {
            Vector512<int> sums = QuadSums(Lanes.Join(p0, p4), Lanes.Join(p1, p5), Lanes.Join(p2, p6), Lanes.Join(p3, p7));
            return Avx512F.PermuteVar16x32(sums, Vector512.Create(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
        }

        Vector256<int> interleave = Vector256.Create(0, 4, 1, 5, 2, 6, 3, 7);
        return Vector512.Create(
            Vector256.Shuffle(QuadSums(p0, p1, p2, p3), interleave), Vector256.Shuffle(QuadSums(p4, p5, p6, p7), interleave));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Sums(
        Vector256<int> p0, Vector256<int> p1, Vector256<int> p2, Vector256<int> p3, Vector256<int> p4, Vector256<int> p5, Vector256<int> p6, Vector256<int> p7)
    {
        Vector256<int> a = QuadSums(p0, p1, p2, p3), b = QuadSums(p4, p5, p6, p7);
        return Vector256.Create(a.GetLower(), b.GetLower()) + Vector256.Create(a.GetUpper(), b.GetUpper());
    }

    /// <summary>In each 128-bit lane: the sums of that lane of a, b, c and d.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> QuadSums(Vector512<int> a, Vector512<int> b, Vector512<int> c, Vector512<int> d)
    {
        Vector512<long> ab = (Avx512F.UnpackLow(a, b) + Avx512F.UnpackHigh(a, b)).AsInt64();
        Vector512<long> cd = (Avx512F.UnpackLow(c, d) + Avx512F.UnpackHigh(c, d)).AsInt64();
        return Avx512F.UnpackLow(ab, cd).AsInt32() + Avx512F.UnpackHigh(ab, cd).AsInt32();
    }

    /// <inheritdoc cref="QuadSums(Vector512{int}, Vector512{int}, Vector512{int}, Vector512{int})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> QuadSums(Vector256<int> a, Vector256<int> b, Vector256<int> c, Vector256<int> d)
    {
        if (Avx2.IsSupported)
            return Avx2.HorizontalAdd(Avx2.HorizontalAdd(a, b), Avx2.HorizontalAdd(c, d));
        return Vector256.Create(
            Vector128.Sum(a.GetLower()), Vector128.Sum(b.GetLower()), Vector128.Sum(c.GetLower()), Vector128.Sum(d.GetLower()),
            Vector128.Sum(a.GetUpper()), Vector128.Sum(b.GetUpper()), Vector128.Sum(c.GetUpper()), Vector128.Sum(d.GetUpper()));
    }

    /// <remarks>255 * 127 fits an int16, so the products are formed there and widened to be added.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Portable(Vector128<byte> codes, Vector128<sbyte> x)
    {
        Vector128<short> low = Vector128.WidenLower(codes).AsInt16() * Vector128.WidenLower(x);
        Vector128<short> high = Vector128.WidenUpper(codes).AsInt16() * Vector128.WidenUpper(x);
        return Vector128.WidenLower(low) + Vector128.WidenUpper(low) + Vector128.WidenLower(high) + Vector128.WidenUpper(high);
    }
}
