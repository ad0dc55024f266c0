using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Rows of quantized matrices times 8-bit activations.</summary>
/// <remarks>
/// The order: for each sub-block b the exact integer dot product of its codes; lane b % 16 adds, in rising b,
/// fma(dot, weight scale * activation scale) and, where the type has a minimum, fma(-(minimum * activation scale), sum of activation codes);
/// the lanes are folded. It depends on the row and the token alone.
/// A row is unpacked once, into scratch that stays in the L1 cache, for all tokens.
/// </remarks>
internal static unsafe class IntegerRows
{
    private const int Offset = 128; // codes are unsigned: element = code - 128

    /// <summary>Scratch that <see cref="Multiply"/> needs: codes, and scales, minima and dots of up to one sub-block per 16 codes.</summary>
    public static long ScratchBytes(int columns)
    {
        long padded = QuantizedActivationBuffer.Padded(columns);
        return padded + (3 * sizeof(float) * (padded / 16));
    }

    /// <summary>y[t * yStride + r - from] (+)= W[r, :] . x[t, :] for rows [from, to) and tokens [0, tokens).</summary>
    public static void Multiply(in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        switch (w.Type)
        {
            case WeightType.Q4_0: Multiply<Q4_0>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q4_1: Multiply<Q4_1>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q5_0: Multiply<Q5_0>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q5_1: Multiply<Q5_1>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q8_0: Multiply<Q8_0>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q2_K: Multiply<Q2_K>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q3_K: Multiply<Q3_K>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q4_K: Multiply<Q4_K>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q5_K: Multiply<Q5_K>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q6_K: Multiply<Q6_K>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.Q8_K: Multiply<Q8_K>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.IQ4_NL: Multiply<IQ4_NL>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            case WeightType.IQ4_XS: Multiply<IQ4_XS>(w, from, to, x, tokens, y, yStride, accumulate, scratch); break;
            default: throw new ArgumentOutOfRangeException(nameof(w), w.Type, "is not a quantized type.");
        }
    }

    /// <summary>destination[k] = W[row, k].</summary>
    public static void DequantizeRow(in WeightMatrix w, int row, float* destination)
    {
        byte* data = w.Data + (row * w.RowBytes);
        switch (w.Type)
        {
            case WeightType.Q4_0: Dequantize<Q4_0>(data, w.Columns, destination); break;
            case WeightType.Q4_1: Dequantize<Q4_1>(data, w.Columns, destination); break;
            case WeightType.Q5_0: Dequantize<Q5_0>(data, w.Columns, destination); break;
            case WeightType.Q5_1: Dequantize<Q5_1>(data, w.Columns, destination); break;
            case WeightType.Q8_0: Dequantize<Q8_0>(data, w.Columns, destination); break;
            case WeightType.Q2_K: Dequantize<Q2_K>(data, w.Columns, destination); break;
            case WeightType.Q3_K: Dequantize<Q3_K>(data, w.Columns, destination); break;
            case WeightType.Q4_K: Dequantize<Q4_K>(data, w.Columns, destination); break;
            case WeightType.Q5_K: Dequantize<Q5_K>(data, w.Columns, destination); break;
            case WeightType.Q6_K: Dequantize<Q6_K>(data, w.Columns, destination); break;
            case WeightType.Q8_K: Dequantize<Q8_K>(data, w.Columns, destination); break;
            case WeightType.IQ4_NL: Dequantize<IQ4_NL>(data, w.Columns, destination); break;
            case WeightType.IQ4_XS: Dequantize<IQ4_XS>(data, w.Columns, destination); break;
            default: throw new ArgumentOutOfRangeException(nameof(w), w.Type, "is not a quantized type.");
        }
    }

    [SkipLocalsInit]
    private static void Dequantize<T>(byte* row, int columns, float* destination)
        where T : struct, IQuantizedFormat
    {
        byte* codes = stackalloc byte[256];
        float* scales = stackalloc float[16], minima = stackalloc float[16];
        for (int k = 0; k < columns; k += T.BlockElements, row += T.BlockBytes)
        {
            T.Unpack(row, codes, scales, minima);
            for (int i = 0; i < T.BlockElements; i++)
            {
                float value = scales[i / T.SubBlock] * (codes[i] - Offset);
                destination[k + i] = T.HasMinimum ? value - minima[i / T.SubBlock] : value;
            }
        }
    }

    private static void Multiply<T>(in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
        where T : struct, IQuantizedFormat
    {
        int columns = w.Columns, padded = (int)QuantizedActivationBuffer.Padded(columns), subBlocks = padded / T.SubBlock;
        byte* codes = scratch;
        float* scales = (float*)(codes + padded), minima = scales + subBlocks;
        int* dots = (int*)(minima + subBlocks);
        QuantizedActivations.SubBlocks by = T.SubBlock == 32 ? x.By32 : x.By16;

        // Beyond the row: codes of anything (the activations there are zero), scales and minima of zero.
        int used = columns / T.SubBlock;
        new Span<float>(scales + used, subBlocks - used).Clear();
        new Span<float>(minima + used, subBlocks - used).Clear();
        new Span<byte>(codes + columns, padded - columns).Clear();
        for (int r = from; r < to; r++)
        {
            byte* block = w.Data + (r * w.RowBytes);
            for (int k = 0, s = 0; k < columns; k += T.BlockElements, s += T.BlockElements / T.SubBlock, block += T.BlockBytes)
                T.Unpack(block, codes + k, scales + s, minima + s);
            for (int t = 0; t < tokens; t++)
            {
                sbyte* row = x.Codes + (t * x.CodeStride);
                if (T.SubBlock == 32)
                    Dots32(codes, row, padded, dots);
                else
                    Dots16(codes, row, padded, dots);
                float* to1 = y + (t * yStride) + (r - from);
                float dot = T.HasMinimum
                    ? ScaleWithMinimum(dots, by.Sums + (t * by.Stride), scales, minima, by.Scales + (t * by.Stride), subBlocks)
                    : Scale(dots, by.Sums + (t * by.Stride), scales, by.Scales + (t * by.Stride), subBlocks);
                *to1 = accumulate ? *to1 + dot : dot;
            }
        }
    }

    /// <summary>dots[b] = sum of codes * x over sub-block b of 32, four at a time.</summary>
    private static void Dots32(byte* codes, sbyte* x, int count, int* dots)
    {
        for (int k = 0; k < count; k += 128, dots += 4)
        {
            (Vector128<int> low, Vector128<int> high) = QuarterSums(codes + k, x + k);
            (low + high).Store(dots);
        }
    }

    /// <summary>dots[b] = sum of codes * x over sub-block b of 16, eight at a time.</summary>
    private static void Dots16(byte* codes, sbyte* x, int count, int* dots)
    {
        for (int k = 0; k < count; k += 128, dots += 8)
        {
            (Vector128<int> low, Vector128<int> high) = QuarterSums(codes + k, x + k);
            Vector128.Create(low.GetElement(0), high.GetElement(0), low.GetElement(1), high.GetElement(1)).Store(dots);
            Vector128.Create(low.GetElement(2), high.GetElement(2), low.GetElement(3), high.GetElement(3)).Store(dots + 4);
        }
    }

    /// <summary>For four runs of 32 products the sums of their first 16 (Low) and of their last 16 (High).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static (Vector128<int> Low, Vector128<int> High) QuarterSums(byte* codes, sbyte* x)
    {
        Vector256<int> a = Products(codes, x), b = Products(codes + 32, x + 32), c = Products(codes + 64, x + 64), d = Products(codes + 96, x + 96);
        if (Avx2.IsSupported)
        {
            Vector256<int> sums = Avx2.HorizontalAdd(Avx2.HorizontalAdd(a, b), Avx2.HorizontalAdd(c, d));
            return (sums.GetLower(), sums.GetUpper());
        }

        return (Vector128.Create(Vector128.Sum(a.GetLower()), Vector128.Sum(b.GetLower()), Vector128.Sum(c.GetLower()), Vector128.Sum(d.GetLower())),
            Vector128.Create(Vector128.Sum(a.GetUpper()), Vector128.Sum(b.GetUpper()), Vector128.Sum(c.GetUpper()), Vector128.Sum(d.GetUpper())));
    }

    /// <summary>32 products of unsigned and signed bytes, added in some order into 8 lanes: the first 16 into the lower half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Products(byte* codes, sbyte* x)
    {
        if (AvxVnni.IsSupported)
            return AvxVnni.MultiplyWideningAndAdd(Vector256<int>.Zero, Vector256.Load(codes), Vector256.Load(x));
        if (Avx2.IsSupported)
        {
            // Products are added as 32-bit integers: 16-bit sums of two (maddubs) would saturate.
            Vector256<int> low = Avx2.MultiplyAddAdjacent(Avx2.ConvertToVector256Int16(codes), Avx2.ConvertToVector256Int16(x));
            Vector256<int> high = Avx2.MultiplyAddAdjacent(Avx2.ConvertToVector256Int16(codes + 16), Avx2.ConvertToVector256Int16(x + 16));
            return Vector256.Create(low.GetLower() + low.GetUpper(), high.GetLower() + high.GetUpper());
        }

        return Vector256.Create(Products16(codes, x), Products16(codes + 16, x + 16));
    }

    private static Vector128<int> Products16(byte* codes, sbyte* x)
    {
        (Vector128<ushort> c0, Vector128<ushort> c1) = Vector128.Widen(Vector128.Load(codes));
        (Vector128<short> x0, Vector128<short> x1) = Vector128.Widen(Vector128.Load(x));
        (Vector128<int> p0, Vector128<int> p1) = Vector128.Widen(c0.AsInt16() * x0); // at most 255 * 127: fits
        (Vector128<int> p2, Vector128<int> p3) = Vector128.Widen(c1.AsInt16() * x1);
        return p0 + p1 + (p2 + p3);
    }

    private static float Scale(int* dots, int* sums, float* scales, float* xScales, int subBlocks)
    {
        Vector512<float> lanes = default;
        for (int b = 0; b < subBlocks; b += Lanes.Count)
        {
            Vector512<float> dot = Vector512.ConvertToSingle(Vector512.Load(dots + b) - (Vector512.Load(sums + b) << 7));
            lanes = Vector512.FusedMultiplyAdd(dot, Vector512.Load(scales + b) * Vector512.Load(xScales + b), lanes);
        }

        return Lanes.Fold(lanes);
    }

    private static float ScaleWithMinimum(int* dots, int* sums, float* scales, float* minima, float* xScales, int subBlocks)
    {
        Vector512<float> lanes = default;
        for (int b = 0; b < subBlocks; b += Lanes.Count)
        {
            Vector512<int> sum = Vector512.Load(sums + b);
            Vector512<float> dot = Vector512.ConvertToSingle(Vector512.Load(dots + b) - (sum << 7)), xScale = Vector512.Load(xScales + b);
            lanes = Vector512.FusedMultiplyAdd(dot, Vector512.Load(scales + b) * xScale, lanes);
            lanes = Vector512.FusedMultiplyAdd(-(Vector512.Load(minima + b) * xScale), Vector512.ConvertToSingle(sum), lanes);
        }

        return Lanes.Fold(lanes);
    }
}
