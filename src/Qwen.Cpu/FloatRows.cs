using System.Diagnostics;

namespace Qwen.Cpu;

/// <summary>Rows of an F32, F16 or BF16 matrix times F32 vectors.</summary>
/// <remarks>
/// Canonical order of a dot product of K terms: lane l of sixteen sums k = l, l + 16, .. by fused multiply-add, then the lanes fold
/// (<see cref="ILanes{TSelf}.Fold(TSelf)"/>). It depends on K only, so a result has the same bits alone and in any batch.
/// Few tokens read the stored rows directly, converting as they load: that is bound by memory. Many tokens share a panel: some rows
/// converted to F32 once.
/// </remarks>
internal static unsafe class FloatRows
{
    /// <summary>Up to this many tokens, converting the stored elements again for each tile of tokens is cheaper than writing a panel.</summary>
    private const int DirectTokens = 12;

    // A panel is 32 rows x 1,024 columns of F32, 128 KB in L2. The six tokens of a tile over the same columns are 24 KB: they stay in L1
    // while the panel's rows pass by. Between two column blocks the lane sums of 32 rows x 96 tokens (192 KB) rest in scratch.
    private const int PanelRows = 32;
    private const int PanelColumns = 1024;
    private const int PanelTokens = 96;

    private const long PanelBytes = PanelRows * PanelColumns * sizeof(float);
    private const long SumsBytes = PanelRows * PanelTokens * 16 * sizeof(float);
    private const long TailBytes = PanelTokens * 16 * sizeof(float);

    /// <summary>Bytes of scratch that <see cref="Multiply"/> needs for rows of so many columns, 64-byte aligned, one per worker.</summary>
    /// <remarks>Sums rest there only between column blocks, of which a narrow matrix has one.</remarks>
    public static long ScratchBytes(int columns) =>
        columns <= PanelColumns && columns % 16 == 0 ? PanelBytes : PanelBytes + SumsBytes + TailBytes + 64;

    /// <summary>y[t, r - from] (= or +=) dot(W[r, :], x[t, :]) for r in [from, to) and t in [0, tokens).</summary>
    /// <param name="w">[Rows, Columns] of F32, F16 or BF16.</param>
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
        FloatWeights rows = new(w.Data + (from * w.RowBytes), w.RowBytes, to - from);
        FloatVectors vectors = new(x, xStride, tokens);
        FloatOutput output = new(y, yStride, accumulate);
        if (Lanes512.IsSupported)
            Multiply<Lanes512>(w.Type, rows, vectors, w.Columns, output, scratch);
        else if (Lanes256.IsSupported)
            Multiply<Lanes256>(w.Type, rows, vectors, w.Columns, output, scratch);
        else
            Multiply<Lanes128>(w.Type, rows, vectors, w.Columns, output, scratch);
    }

    /// <summary>values[i] = F32 of W[row, i], i in [0, Columns): an embedding's row.</summary>
    public static void DequantizeRow(in WeightMatrix w, int row, float* values)
    {
        byte* source = w.Data + (row * w.RowBytes);
        if (Lanes512.IsSupported)
            DequantizeRow<Lanes512>(w.Type, source, values, w.Columns);
        else if (Lanes256.IsSupported)
            DequantizeRow<Lanes256>(w.Type, source, values, w.Columns);
        else
            DequantizeRow<Lanes128>(w.Type, source, values, w.Columns);
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
            default:
                throw new UnreachableException($"{type} is not a float type.");
        }
    }

    internal static void DequantizeRow<TLanes>(WeightType type, byte* source, float* values, int columns)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        switch (type)
        {
            case WeightType.F32:
                FloatElements.Widen<TLanes, F32Element>(source, values, columns);
                break;
            case WeightType.F16:
                FloatElements.Widen<TLanes, F16Element>(source, values, columns);
                break;
            case WeightType.BF16:
                FloatElements.Widen<TLanes, BF16Element>(source, values, columns);
                break;
            default:
                throw new UnreachableException($"{type} is not a float type.");
        }
    }

    /// <summary>w [rows, columns] times x [vectors, columns].</summary>
    internal static void Multiply<TLanes, TElement>(in FloatWeights w, in FloatVectors x, int columns, in FloatOutput y, byte* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        if (x.Count <= DirectTokens && columns % 16 == 0)
        {
            for (int r = 0; r < w.Count; r += FloatTile.Rows)
            {
                for (int t = 0; t < x.Count; t += FloatTile.Vectors<TLanes>())
                {
                    FloatTile.Multiply<TLanes, TElement>(
                        w.Slice(r, FloatTile.Rows), x.Slice(t, FloatTile.Vectors<TLanes>()), columns, y.At(t, r));
                }
            }

            return;
        }

        for (int t = 0; t < x.Count; t += PanelTokens)
        {
            for (int r = 0; r < w.Count; r += PanelRows)
                MultiplyPanel<TLanes, TElement>(w.Slice(r, PanelRows), x.Slice(t, PanelTokens), columns, y.At(t, r), scratch);
        }
    }

    /// <summary>Up to <see cref="PanelRows"/> rows and <see cref="PanelTokens"/> tokens, column block by column block.</summary>
    private static void MultiplyPanel<TLanes, TElement>(in FloatWeights w, in FloatVectors x, int columns, in FloatOutput y, byte* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        byte* panel = scratch;
        float* sums = (float*)(panel + PanelBytes);
        float* xTail = (float*)(panel + PanelBytes + SumsBytes);
        byte* stage = panel + PanelBytes + SumsBytes + TailBytes;

        int whole = columns & ~15, tail = columns & 15;
        for (int k = 0; k < whole; k += PanelColumns)
        {
            int width = Math.Min(PanelColumns, whole - k);
            FloatWeights block = new(panel, width * sizeof(float), w.Count);
            for (int r = 0; r < w.Count; r++)
                FloatElements.Widen<TLanes, TElement>(w.Data + (r * w.Stride) + ((long)k * TElement.Bytes), (float*)(panel + (r * block.Stride)), width);
            TilePart part = (k == 0 ? TilePart.First : 0) | (k + width == columns ? TilePart.Last : 0);
            MultiplyBlock<TLanes>(block, new(x.Data + k, x.Stride, x.Count), width, y, sums, part);
        }

        if (tail != 0)
        {
            for (int r = 0; r < w.Count; r++)
                TLanes.Store(Tail.Load<TLanes, TElement>(w.Data + (r * w.Stride) + ((long)whole * TElement.Bytes), tail, -0f, stage), (float*)panel + (r * 16));
            for (int t = 0; t < x.Count; t++)
                TLanes.Store(Tail.Load<TLanes, F32Element>((byte*)(x.Data + (t * x.Stride) + whole), tail, 0f, stage), xTail + (t * 16));
            TilePart part = (whole == 0 ? TilePart.First : 0) | TilePart.Last;
            MultiplyBlock<TLanes>(new(panel, 16 * sizeof(float), w.Count), new(xTail, 16, x.Count), 16, y, sums, part);
        }
    }

    /// <summary>All tiles of one column block of a panel.</summary>
    private static void MultiplyBlock<TLanes>(in FloatWeights w, in FloatVectors x, int width, in FloatOutput y, float* sums, TilePart part)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        for (int t = 0; t < x.Count; t += FloatTile.Vectors<TLanes>())
        {
            FloatVectors vectors = x.Slice(t, FloatTile.Vectors<TLanes>());
            for (int r = 0; r < w.Count; r += FloatTile.Rows)
            {
                FloatTile.Multiply<TLanes, PanelElement>(w.Slice(r, FloatTile.Rows), vectors, width, y.At(t, r), sums, part);
                sums += FloatTile.Rows * FloatTile.Vectors<TLanes>() * 16;
            }
        }
    }
}
