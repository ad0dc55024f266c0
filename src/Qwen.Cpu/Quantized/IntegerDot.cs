using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>Exact dots of unsigned weight codes with int8 activations: the one place that differs by instruction set.</summary>
internal static unsafe class IntegerDot
{
    /// <summary>The dots of the 16 sub-blocks that begin at <paramref name="blocks"/>, in order.</summary>
    /// <param name="blocks">A chunk of a row.</param>
    /// <param name="x">The activations of its columns.</param>
    /// <param name="wide">The same as int16, where <see cref="PanelDot.HasWords"/>.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<int> SubBlocks<TFormat>(byte* blocks, sbyte* x, short* wide)
        where TFormat : struct, IQuantizedFormat
    {
        if (TFormat.SubBlock == 16)
            return Avx512BW.IsSupported ? Of16Columns512<TFormat>(blocks, x, wide) : Of16Columns<TFormat>(blocks, x, wide);
        if (Avx512BW.IsSupported)
            return Of32Columns512<TFormat>(blocks, x, wide);
        return Vector512.Create(Of32Columns<TFormat>(blocks, x, wide, 0), Of32Columns<TFormat>(blocks, x, wide, 8));
    }

    /// <summary>Whether two products of a code and an activation fit an int16, so that VPMADDUBSW cannot saturate.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool PairsFitInt16<TFormat>()
        where TFormat : struct, IQuantizedFormat => PairsPerInt16<TFormat>() > 0;

    /// <summary>How many results of VPMADDUBSW an int16 can sum.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static int PairsPerInt16<TFormat>()
        where TFormat : struct, IQuantizedFormat => short.MaxValue / (2 * TFormat.MaxCode * sbyte.MaxValue);

    /// <summary>32 products summed into 8 lanes: lanes 0-3 get columns 0-15, lanes 4-7 columns 16-31.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<int> Partial<TFormat>(Vector256<byte> codes, Vector256<sbyte> x)
        where TFormat : struct, IQuantizedFormat
    {
        if (AvxVnni.IsSupported)
            return AvxVnni.MultiplyWideningAndAdd(Vector256<int>.Zero, codes, x);
        if (Avx2.IsSupported)
            return Avx2.MultiplyAddAdjacent(Avx2.MultiplyAddAdjacent(codes, x), Vector256<short>.One);
        return Vector256.Create(Portable(codes.GetLower(), x.GetLower()), Portable(codes.GetUpper(), x.GetUpper()));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Of32Columns<TFormat>(byte* blocks, sbyte* x, short* wide, int first)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<int> a = QuadSums(
            Group<TFormat>(blocks, x, wide, first), Group<TFormat>(blocks, x, wide, first + 1), Group<TFormat>(blocks, x, wide, first + 2), Group<TFormat>(blocks, x, wide, first + 3));
        Vector256<int> b = QuadSums(
            Group<TFormat>(blocks, x, wide, first + 4), Group<TFormat>(blocks, x, wide, first + 5), Group<TFormat>(blocks, x, wide, first + 6), Group<TFormat>(blocks, x, wide, first + 7));
        return Vector256.Create(a.GetLower(), b.GetLower()) + Vector256.Create(a.GetUpper(), b.GetUpper());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Of16Columns<TFormat>(byte* blocks, sbyte* x, short* wide)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<int> a = QuadSums(Group<TFormat>(blocks, x, wide, 0), Group<TFormat>(blocks, x, wide, 1), Group<TFormat>(blocks, x, wide, 2), Group<TFormat>(blocks, x, wide, 3));
        Vector256<int> b = QuadSums(Group<TFormat>(blocks, x, wide, 4), Group<TFormat>(blocks, x, wide, 5), Group<TFormat>(blocks, x, wide, 6), Group<TFormat>(blocks, x, wide, 7));
        Vector256<int> interleave = Vector256.Create(0, 4, 1, 5, 2, 6, 3, 7);
        return Vector512.Create(Vector256.Shuffle(a, interleave), Vector256.Shuffle(b, interleave));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Of32Columns512<TFormat>(byte* blocks, sbyte* x, short* wide)
        where TFormat : struct, IQuantizedFormat
    {
        // 128-bit lanes 0 and 1 of a hold the two halves of groups 0, 2, 4, 6; lanes 2 and 3 those of groups 1, 3, 5, 7. b: 8 to 15.
        Vector512<int> a = FourPairs<TFormat>(blocks, x, wide, 0), b = FourPairs<TFormat>(blocks, x, wide, 4);
        return Avx512F.PermuteVar16x32x2(a, Vector512.Create(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27), b)
            + Avx512F.PermuteVar16x32x2(a, Vector512.Create(4, 12, 5, 13, 6, 14, 7, 15, 20, 28, 21, 29, 22, 30, 23, 31), b);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Of16Columns512<TFormat>(byte* blocks, sbyte* x, short* wide)
        where TFormat : struct, IQuantizedFormat
    {
        return Avx512F.PermuteVar16x32(FourPairs<TFormat>(blocks, x, wide, 0), Vector512.Create(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    }

    /// <summary>The products of a group of 32 columns in 8 lanes, as <see cref="Partial"/> leaves them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Group<TFormat>(byte* blocks, sbyte* x, short* wide, int group)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<byte> codes = TFormat.Codes(blocks, group);
        if (!PanelDot.HasWords || PairsFitInt16<TFormat>())
            return Partial<TFormat>(codes, Vector256.Load(x + (32 * group)));
        short* even = wide + (group / 2 * 2 * QuantizedActivations.WordRun) + (group % 2 * 16);
        return Avx2.MultiplyAddAdjacent(codes.AsInt16() & Vector256.Create((short)0xFF), Vector256.Load(even))
            + Avx2.MultiplyAddAdjacent(codes.AsInt16() >>> 8, Vector256.Load(even + QuantizedActivations.WordRun));
    }

    /// <summary>The sums of each 16 columns of four pairs of groups: in each 128-bit lane, one of each pair.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> FourPairs<TFormat>(byte* blocks, sbyte* x, short* wide, int pair)
        where TFormat : struct, IQuantizedFormat
    {
        if (!PairsFitInt16<TFormat>() && AvxVnni.IsSupported)
            return QuadSums(Vnni(pair), Vnni(pair + 1), Vnni(pair + 2), Vnni(pair + 3));
        if (!PairsFitInt16<TFormat>())
            return QuadSums(Words(pair), Words(pair + 1), Words(pair + 2), Words(pair + 3));
        Vector512<short> a = Products(pair), b = Products(pair + 1), c = Products(pair + 2), d = Products(pair + 3);
        if (PairsPerInt16<TFormat>() < 4)
            return QuadSums(Pairs(a), Pairs(b), Pairs(c), Pairs(d));

        // int16 takes the sums of all but the last two, which one multiplication adds for all.
        Vector512<short> ab = Avx512F.UnpackLow(a.AsInt32(), b.AsInt32()).AsInt16() + Avx512F.UnpackHigh(a.AsInt32(), b.AsInt32()).AsInt16();
        Vector512<short> cd = Avx512F.UnpackLow(c.AsInt32(), d.AsInt32()).AsInt16() + Avx512F.UnpackHigh(c.AsInt32(), d.AsInt32()).AsInt16();
        return Pairs(Avx512F.UnpackLow(ab.AsInt64(), cd.AsInt64()).AsInt16() + Avx512F.UnpackHigh(ab.AsInt64(), cd.AsInt64()).AsInt16());

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        Vector512<int> Vnni(int i) => Lanes.Join(Group<TFormat>(blocks, x, wide, 2 * i), Group<TFormat>(blocks, x, wide, (2 * i) + 1));

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        Vector512<int> Words(int i)
        {
            Vector512<short> codes = TFormat.CodePair(blocks, i).AsInt16();
            short* even = wide + (i * 2 * QuantizedActivations.WordRun);
            return Avx512BW.MultiplyAddAdjacent(codes & Vector512.Create((short)0xFF), Vector512.Load(even))
                + Avx512BW.MultiplyAddAdjacent(codes >>> 8, Vector512.Load(even + QuantizedActivations.WordRun));
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        Vector512<short> Products(int i) => Avx512BW.MultiplyAddAdjacent(TFormat.CodePair(blocks, i), Vector512.Load(x + (64 * i)));

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector512<int> Pairs(Vector512<short> sums) => Avx512BW.MultiplyAddAdjacent(sums, Vector512<short>.One);
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
