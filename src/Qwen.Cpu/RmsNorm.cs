namespace Qwen.Cpu;

/// <summary>Root-mean-square normalisation (Zhang and Sennrich, 2019) of rows.</summary>
public static unsafe class RmsNorm
{
    /// <summary>Normalises rows over all threads: y[r, i] = (x[r, i] * s) * weight[i], s = 1 / sqrt(mean of x[r, :]^2 + epsilon).</summary>
    /// <remarks>
    /// Canonical order, per row and in F32: lane l of sixteen sums the squares of i = l, l + 16, .. by fused multiply-add; the lanes fold;
    /// the sum is divided by the width, epsilon is added, then the root, its reciprocal, and the two products.
    /// </remarks>
    /// <param name="pool">The threads.</param>
    /// <param name="x">[rows, width], xStride elements apart: tokens.</param>
    /// <param name="xStride">Elements from a row of x to the next.</param>
    /// <param name="weight">[width].</param>
    /// <param name="epsilon">Keeps a row of zeros finite.</param>
    /// <param name="y">[rows, width], yStride elements apart; may be x.</param>
    /// <param name="yStride">Elements from a row of y to the next.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="width">Elements of a row.</param>
    public static void Apply(WorkerPool pool, float* x, long xStride, float* weight, float epsilon, float* y, long yStride, int rows, int width)
    {
        ArgumentNullException.ThrowIfNull(pool);
        RowsJob job = new(x, xStride, weight, epsilon, y, yStride, width);
        pool.Run(ref job, rows, grain: 8);
    }

    /// <summary>Normalises one row, in the same way.</summary>
    /// <param name="x">[width].</param>
    /// <param name="weight">[width].</param>
    /// <param name="epsilon">Keeps a row of zeros finite.</param>
    /// <param name="y">[width]; may be x.</param>
    /// <param name="width">Elements.</param>
    public static void Row(float* x, float* weight, float epsilon, float* y, int width)
    {
        if (Lanes512.IsSupported)
            Row<Lanes512>(x, weight, epsilon, y, width);
        else if (Lanes256.IsSupported)
            Row<Lanes256>(x, weight, epsilon, y, width);
        else
            Row<Lanes128>(x, weight, epsilon, y, width);
    }

    internal static void Row<TLanes>(float* x, float* weight, float epsilon, float* y, int width)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        // The tail is loaded first, as no vector register, the running sum among them, survives a call.
        int whole = width & ~15;
        float* stage = stackalloc float[16];
        TLanes tail = Tail.Load<TLanes, F32Element>((byte*)(x + whole), width - whole, 0f, (byte*)stage);
        TLanes squares = TLanes.Zero;
        for (int i = 0; i < whole; i += 16)
        {
            TLanes v = TLanes.Load(x + i);
            squares = TLanes.MultiplyAdd(v, v, squares);
        }

        squares = TLanes.MultiplyAdd(tail, tail, squares);

        float scale = 1f / MathF.Sqrt((TLanes.Fold(squares) / width) + epsilon);
        TLanes scales = TLanes.Broadcast(scale);
        for (int i = 0; i < whole; i += 16)
            TLanes.Store((TLanes.Load(x + i) * scales) * TLanes.Load(weight + i), y + i);
        for (int i = whole; i < width; i++)
            y[i] = (x[i] * scale) * weight[i];
    }

    private readonly struct RowsJob(float* x, long xStride, float* weight, float epsilon, float* y, long yStride, int width) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            for (int r = from; r < to; r++)
                Row(x + (r * xStride), weight, epsilon, y + (r * yStride), width);
        }
    }
}
