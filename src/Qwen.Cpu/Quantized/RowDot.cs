using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>y[t, r] = dot(W[r, :], x[t, :]) for few tokens: rows are read once, in file order, 16 sub-blocks at a time.</summary>
/// <remarks>
/// Decode is bound by memory: one token's products are formed straight from the blocks of the mapped file, in registers.
/// With several tokens a row is unpacked once, and dotted from L1.
/// </remarks>
internal static unsafe class RowDot
{
    /// <summary>
    /// How far ahead lines are asked for: with two threads at the memory, it answers late. Measured on two cores of Zen 5: Q8_0 42 to 49 GB/s,
    /// Q4_0 41 to 45, where a plain read takes 40 to 45. Past the matrix it is harmless.
    /// </summary>
    private const int PrefetchBytes = 8192;

    /// <summary>Where there is no AVX-512: scales and biases of a chunk.</summary>
    private const int StageLength = 2 * Lanes.Count;

    /// <summary>Bytes of scratch memory for rows of that many columns.</summary>
    public static long ScratchBytes(int columns) =>
        RowBlocks<Q2_K>.TailBytes + Math.Max(Unpacked<Q2_K>.Bytes(columns), Unpacked<Q4_K>.Bytes(columns)); // sub-blocks of 16 and of 32

    /// <inheritdoc cref="IntegerRows.Multiply"/>
    public static void Multiply<TFormat>(
        in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        if (tokens == 1)
            MultiplyOne<TFormat>(w, from, to, x, output, scratch);
        else
            MultiplySeveral<TFormat>(w, from, to, x, tokens, output, scratch);
    }

    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // hot in its first call: not to be run unoptimised first
    private static void MultiplyOne<TFormat>(in WeightMatrix w, int from, int to, in QuantizedActivations x, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        float* stage = stackalloc float[StageLength];
        byte* end = w.Data + (w.Rows * w.RowBytes);
        for (int r = from; r < to; r++)
            Store(Dot(new RowBlocks<TFormat>(w.Data + (r * w.RowBytes), end, w.Columns, scratch), x, 0, stage), output.Token(0) + (r - from), output.Accumulate);
    }

    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplySeveral<TFormat>(
        in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        float* stage = stackalloc float[StageLength];
        byte* end = w.Data + (w.Rows * w.RowBytes);
        byte* unpacked = scratch + RowBlocks<TFormat>.TailBytes;
        byte* unpackedEnd = unpacked + Unpacked<TFormat>.Bytes(w.Columns);
        for (int r = from; r < to; r++)
        {
            Unpacked<TFormat>.Unpack(new RowBlocks<TFormat>(w.Data + (r * w.RowBytes), end, w.Columns, scratch), unpacked);
            RowBlocks<Unpacked<TFormat>> row = new(unpacked, unpackedEnd, w.Columns, scratch);
            for (int t = 0; t < tokens; t++)
                Store(Dot(row, x, t, stage), output.Token(t) + (r - from), output.Accumulate);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store(float dot, float* y, bool accumulate) => *y = accumulate ? *y + dot : dot;

    /// <summary>The dot of a row and a token.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float Dot<TFormat>(RowBlocks<TFormat> row, in QuantizedActivations x, int token, float* stage)
        where TFormat : struct, IQuantizedFormat
    {
        sbyte* codes = x.Codes(token);
        short* wide = x.WideCodes(token);
        float* scales = x.Scales(token);
        int* sums = x.Sums(token, TFormat.SubBlock);
        float* scaledSums = x.ScaledSums(token, TFormat.SubBlock);
        Vector512<float> lanes = Vector512<float>.Zero;
        for (int b = 0; b < row.SubBlocks; b += Lanes.Count)
        {
            byte* chunk = row.Chunk(b);
            Prefetch<TFormat>(chunk + PrefetchBytes);
            Vector512<int> dots = IntegerDot.SubBlocks<TFormat>(chunk, codes + (b * TFormat.SubBlock), wide + (b * TFormat.SubBlock));
            Vector512<float> weightScales, weightBiases;
            if (Avx512BW.IsSupported || TFormat.BlockColumns == 256)
            {
                row.Scales(chunk, b, out weightScales, out weightBiases);
            }
            else
            {
                StageScales(row, chunk, b, stage);
                weightScales = Vector512.Load(stage);
                weightBiases = TFormat.HasBias ? Vector512.Load(stage + Lanes.Count) : default;
            }

            Vector512<int> sum = Vector512.Load(sums + b);
            Vector512<float> scale = Lanes.ActivationScales<TFormat>(scales, b);
            lanes = Vector512.FusedMultiplyAdd(Lanes.Floats<TFormat>(dots, sum), weightScales * scale, lanes);
            if (TFormat.HasBias)
                lanes = Vector512.FusedMultiplyAdd(weightBiases, Vector512.Load(scaledSums + b), lanes);
        }

        return Lanes512.Fold(new(lanes)); // its operations are made of narrower ones where there is no AVX-512
    }

    /// <summary>The scales of a chunk and, behind them, its biases: made of narrower operations, those of small blocks and the dots are more than the JIT inlines in one method.</summary>
    [MethodImpl(MethodImplOptions.NoInlining | MethodImplOptions.AggressiveOptimization)]
    private static void StageScales<TFormat>(RowBlocks<TFormat> row, byte* chunk, int first, float* scales)
        where TFormat : struct, IQuantizedFormat
    {
        row.Scales(chunk, first, out Vector512<float> weightScales, out Vector512<float> weightBiases);
        weightScales.Store(scales);
        if (TFormat.HasBias)
            weightBiases.Store(scales + Lanes.Count);
    }

    /// <summary>Asks for a chunk's bytes. A loop would cost as much as a tenth of the rest.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch<TFormat>(byte* chunk)
        where TFormat : struct, IQuantizedFormat
    {
        if (!Sse.IsSupported || !TFormat.InMemory)
            return;
        Line(0);
        Line(1);
        Line(2);
        Line(3);
        Line(4);
        Line(5);
        Line(6);
        Line(7);
        Line(8);
        Line(9);

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        void Line(int i)
        {
            if (i * 64 < RowBlocks<TFormat>.ChunkBytes)
                Sse.Prefetch1(chunk + (i * 64));
        }
    }
}
