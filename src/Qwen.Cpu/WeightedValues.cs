using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>Sums of value vectors, each row with its own weights: the second half of attention.</summary>
internal static unsafe class WeightedValues
{
    private const int TileRows = 4;

    /// <summary>output[r, d] = fma(weights[r, j], values[j, d], output[r, d]) for j rising over [from, to) within the row's own range.</summary>
    /// <remarks>
    /// Four rows share the loads of a value where all of them want it; where their ranges differ, at the edge of causality and of a
    /// sliding window, each goes alone. So a row never touches a value outside its range, not even with weight 0 (which infinity would survive).
    /// </remarks>
    /// <param name="weights">[rows, weightStride].</param>
    /// <param name="weightStride">Floats from a row's weights to the next row's.</param>
    /// <param name="ranges">[rows]: the j that the row wants.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="values">Value number from, first byte; valueStride bytes from a value to the next.</param>
    /// <param name="valueStride">Bytes.</param>
    /// <param name="from">First j.</param>
    /// <param name="to">One past the last j.</param>
    /// <param name="output">[rows, width].</param>
    /// <param name="width">Elements of a value, a multiple of 16.</param>
    public static void Accumulate<TLanes, TElement>(
        float* weights, int weightStride, PositionRange* ranges, int rows, byte* values, long valueStride, int from, int to, float* output, int width)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        // 4 rows x 64 elements are 16 of AVX-512's 32 registers; 4 x 16 are 8 of AVX2's 16.
        int tileWidth = typeof(TLanes) == typeof(Lanes512) ? 64 : 16;
        for (int d = 0; d < width; d += tileWidth)
        {
            for (int r = 0; r < rows; r += TileRows)
            {
                int count = Math.Min(TileRows, rows - r);
                Rows tile = new(weights + ((long)r * weightStride), weightStride, output + ((long)r * width), width, 0, count);
                int start = from, end = to;
                for (int i = 0; i < count; i++)
                {
                    start = Math.Max(start, ranges[r + i].From);
                    end = Math.Min(end, ranges[r + i].To);
                }

                bool shared = start < end && count > 1;
                for (int i = 0; i < count; i++)
                {
                    int first = Math.Max(from, ranges[r + i].From), last = Math.Min(to, ranges[r + i].To);
                    Elements<TLanes, TElement>(tile.One(i), values, valueStride, from, first, shared ? start : last, d, tileWidth);
                }

                if (!shared)
                    continue;
                Elements<TLanes, TElement>(tile, values, valueStride, from, start, end, d, tileWidth);
                for (int i = 0; i < count; i++)
                    Elements<TLanes, TElement>(tile.One(i), values, valueStride, from, end, Math.Min(to, ranges[r + i].To), d, tileWidth);
            }
        }
    }

    /// <summary>The elements [d, d + tileWidth) of values [first, last), cut at the end of the row.</summary>
    private static void Elements<TLanes, TElement>(
        in Rows rows, byte* values, long valueStride, int from, int first, int last, int d, int tileWidth)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        if (first >= last)
            return;
        byte* value = values + ((first - from) * valueStride) + ((long)d * TElement.Bytes);
        if (tileWidth == 64 && rows.Width - d >= 64)
        {
            FourRows64<TLanes, TElement>(rows, value, valueStride, first, last, d);
            return;
        }

        for (int i = d; i < Math.Min(d + tileWidth, rows.Width); i += 16)
        {
            FourRows16<TLanes, TElement>(rows, value, valueStride, first, last, i);
            value += 16 * TElement.Bytes;
        }
    }

    private static void FourRows64<TLanes, TElement>(in Rows rows, byte* value, long valueStride, int first, int last, int d)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        float* p0 = rows.Weight(0), p1 = rows.Weight(1), p2 = rows.Weight(2), p3 = rows.Weight(3);
        float* o0 = rows.Output(0) + d, o1 = rows.Output(1) + d, o2 = rows.Output(2) + d, o3 = rows.Output(3) + d;
        FourLanes<TLanes> s0 = FourLanes<TLanes>.Load(o0), s1 = FourLanes<TLanes>.Load(o1), s2 = FourLanes<TLanes>.Load(o2), s3 = FourLanes<TLanes>.Load(o3);
        for (nint j = first; j < last; j++)
        {
            TLanes v0 = TElement.Load<TLanes>(value), v1 = TElement.Load<TLanes>(value + (16 * TElement.Bytes));
            TLanes v2 = TElement.Load<TLanes>(value + (32 * TElement.Bytes)), v3 = TElement.Load<TLanes>(value + (48 * TElement.Bytes));
            s0.MultiplyAdd(v0, v1, v2, v3, TLanes.Broadcast(p0[j]));
            s1.MultiplyAdd(v0, v1, v2, v3, TLanes.Broadcast(p1[j]));
            s2.MultiplyAdd(v0, v1, v2, v3, TLanes.Broadcast(p2[j]));
            s3.MultiplyAdd(v0, v1, v2, v3, TLanes.Broadcast(p3[j]));
            value += valueStride;
        }

        s0.Store(o0);
        if (rows.Count > 1)
            s1.Store(o1);
        if (rows.Count > 2)
            s2.Store(o2);
        if (rows.Count > 3)
            s3.Store(o3);
    }

    private static void FourRows16<TLanes, TElement>(in Rows rows, byte* value, long valueStride, int first, int last, int d)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        float* p0 = rows.Weight(0), p1 = rows.Weight(1), p2 = rows.Weight(2), p3 = rows.Weight(3);
        float* o0 = rows.Output(0) + d, o1 = rows.Output(1) + d, o2 = rows.Output(2) + d, o3 = rows.Output(3) + d;
        TLanes s0 = TLanes.Load(o0), s1 = TLanes.Load(o1), s2 = TLanes.Load(o2), s3 = TLanes.Load(o3);
        for (nint j = first; j < last; j++)
        {
            TLanes v = TElement.Load<TLanes>(value);
            s0 = TLanes.MultiplyAdd(TLanes.Broadcast(p0[j]), v, s0);
            s1 = TLanes.MultiplyAdd(TLanes.Broadcast(p1[j]), v, s1);
            s2 = TLanes.MultiplyAdd(TLanes.Broadcast(p2[j]), v, s2);
            s3 = TLanes.MultiplyAdd(TLanes.Broadcast(p3[j]), v, s3);
            value += valueStride;
        }

        TLanes.Store(s0, o0);
        if (rows.Count > 1)
            TLanes.Store(s1, o1);
        if (rows.Count > 2)
            TLanes.Store(s2, o2);
        if (rows.Count > 3)
            TLanes.Store(s3, o3);
    }

    /// <summary>Up to four rows of a tile; a missing one repeats the last and is not stored.</summary>
    private readonly struct Rows(float* weights, long weightStride, float* output, int width, int first, int count)
    {
        public readonly int Width = width;
        public readonly int Count = count;

        public float* Weight(int row) => weights + ((first + Math.Min(row, Count - 1)) * weightStride);

        public float* Output(int row) => output + ((long)(first + Math.Min(row, Count - 1)) * Width);

        public Rows One(int row) => new(weights, weightStride, output, Width, first + row, 1);
    }
}

/// <summary>Positions [From, To).</summary>
internal readonly struct PositionRange(int from, int to)
{
    public readonly int From = from;
    public readonly int To = to;
}
