using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>y[t, r] = dot(W[r, :], x[t, :]) for few tokens: rows are read once, in file order, 16 sub-blocks at a time.</summary>
/// <remarks>
/// Decode is bound by memory, so a row's blocks go from the mapped file straight to registers. A first pass collects the row's scales
/// (two bytes in every 18 to 292), which leaves the row in L1 for the pass over the codes.
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
        RowScratch row = new(scratch, w.Columns);
        byte* end = w.Data + (w.Rows * w.RowBytes);
        for (int r = from; r < to; r++)
        {
            byte* blocks = w.Data + (r * w.RowBytes);
            LoadScales<TFormat>(blocks, w.Columns, row);
            if (tokens > 1)
                Unpack<TFormat>(blocks, w.Columns, row.Codes);
            for (int t = 0; t < tokens; t++)
            {
                float dot = tokens > 1
                    ? Dot<Unpacked<TFormat>>(row.Codes, row.Codes + x.PaddedColumns, row, x, t)
                    : Dot<TFormat>(blocks, end, row, x, t);
                float* y = output.Token(t) + (r - from);
                *y = output.Accumulate ? *y + dot : dot;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void LoadScales<TFormat>(byte* blocks, int columns, in RowScratch row)
        where TFormat : struct, IQuantizedFormat
    {
        TFormat.Scales(blocks, columns / TFormat.BlockColumns, row.Scales, row.Biases);
        int subBlocks = columns / TFormat.SubBlock, padding = -subBlocks & (Lanes.Count - 1);
        new Span<float>(row.Scales + subBlocks, padding).Clear();
        if (TFormat.HasBias)
            new Span<float>(row.Biases + subBlocks, padding).Clear();
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
    /// and add nothing. Where it would leave the matrix, the row's last blocks are copied out.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static float Dot<TFormat>(byte* blocks, byte* end, in RowScratch row, in QuantizedActivations x, int token)
        where TFormat : struct, IQuantizedFormat
    {
        int columns = Lanes.Count * TFormat.SubBlock, bytes = columns / TFormat.BlockColumns * TFormat.BlockBytes;
        int subBlocks = x.Columns / TFormat.SubBlock;
        sbyte* codes = x.Codes(token);
        float* scales = x.Scales(token);
        int* sums = x.Sums(token, TFormat.SubBlock);
        Vector512<float> lanes = Vector512<float>.Zero;
        for (int b = 0; b < subBlocks; b += Lanes.Count, blocks += bytes, codes += columns)
        {
            byte* source = blocks;
            if (end - blocks < bytes)
            {
                source = row.Tail;
                Unsafe.CopyBlockUnaligned(source, blocks, (uint)(end - blocks));
            }

            Vector512<int> sum = Vector512.Load(sums + b);
            Vector512<int> dots = Dots<TFormat>(source, codes);
            if (TFormat.Offset != 0)
                dots -= sum * TFormat.Offset;
            Vector512<float> scale = Lanes.ActivationScales<TFormat>(scales, b);
            lanes = Vector512.FusedMultiplyAdd(Vector512.ConvertToSingle(dots), Vector512.Load(row.Scales + b) * scale, lanes);
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
            Vector512.Create(p0, Partial<TFormat>(blocks, x, 0)), Vector512.Create(p1, Partial<TFormat>(blocks, x, 1)),
            Vector512.Create(p2, Partial<TFormat>(blocks, x, 2)), Vector512.Create(p3, Partial<TFormat>(blocks, x, 3)),
            Vector512.Create(p4, Partial<TFormat>(blocks, x, 4)), Vector512.Create(p5, Partial<TFormat>(blocks, x, 5)),
            Vector512.Create(p6, Partial<TFormat>(blocks, x, 6)), Vector512.Create(p7, Partial<TFormat>(blocks, x, 7)));
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
