using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>y[t, r] = dot(W[r, :], x[t, :]) for few tokens: rows are read once, in file order, 16 sub-blocks at a time.</summary>
/// <remarks>
/// Decode is bound by memory, so a row's codes go from the mapped file straight to registers. Its scales (two bytes in every 18 to 292)
/// are collected one row ahead: that pulls the row into L1, and leaves the scales time to get from the store queue to the cache.
/// With several tokens the codes are unpacked once and dotted from L1.
/// </remarks>
internal static unsafe class RowDot
{
    private const int SpanGroups = 8; // groups of 32 columns that are dotted before their lanes are summed: one super-block

    /// <inheritdoc cref="IntegerRows.Multiply"/>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply<TFormat>(
        in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        RowScratch memory = new(scratch, w.Columns);
        byte* end = w.Data + (w.Rows * w.RowBytes);
        LoadScales<TFormat>(w.Data + (from * w.RowBytes), w.Columns, memory.Scales(from));
        for (int r = from; r < to; r++)
        {
            byte* blocks = w.Data + (r * w.RowBytes);
            if (r + 1 < to)
                LoadScales<TFormat>(blocks + w.RowBytes, w.Columns, memory.Scales(r + 1));
            if (tokens > 1)
                Unpack<TFormat>(blocks, w.Columns, memory.Codes);
            for (int t = 0; t < tokens; t++)
            {
                float dot = tokens > 1
                    ? Dot<Unpacked<TFormat>>(memory.Codes, memory.Codes + x.PaddedColumns, memory.Scales(r), memory.Tail, x, t)
                    : Dot<TFormat>(blocks, end, memory.Scales(r), memory.Tail, x, t);
                float* y = output.Token(t) + (r - from);
                *y = output.Accumulate ? *y + dot : dot;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LoadScales<TFormat>(byte* blocks, int columns, RowScales row)
        where TFormat : struct, IQuantizedFormat
    {
        TFormat.Scales(blocks, columns / TFormat.BlockColumns, row.Scales, row.Biases);
        for (int b = columns / TFormat.SubBlock; b % Lanes.Count != 0; b++)
        {
            row.Scales[b] = 0;
            if (TFormat.HasBias)
                row.Biases[b] = 0;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Unpack<TFormat>(byte* blocks, int columns, byte* codes)
        where TFormat : struct, IQuantizedFormat
    {
        for (int group = 0; group < columns / 32; group++)
            TFormat.Codes(blocks, group).Store(codes + (32 * group));
    }

    /// <summary>The dot of a row and a token.</summary>
    /// <remarks>
    /// The last read of 16 sub-blocks may go past the row: what follows is read as codes, but its scales (weights' and activations') are zero
    /// and add nothing. Where it would leave the matrix, the row's last blocks are copied to <paramref name="tail"/> and read there.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Dot<TFormat>(byte* blocks, byte* end, RowScales row, byte* tail, in QuantizedActivations x, int token)
        where TFormat : struct, IQuantizedFormat
    {
        int columns = Lanes.Count * TFormat.SubBlock, bytes = columns / TFormat.BlockColumns * TFormat.BlockBytes;
        int subBlocks = x.Columns / TFormat.SubBlock;
        int whole = subBlocks / Lanes.Count * Lanes.Count;
        byte* last = blocks + ((long)whole / Lanes.Count * bytes);
        if (end - last < bytes)
        {
            Unsafe.CopyBlockUnaligned(tail, last, (uint)(end - last));
            last = tail;
        }

        sbyte* codes = x.Codes(token);
        float* scales = x.Scales(token);
        int* sums = x.Sums(token, TFormat.SubBlock);
        Vector512<float> lanes = Vector512<float>.Zero;
        for (int b = 0; b < subBlocks; b += Lanes.Count, blocks += bytes, codes += columns)
        {
            Vector512<int> dots = Dots<TFormat>(b < whole ? blocks : last, codes);
            Vector512<int> sum = Vector512.Load(sums + b);
            Vector512<float> scale = Lanes.ActivationScales<TFormat>(scales, b);
            lanes = Vector512.FusedMultiplyAdd(Lanes.Floats<TFormat>(dots, sum), Vector512.Load(row.Scales + b) * scale, lanes);
            if (TFormat.HasBias)
                lanes = Vector512.FusedMultiplyAdd(Vector512.Load(row.Biases + b) * scale, Vector512.ConvertToSingle(sum), lanes);
        }

        return Lanes.Fold(lanes);
    }

    /// <summary>The dots of 16 sub-blocks, in order.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Dots<TFormat>(byte* blocks, sbyte* x)
        where TFormat : struct, IQuantizedFormat
    {
        Vector256<int> p0 = Partial<TFormat>(blocks, x, 0), p1 = Partial<TFormat>(blocks, x, 1);
        Vector256<int> p2 = Partial<TFormat>(blocks, x, 2), p3 = Partial<TFormat>(blocks, x, 3);
        Vector256<int> p4 = Partial<TFormat>(blocks, x, 4), p5 = Partial<TFormat>(blocks, x, 5);
        Vector256<int> p6 = Partial<TFormat>(blocks, x, 6), p7 = Partial<TFormat>(blocks, x, 7);
        if (TFormat.SubBlock == 16)
            return IntegerDot.HalfSums(p0, p1, p2, p3, p4, p5, p6, p7);

        blocks += SpanGroups * 32 / TFormat.BlockColumns * TFormat.BlockBytes;
        x += SpanGroups * 32;
        return IntegerDot.Sums(
            Lanes.Join(p0, Partial<TFormat>(blocks, x, 0)), Lanes.Join(p1, Partial<TFormat>(blocks, x, 1)),
            Lanes.Join(p2, Partial<TFormat>(blocks, x, 2)), Lanes.Join(p3, Partial<TFormat>(blocks, x, 3)),
            Lanes.Join(p4, Partial<TFormat>(blocks, x, 4)), Lanes.Join(p5, Partial<TFormat>(blocks, x, 5)),
            Lanes.Join(p6, Partial<TFormat>(blocks, x, 6)), Lanes.Join(p7, Partial<TFormat>(blocks, x, 7)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Partial<TFormat>(byte* blocks, sbyte* x, int group)
        where TFormat : struct, IQuantizedFormat =>
        IntegerDot.Partial<TFormat>(TFormat.Codes(blocks, group), Vector256.Load(x + (32 * group)));

    /// <summary>The codes of <typeparamref name="TFormat"/> a byte each, as <see cref="Unpack"/> leaves them.</summary>
    private readonly struct Unpacked<TFormat> : IQuantizedFormat
        where TFormat : struct, IQuantizedFormat
    {
        public static int BlockColumns => 32;
        public static int BlockBytes => 32;
        public static int SubBlock => TFormat.SubBlock;
        public static int Offset => TFormat.Offset;
        public static int MaxCode => TFormat.MaxCode;
        public static bool HasBias => TFormat.HasBias;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static Vector256<byte> Codes(byte* blocks, int group) => Vector256.Load(blocks + (32 * group));

        public static void Scales(byte* blocks, int count, float* scales, float* biases) =>
            throw new NotSupportedException("The scales were taken from the blocks.");
    }
}
