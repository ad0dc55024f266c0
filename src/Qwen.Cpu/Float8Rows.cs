using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Rows of an F8_E4M3 matrix with a grid of scales times F32 vectors.</summary>
/// <remarks>
/// A weight is E4M3(code) * scale, rounded to F32 once; from there on the order is that of <see cref="FloatRows"/>, so the bits are those
/// of the same matrix widened to F32. A code's seven low bits, moved to where a float has its exponent and fraction, are the value times
/// 2^-120; the scale times 2^120 mends that in the product that is due anyway. So a scale must be below <see cref="ScaleGrid.MaxScale"/>, and the two
/// NaN codes, which would come out as 480, are not for these kernels.
/// Few tokens read the codes as they lie; many share rows that were widened to F32 in L2.
/// </remarks>
internal static unsafe class Float8Rows
{
    private const int Rows = FloatTile.Rows;
    private const int DirectTokens = 6;

    /// <summary>Bytes of scratch for <see cref="Multiply"/>, 64-byte aligned, one per worker.</summary>
    public static long ScratchBytes(int columns) => FloatRows.ScratchBytes(columns) + ((long)StackedMatrix.TileRows * columns * sizeof(float));

    /// <summary>values[k] = E4M3(W[row, k]) * scale of its block.</summary>
    public static void DequantizeRow(in WeightMatrix w, int row, float* values)
    {
        if (Lanes512.IsSupported)
            DequantizeRow<Lanes512>(w, row, values);
        else if (Lanes256.IsSupported)
            DequantizeRow<Lanes256>(w, row, values);
        else
            DequantizeRow<Lanes128>(w, row, values);
    }

    /// <inheritdoc cref="FloatRows.Multiply(in WeightMatrix, int, int, float*, long, int, float*, long, bool, byte*)"/>
    public static void Multiply(
        in WeightMatrix w, int from, int to, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        FloatVectors vectors = new(x, xStride, tokens);
        FloatOutput output = new(y, yStride, accumulate);
        if (Lanes512.IsSupported)
            Multiply<Lanes512>(w, from, to, vectors, output, scratch);
        else if (Lanes256.IsSupported)
            Multiply<Lanes256>(w, from, to, vectors, output, scratch);
        else
            Multiply<Lanes128>(w, from, to, vectors, output, scratch);
    }

    internal static void Multiply<TLanes>(in WeightMatrix w, int from, int to, in FloatVectors x, in FloatOutput y, byte* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        if (x.Count <= DirectTokens && w.Columns % 16 == 0)
        {
            for (int row = from; row < to; row += Rows)
            {
                for (int t = 0; t < x.Count; t++)
                    FourRows<TLanes>(w, row, Math.Min(Rows, to - row), x.Data + (t * x.Stride), y.At(t, row - from));
            }

            return;
        }

        float* rows = (float*)(scratch + FloatRows.ScratchBytes(w.Columns));
        for (int row = from; row < to; row += StackedMatrix.TileRows)
        {
            int count = Math.Min(StackedMatrix.TileRows, to - row);
            for (int r = 0; r < count; r++)
                DequantizeRow<TLanes>(w, row + r, rows + ((long)r * w.Columns));
            FloatWeights widened = new((byte*)rows, w.Columns * (long)sizeof(float), count);
            FloatRows.Multiply<TLanes, F32Element>(widened, x, w.Columns, y.At(0, row - from), scratch);
        }
    }

    internal static void DequantizeRow<TLanes>(in WeightMatrix w, int row, float* values)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        byte* codes = w.Data + (row * w.RowBytes);
        float* scale = Scales(w, row);
        byte* staged = stackalloc byte[16];
        float* wide = stackalloc float[16];
        for (int first = 0; first < w.Columns; first += w.Scales.BlockColumns)
        {
            TLanes factor = TLanes.Broadcast(*scale++ * Float8Element<E4M3>.Unit);
            int last = (int)Math.Min(w.Columns, (long)first + w.Scales.BlockColumns), k = first;
            for (; k <= last - 16; k += 16)
                TLanes.Store(Codes<TLanes>(codes + k) * factor, values + k);
            if (k == last)
                continue;
            Buffer.MemoryCopy(codes + k, staged, 16, last - k);
            TLanes.Store(Codes<TLanes>(staged) * factor, wide);
            Buffer.MemoryCopy(wide, values + k, (last - k) * sizeof(float), (last - k) * sizeof(float));
        }
    }

    /// <summary>Up to four rows times one vector.</summary>
    private static void FourRows<TLanes>(in WeightMatrix w, int row, int count, float* x, in FloatOutput y)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        // Missing rows repeat the last one and are not stored.
        int row1 = row + Math.Min(1, count - 1), row2 = row + Math.Min(2, count - 1), row3 = row + Math.Min(3, count - 1);
        byte* w0 = w.Data + (row * w.RowBytes);
        byte* w1 = w.Data + (row1 * w.RowBytes);
        byte* w2 = w.Data + (row2 * w.RowBytes);
        byte* w3 = w.Data + (row3 * w.RowBytes);
        float* s0 = Scales(w, row), s1 = Scales(w, row1), s2 = Scales(w, row2), s3 = Scales(w, row3);
        FourLanes<TLanes> sums = default;
        nint k = 0;
        for (nint block = 0; k < w.Columns; block++)
        {
            TLanes f0 = TLanes.Broadcast(s0[block] * Float8Element<E4M3>.Unit), f1 = TLanes.Broadcast(s1[block] * Float8Element<E4M3>.Unit);
            TLanes f2 = TLanes.Broadcast(s2[block] * Float8Element<E4M3>.Unit), f3 = TLanes.Broadcast(s3[block] * Float8Element<E4M3>.Unit);
            for (nint end = (nint)Math.Min(w.Columns, k + (long)w.Scales.BlockColumns); k < end; k += 16)
            {
                // A cache line of the next four rows, which lie one after the other.
                if (Sse.IsSupported)
                    Sse.Prefetch1(w0 + (Rows * (w.RowBytes + k)));
                sums.MultiplyAdd(
                    Codes<TLanes>(w0 + k) * f0, Codes<TLanes>(w1 + k) * f1, Codes<TLanes>(w2 + k) * f2, Codes<TLanes>(w3 + k) * f3, TLanes.Load(x + k));
            }
        }

        y.Store(0, sums.Fold(), count);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Codes<TLanes>(byte* codes)
        where TLanes : unmanaged, ILanes<TLanes> => Float8Element<E4M3>.LoadUnscaled<TLanes>(codes);

    /// <summary>The scales of a row's blocks.</summary>
    private static float* Scales(in WeightMatrix w, int row)
    {
        long across = ((long)w.Columns + w.Scales.BlockColumns - 1) / w.Scales.BlockColumns;
        return w.Scales.Values + (row / w.Scales.BlockRows * across);
    }
}
