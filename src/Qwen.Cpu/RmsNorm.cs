using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Root mean square normalisation (Zhang and Sennrich, 2019): y = x * (1 / sqrt(mean(x^2) + epsilon)) * weight.</summary>
/// <remarks>The squares are added in 16 lanes with fused multiply-adds and folded; then each element is (x * scale) * weight in F32.</remarks>
public static unsafe class RmsNorm
{
    /// <summary>Normalises rows, over all threads; x and y may be the same.</summary>
    /// <param name="pool">The threads.</param>
    /// <param name="x">[rows, width] with <paramref name="xStride"/> floats from row to row.</param>
    /// <param name="xStride">At least width.</param>
    /// <param name="weight">[width].</param>
    /// <param name="epsilon">Added to the mean.</param>
    /// <param name="y">[rows, width] with <paramref name="yStride"/> floats from row to row.</param>
    /// <param name="yStride">At least width.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="width">Elements of a row.</param>
    public static void Apply(WorkerPool pool, float* x, long xStride, float* weight, float epsilon, float* y, long yStride, int rows, int width)
    {
        var job = new Job(x, xStride, weight, epsilon, y, yStride, width);
        pool.Run(ref job, rows, grain: 8);
    }

    /// <summary>Normalises one row; x and y may be the same.</summary>
    public static void Row(float* x, float* weight, float epsilon, float* y, int width)
    {
        int body = width & ~15, tail = width & 15;
        Vector512<float> squares = default;
        for (int i = 0; i < body; i += Lanes.Count)
        {
            Vector512<float> v = Vector512.Load(x + i);
            squares = Vector512.FusedMultiplyAdd(v, v, squares);
        }

        if (tail != 0)
        {
            Vector512<float> v = Lanes.LoadPartial(x + body, tail);
            squares = Vector512.FusedMultiplyAdd(v, v, squares);
        }

        float scale = 1 / MathF.Sqrt((Lanes.Fold(squares) / width) + epsilon);
        for (int i = 0; i < body; i += Lanes.Count)
            (Vector512.Load(x + i) * scale * Vector512.Load(weight + i)).Store(y + i);
        for (int i = body; i < width; i++)
            y[i] = x[i] * scale * weight[i];
    }

    private readonly struct Job(float* x, long xStride, float* weight, float epsilon, float* y, long yStride, int width) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            for (int r = from; r < to; r++)
                Row(x + (r * xStride), weight, epsilon, y + (r * yStride), width);
        }
    }
}
