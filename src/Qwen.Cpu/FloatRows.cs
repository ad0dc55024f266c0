using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Rows of F32, F16 and BF16 matrices times F32 activations: y[t, r] = Fold(lanes of W[r, k] * x[t, k]), lane l taking k = l, l + 16, ...</summary>
/// <remarks>
/// Lanes run along k in every case, so one token or many, the bits are the same. One to three tokens read the matrix where it is
/// (memory-bound: 2 bytes a weight in BF16); four or more widen 16 rows to F32 in the caller's scratch, which stays in the L2 cache,
/// and run a register tile over them (arithmetic-bound: 16 accumulators for 8 loads).
/// </remarks>
internal static unsafe class FloatRows
{
    private const int PanelRows = 16, PanelTokens = 4;

    /// <summary>Scratch that <see cref="Multiply"/> needs.</summary>
    public static long ScratchBytes(int columns) => PanelRows * (long)Stride(columns) * sizeof(float);

    /// <summary>y[t * yStride + r - from] (+)= W[r, :] . x[t * xStride ..] for rows [from, to) and tokens [0, tokens).</summary>
    public static void Multiply(in WeightMatrix w, int from, int to, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        switch (w.Type)
        {
            case WeightType.F32:
                Multiply<F32>(w, from, to, x, xStride, tokens, y, yStride, accumulate, scratch);
                break;
            case WeightType.F16:
                Multiply<F16>(w, from, to, x, xStride, tokens, y, yStride, accumulate, scratch);
                break;
            case WeightType.BF16:
                Multiply<BF16>(w, from, to, x, xStride, tokens, y, yStride, accumulate, scratch);
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(w), w.Type, "is not a float type.");
        }
    }

    private static void Multiply<T>(in WeightMatrix w, int from, int to, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
        where T : struct, IFloatFormat
    {
        int columns = w.Columns;
        if (tokens < PanelTokens)
        {
            for (int t = 0; t < tokens; t++)
                Rows<T>(w.Data + (from * w.RowBytes), w.RowBytes, to - from, x + (t * xStride), columns, y + (t * yStride), accumulate);
            return;
        }

        int stride = Stride(columns);
        float* panel = (float*)scratch;
        for (int first = from; first < to; first += PanelRows)
        {
            int rows = Math.Min(PanelRows, to - first);
            for (int r = 0; r < rows; r++)
                IFloatFormat.Widen<T>(w.Data + ((first + r) * w.RowBytes), panel + ((long)r * stride), columns);
            Panel(panel, stride, rows, x, xStride, tokens, columns, y + (first - from), yStride, accumulate);
        }
    }

    // Rows of the panel start on a cache line, and not all in the same cache set.
    private static int Stride(int columns) => ((columns + 15) & ~15) + 16;

    private static void Panel(float* panel, int stride, int rows, float* x, long xStride, int tokens, int columns, float* y, long yStride, bool accumulate)
    {
        int t = 0;
        if (Vector512.IsHardwareAccelerated)
        {
            for (; t <= tokens - 4; t += 4)
            {
                int r = 0;
                for (; r <= rows - 4; r += 4)
                    Tile4x4(panel + ((long)r * stride), stride, x + (t * xStride), xStride, columns, y + (t * yStride) + r, yStride, accumulate);
                for (int i = 0; i < 4; i++)
                    Rows<F32>((byte*)(panel + ((long)r * stride)), stride * sizeof(float), rows - r, x + ((t + i) * xStride), columns, y + ((t + i) * yStride) + r, accumulate);
            }
        }
        else
        {
            for (; t <= tokens - 2; t += 2)
            {
                int r = 0;
                for (; r <= rows - 2; r += 2)
                    Tile2x2(panel + ((long)r * stride), stride, x + (t * xStride), xStride, columns, y + (t * yStride) + r, yStride, accumulate);
                for (int i = 0; i < 2; i++)
                    Rows<F32>((byte*)(panel + ((long)r * stride)), stride * sizeof(float), rows - r, x + ((t + i) * xStride), columns, y + ((t + i) * yStride) + r, accumulate);
            }
        }

        for (; t < tokens; t++)
            Rows<F32>((byte*)panel, stride * sizeof(float), rows, x + (t * xStride), columns, y + (t * yStride), accumulate);
    }

    /// <summary>One token, several rows: four at a time, as one chain of additions would wait four cycles for each.</summary>
    [SkipLocalsInit]
    private static void Rows<T>(byte* w, long rowBytes, int rows, float* x, int columns, float* y, bool accumulate)
        where T : struct, IFloatFormat
    {
        int body = columns & ~15, tail = columns & 15;
        Vector512<float> xTail = tail == 0 ? default : Lanes.LoadPartial(x + body, tail);
        int r = 0;
        for (; r <= rows - 4; r += 4, w += 4 * rowBytes)
        {
            byte* w1 = w + rowBytes, w2 = w1 + rowBytes, w3 = w2 + rowBytes;
            Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default;
            for (int k = 0; k < body; k += Lanes.Count)
            {
                Vector512<float> v = Vector512.Load(x + k);
                a0 = Vector512.FusedMultiplyAdd(T.Load(w, k), v, a0);
                a1 = Vector512.FusedMultiplyAdd(T.Load(w1, k), v, a1);
                a2 = Vector512.FusedMultiplyAdd(T.Load(w2, k), v, a2);
                a3 = Vector512.FusedMultiplyAdd(T.Load(w3, k), v, a3);
            }

            if (tail != 0)
            {
                a0 = Vector512.FusedMultiplyAdd(IFloatFormat.LoadPartial<T>(w, body, tail), xTail, a0);
                a1 = Vector512.FusedMultiplyAdd(IFloatFormat.LoadPartial<T>(w1, body, tail), xTail, a1);
                a2 = Vector512.FusedMultiplyAdd(IFloatFormat.LoadPartial<T>(w2, body, tail), xTail, a2);
                a3 = Vector512.FusedMultiplyAdd(IFloatFormat.LoadPartial<T>(w3, body, tail), xTail, a3);
            }

            Put(y + r, a0, accumulate);
            Put(y + r + 1, a1, accumulate);
            Put(y + r + 2, a2, accumulate);
            Put(y + r + 3, a3, accumulate);
        }

        for (; r < rows; r++, w += rowBytes)
        {
            Vector512<float> a = default;
            for (int k = 0; k < body; k += Lanes.Count)
                a = Vector512.FusedMultiplyAdd(T.Load(w, k), Vector512.Load(x + k), a);
            if (tail != 0)
                a = Vector512.FusedMultiplyAdd(IFloatFormat.LoadPartial<T>(w, body, tail), xTail, a);
            Put(y + r, a, accumulate);
        }
    }

    /// <summary>4 rows by 4 tokens: 16 accumulators, 4 weights and a load-op in the 32 registers of AVX-512.</summary>
    [SkipLocalsInit]
    private static void Tile4x4(float* w, int stride, float* x, long xStride, int columns, float* y, long yStride, bool accumulate)
    {
        float* x1 = x + xStride, x2 = x1 + xStride, x3 = x2 + xStride, w1 = w + stride, w2 = w1 + stride, w3 = w2 + stride;
        Vector512<float> a00 = default, a01 = default, a02 = default, a03 = default, a10 = default, a11 = default, a12 = default, a13 = default;
        Vector512<float> a20 = default, a21 = default, a22 = default, a23 = default, a30 = default, a31 = default, a32 = default, a33 = default;
        int body = columns & ~15;
        for (int k = 0; k < body; k += Lanes.Count)
        {
            Vector512<float> b0 = Vector512.Load(w + k), b1 = Vector512.Load(w1 + k), b2 = Vector512.Load(w2 + k), b3 = Vector512.Load(w3 + k);
            Vector512<float> v = Vector512.Load(x + k);
            a00 = Vector512.FusedMultiplyAdd(b0, v, a00);
            a01 = Vector512.FusedMultiplyAdd(b1, v, a01);
            a02 = Vector512.FusedMultiplyAdd(b2, v, a02);
            a03 = Vector512.FusedMultiplyAdd(b3, v, a03);
            v = Vector512.Load(x1 + k);
            a10 = Vector512.FusedMultiplyAdd(b0, v, a10);
            a11 = Vector512.FusedMultiplyAdd(b1, v, a11);
            a12 = Vector512.FusedMultiplyAdd(b2, v, a12);
            a13 = Vector512.FusedMultiplyAdd(b3, v, a13);
            v = Vector512.Load(x2 + k);
            a20 = Vector512.FusedMultiplyAdd(b0, v, a20);
            a21 = Vector512.FusedMultiplyAdd(b1, v, a21);
            a22 = Vector512.FusedMultiplyAdd(b2, v, a22);
            a23 = Vector512.FusedMultiplyAdd(b3, v, a23);
            v = Vector512.Load(x3 + k);
            a30 = Vector512.FusedMultiplyAdd(b0, v, a30);
            a31 = Vector512.FusedMultiplyAdd(b1, v, a31);
            a32 = Vector512.FusedMultiplyAdd(b2, v, a32);
            a33 = Vector512.FusedMultiplyAdd(b3, v, a33);
        }

        int tail = columns & 15;
        if (tail != 0)
        {
            Vector512<float> b0 = Lanes.LoadPartial(w + body, tail), b1 = Lanes.LoadPartial(w1 + body, tail), b2 = Lanes.LoadPartial(w2 + body, tail), b3 = Lanes.LoadPartial(w3 + body, tail);
            Vector512<float> v0 = Lanes.LoadPartial(x + body, tail), v1 = Lanes.LoadPartial(x1 + body, tail), v2 = Lanes.LoadPartial(x2 + body, tail), v3 = Lanes.LoadPartial(x3 + body, tail);
            (a00, a01, a02, a03) = (Vector512.FusedMultiplyAdd(b0, v0, a00), Vector512.FusedMultiplyAdd(b1, v0, a01), Vector512.FusedMultiplyAdd(b2, v0, a02), Vector512.FusedMultiplyAdd(b3, v0, a03));
            (a10, a11, a12, a13) = (Vector512.FusedMultiplyAdd(b0, v1, a10), Vector512.FusedMultiplyAdd(b1, v1, a11), Vector512.FusedMultiplyAdd(b2, v1, a12), Vector512.FusedMultiplyAdd(b3, v1, a13));
            (a20, a21, a22, a23) = (Vector512.FusedMultiplyAdd(b0, v2, a20), Vector512.FusedMultiplyAdd(b1, v2, a21), Vector512.FusedMultiplyAdd(b2, v2, a22), Vector512.FusedMultiplyAdd(b3, v2, a23));
            (a30, a31, a32, a33) = (Vector512.FusedMultiplyAdd(b0, v3, a30), Vector512.FusedMultiplyAdd(b1, v3, a31), Vector512.FusedMultiplyAdd(b2, v3, a32), Vector512.FusedMultiplyAdd(b3, v3, a33));
        }

        Put4(y, a00, a01, a02, a03, accumulate);
        Put4(y + yStride, a10, a11, a12, a13, accumulate);
        Put4(y + (2 * yStride), a20, a21, a22, a23, accumulate);
        Put4(y + (3 * yStride), a30, a31, a32, a33, accumulate);
    }

    /// <summary>2 rows by 2 tokens: what the 16 registers of AVX2 hold, two to an accumulator.</summary>
    [SkipLocalsInit]
    private static void Tile2x2(float* w, int stride, float* x, long xStride, int columns, float* y, long yStride, bool accumulate)
    {
        float* x1 = x + xStride, w1 = w + stride;
        Vector512<float> a00 = default, a01 = default, a10 = default, a11 = default;
        int body = columns & ~15, tail = columns & 15;
        for (int k = 0; k < body; k += Lanes.Count)
        {
            Vector512<float> b0 = Vector512.Load(w + k), b1 = Vector512.Load(w1 + k), v0 = Vector512.Load(x + k), v1 = Vector512.Load(x1 + k);
            a00 = Vector512.FusedMultiplyAdd(b0, v0, a00);
            a01 = Vector512.FusedMultiplyAdd(b1, v0, a01);
            a10 = Vector512.FusedMultiplyAdd(b0, v1, a10);
            a11 = Vector512.FusedMultiplyAdd(b1, v1, a11);
        }

        if (tail != 0)
        {
            Vector512<float> b0 = Lanes.LoadPartial(w + body, tail), b1 = Lanes.LoadPartial(w1 + body, tail), v0 = Lanes.LoadPartial(x + body, tail), v1 = Lanes.LoadPartial(x1 + body, tail);
            a00 = Vector512.FusedMultiplyAdd(b0, v0, a00);
            a01 = Vector512.FusedMultiplyAdd(b1, v0, a01);
            a10 = Vector512.FusedMultiplyAdd(b0, v1, a10);
            a11 = Vector512.FusedMultiplyAdd(b1, v1, a11);
        }

        Put(y, a00, accumulate);
        Put(y + 1, a01, accumulate);
        Put(y + yStride, a10, accumulate);
        Put(y + yStride + 1, a11, accumulate);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put4(float* y, Vector512<float> a0, Vector512<float> a1, Vector512<float> a2, Vector512<float> a3, bool accumulate)
    {
        Put(y, a0, accumulate);
        Put(y + 1, a1, accumulate);
        Put(y + 2, a2, accumulate);
        Put(y + 3, a3, accumulate);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(float* y, Vector512<float> lanes, bool accumulate) => *y = accumulate ? *y + Lanes.Fold(lanes) : Lanes.Fold(lanes);
}
