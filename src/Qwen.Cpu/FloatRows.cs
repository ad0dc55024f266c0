using System.Diagnostics;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Rows of an F32, F16, BF16 or F8_E4M3 matrix times F32 vectors.</summary>
/// <remarks>
/// Canonical order of a dot product of K terms: lane l of sixteen sums k = l, l + 16, .. by fused multiply-add, then the lanes fold
/// (<see cref="ILanes{TSelf}.Fold(TSelf)"/>). It depends on K only, so a result has the same bits alone and in any batch.
/// Scaled elements (F8_E4M3) are summed so within each block of columns that shares a scale, from zero; lane totals take the blocks in rising
/// order, total = fma(sum, scale, total), and fold. Nothing else scales: sums and products overflow and underflow as those of F32 do.
/// Few tokens read the stored rows directly, converting as they load: that is bound by memory. Many tokens share a panel: some rows
/// converted to F32 once.
/// </remarks>
internal static unsafe class FloatRows
{
    /// <summary>Up to this many tokens, a panel of four rows, which stays in L1, is better than one that fills L2.</summary>
    private const int FewTokens = 4;

    /// <summary>Up to this many tokens, converting codes in registers anew for each is cheaper than writing a panel.</summary>
    private const int Float8Tokens = 2;

    // A panel is 32 rows x 1,024 columns of F32, 128 KB in L2. The five tokens of a tile over the same columns are 20 KB: they stay in L1
    // while the panel's rows pass by. Between two stretches of columns the lane sums of 32 rows x 100 tokens (200 KB) rest in scratch.
    private const int PanelRows = 32;
    private const int PanelColumns = 1024;
    private const int PanelTokens = 100;

    private const long SumsBytes = PanelRows * PanelTokens * 16 * sizeof(float);
    private const long TailBytes = PanelTokens * 16 * sizeof(float);

    /// <summary>Scratch: the sums at rest of a block and those of the row, the vectors' tails, a place to cut a tail; then the panel.</summary>
    private const long FixedBytes = (2 * SumsBytes) + TailBytes + 64;

    /// <summary>Bytes of scratch that <see cref="Multiply"/> needs for rows of so many columns, 64-byte aligned, one per worker.</summary>
    public static long ScratchBytes(int columns) => FixedBytes + (PanelRows * Math.Min(PanelColumns, ((long)columns + 15) & ~15L) * sizeof(float));

    /// <summary>y[t, r - from] (= or +=) dot(W[r, :], x[t, :]) for r in [from, to) and t in [0, tokens).</summary>
    /// <param name="w">[Rows, Columns] of a float type.</param>
    /// <param name="from">First row.</param>
    /// <param name="to">One past the last row.</param>
    /// <param name="x">[tokens, Columns], rows xStride elements apart.</param>
    /// <param name="xStride">Elements from a row of x to the next.</param>
    /// <param name="tokens">Rows of x and y.</param>
    /// <param name="y">[tokens, to - from], rows yStride elements apart.</param>
    /// <param name="yStride">Elements from a row of y to the next.</param>
    /// <param name="accumulate">Add to y (once, after the fold) instead of overwriting it.</param>
    /// <param name="scratch"><see cref="ScratchBytes"/> bytes of this thread's own.</param>
    public static void Multiply(
        in WeightMatrix w, int from, int to, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        FloatWeights rows = new(w.Data + (from * w.RowBytes), w.RowBytes, to - from, w.Scales, from);
        FloatVectors vectors = new(x, xStride, tokens);
        FloatOutput output = new(y, yStride, accumulate);
        if (Lanes512.IsSupported)
            Multiply<Lanes512>(w.Type, rows, vectors, w.Columns, output, scratch);
        else if (Lanes256.IsSupported)
            Multiply<Lanes256>(w.Type, rows, vectors, w.Columns, output, scratch);
        else
            Multiply<Lanes128>(w.Type, rows, vectors, w.Columns, output, scratch);
    }

    /// <summary>values[i] = F32 of W[row, i], times its scale where it has one, i in [0, Columns): an embedding's row.</summary>
    public static void DequantizeRow(in WeightMatrix w, int row, float* values)
    {
        if (Lanes512.IsSupported)
            DequantizeRow<Lanes512>(w, row, values);
        else if (Lanes256.IsSupported)
            DequantizeRow<Lanes256>(w, row, values);
        else
            DequantizeRow<Lanes128>(w, row, values);
    }

    internal static void Multiply<TLanes>(
        WeightType type, in FloatWeights w, in FloatVectors x, int columns, in FloatOutput y, byte* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        switch (type)
        {
            case WeightType.F32:
                Multiply<TLanes, F32Element>(w, x, columns, y, scratch);
                break;
            case WeightType.F16:
                Multiply<TLanes, F16Element>(w, x, columns, y, scratch);
                break;
            case WeightType.BF16:
                Multiply<TLanes, BF16Element>(w, x, columns, y, scratch);
                break;
            case WeightType.F8_E4M3:
                Multiply<TLanes, F8E4M3Element>(w, x, columns, y, scratch);
                break;
            default:
                throw new UnreachableException($"{type} is not a float type.");
        }
    }

    internal static void DequantizeRow<TLanes>(in WeightMatrix w, int row, float* values)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        byte* source = w.Data + (row * w.RowBytes);
        switch (w.Type)
        {
            case WeightType.F32:
                FloatElements.Widen<TLanes, F32Element>(source, values, w.Columns);
                break;
            case WeightType.F16:
                FloatElements.Widen<TLanes, F16Element>(source, values, w.Columns);
                break;
            case WeightType.BF16:
                FloatElements.Widen<TLanes, BF16Element>(source, values, w.Columns);
                break;
            case WeightType.F8_E4M3:
                FloatElements.Widen<TLanes, F8E4M3Element>(source, values, w.Columns);
                float* scales = w.Scales.Row(row, w.Columns);
                for (int k = 0; k < w.Columns; k++)
                    values[k] *= scales[k / w.Scales.BlockColumns];
                break;
            default:
                throw new UnreachableException($"{w.Type} is not a float type.");
        }
    }

    /// <summary>w [rows, columns] times x [vectors, columns].</summary>
    internal static void Multiply<TLanes, TElement>(in FloatWeights w, in FloatVectors x, int columns, in FloatOutput y, byte* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        if (x.Count <= TElement.DirectTokens && columns % 16 == 0 && !TElement.IsScaled)
        {
            int tiles = (x.Count + FloatTile.Vectors<TLanes>() - 1) / FloatTile.Vectors<TLanes>(), vectors = (x.Count + tiles - 1) / tiles; // 8 are 4 and 4, not 5 and 3
            for (int r = 0; r < w.Count; r += FloatTile.Rows)
            {
                for (int t = 0; t < x.Count; t += vectors)
                    FloatTile.Multiply<TLanes, TElement>(w.Slice(r, FloatTile.Rows), x.Slice(t, vectors), columns, y.At(t, r));
            }

            return;
        }

        if (TElement.IsScaled && typeof(TLanes) == typeof(Lanes512) && x.Count <= Float8Tokens && Float8Dot.Takes(w, columns))
        {
            for (int r = 0; r < w.Count; r += 4 * FloatTile.Rows)
            {
                for (int t = 0; t < x.Count; t++)
                    Float8Dot.Multiply(w.Slice(r, 4 * FloatTile.Rows), x.Data + (t * x.Stride), columns, y.At(t, r));
            }

            return;
        }

        int panelRows = x.Count <= FewTokens ? FloatTile.Rows : PanelRows;
        for (int t = 0; t < x.Count; t += PanelTokens)
        {
            for (int r = 0; r < w.Count; r += panelRows)
                MultiplyPanel<TLanes, TElement>(w.Slice(r, panelRows), x.Slice(t, PanelTokens), columns, y.At(t, r), scratch);
        }
    }

    /// <summary>Up to <see cref="PanelRows"/> rows and <see cref="PanelTokens"/> tokens, a stretch of columns after the other.</summary>
    private static void MultiplyPanel<TLanes, TElement>(in FloatWeights w, in FloatVectors x, int columns, in FloatOutput y, byte* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        float* panel = (float*)(scratch + FixedBytes), xTail = (float*)(scratch + (2 * SumsBytes));
        float** scales = stackalloc float*[PanelRows];
        ColumnBlocks blocks = new(columns, TElement.IsScaled ? Math.Min(columns, w.Scales.BlockColumns) : columns, TElement.IsScaled ? scales : null);
        for (int r = 0; r < PanelRows && TElement.IsScaled; r++)
            scales[r] = w.Scales.Row(w.FirstRow + Math.Min(r, w.Count - 1), columns);

        int whole = columns & ~15, tail = columns & 15;
        for (int k = 0; k < whole; k += PanelColumns)
        {
            int width = Math.Min(PanelColumns, whole - k);
            for (int r = 0; r < w.Count; r++)
            {
                byte* row = w.Data + (r * w.Stride) + ((long)k * TElement.Bytes);
                Prefetch(row + (w.Count * w.Stride), width * TElement.Bytes);
                FloatElements.Widen<TLanes, TElement>(row, panel + ((long)r * width), width);
            }

            FloatWeights stretch = new((byte*)panel, width * sizeof(float), w.Count);
            MultiplyStretch<TLanes>(stretch, new(x.Data + k, x.Stride, x.Count), k, k + width, blocks, y, (float*)scratch);
        }

        if (tail != 0)
        {
            for (int r = 0; r < w.Count; r++)
            {
                TLanes.Store(TLanes.Broadcast(-0f), panel + (r * 16)); // and the vectors +0: see Tail
                FloatElements.Widen<TLanes, TElement>(w.Data + (r * w.Stride) + ((long)whole * TElement.Bytes), panel + (r * 16), tail);
            }

            byte* stage = scratch + (2 * SumsBytes) + TailBytes;
            for (int t = 0; t < x.Count; t++)
                TLanes.Store(Tail.Load<TLanes, F32Element>((byte*)(x.Data + (t * x.Stride) + whole), tail, 0f, stage), xTail + (t * 16));
            MultiplyStretch<TLanes>(new((byte*)panel, 16 * sizeof(float), w.Count), new(xTail, 16, x.Count), whole, columns, blocks, y, (float*)scratch);
        }
    }

    /// <summary>All tiles of the columns [from, to): w and x begin at column from, and y at this panel.</summary>
    private static void MultiplyStretch<TLanes>(
        in FloatWeights w, in FloatVectors x, int from, int to, in ColumnBlocks blocks, in FloatOutput y, float* sums)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        (int firstBlock, int offset) = Math.DivRem(from, blocks.Width);
        for (int t = 0; t < x.Count; t += FloatTile.Vectors<TLanes>())
        {
            FloatVectors vectors = x.Slice(t, FloatTile.Vectors<TLanes>());
            for (int r = 0; r < w.Count; r += FloatTile.Rows)
            {
                FloatWeights rows = w.Slice(r, FloatTile.Rows);
                int start = from - offset;
                for (int k = from, block = firstBlock; k < to; block++)
                {
                    int blockEnd = (int)Math.Min(blocks.Columns, (long)start + blocks.Width), end = Math.Min(to, blockEnd);
                    TilePart part = (k == start ? TilePart.First : 0) | (end == blockEnd ? TilePart.Last : 0);
                    FloatTile.Multiply<TLanes, PanelElement>(
                        new(rows.Data + ((k - from) * (long)sizeof(float)), rows.Stride, rows.Count), new(vectors.Data + (k - from), vectors.Stride, vectors.Count),
                        (end - k + 15) & ~15, y.At(t, r), sums, part, blocks.Scale(block, r, sums + (SumsBytes / sizeof(float))));
                    k = start = end;
                }

                sums += FloatTile.Rows * FloatTile.Vectors<TLanes>() * 16;
            }
        }
    }

    /// <summary>Asks L2 for a row of the next panel: converting costs so many operations per byte that the processor alone does not look that far ahead.</summary>
    private static void Prefetch(byte* row, int bytes)
    {
        for (int i = 0; i < bytes && Sse.IsSupported; i += 64)
            Sse.Prefetch1(row + i);
    }

    /// <summary>The blocks of columns that have a scale each; or all columns, without.</summary>
    private readonly struct ColumnBlocks(int columns, int width, float** scales)
    {
        public readonly int Columns = columns;
        public readonly int Width = width;

        public BlockScale Scale(int block, int row, float* totals) => scales is null ? default : new(
            totals,
            Vector128.Create(scales[row][block], scales[row + 1][block], scales[row + 2][block], scales[row + 3][block]),
            (block == 0 ? TilePart.First : 0) | (((long)block + 1) * Width >= Columns ? TilePart.Last : 0));
    }
}
