using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>Running softmax-weighted sums (online softmax, Milakov and Gimelshein 2018) of some rows, over the positions seen so far.</summary>
/// <remarks>
/// Of a row: the largest score m, the sum of e^(score - m), and [width] sums of e^(score - m) * value. A sum of 0 says that nothing was seen.
/// </remarks>
/// <param name="memory">Floats of all three, <see cref="Length"/> of them.</param>
/// <param name="rows">Rows.</param>
/// <param name="width">Elements of a value, padded to a multiple of 16.</param>
internal readonly unsafe struct SoftmaxState(float* memory, int rows, int width)
{
    public readonly float* Output = memory;
    public readonly float* Max = memory + ((long)rows * width);
    public readonly float* Sum = memory + ((long)rows * width) + rows;
    private readonly int _rows = rows;
    private readonly int _width = width;

    /// <summary>Floats, a multiple of a cache line.</summary>
    public static long Length(int rows, int width) => ((long)rows * width) + ((((2L * rows) + 15) / 16) * 16);

    public void Reset() => new Span<float>(Output, checked((int)Length(_rows, _width))).Clear();

    /// <summary>Takes in what another state saw, at later positions than this one.</summary>
    /// <remarks>
    /// Canonical order: m' = max(m, m2), a = e^(m - m'), b = e^(m2 - m'); sum = fma(sum2, b, sum * a), outputs alike. What saw nothing
    /// changes nothing, and the first to be taken in is copied.
    /// </remarks>
    public void Merge<TLanes>(in SoftmaxState later)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        for (int r = 0; r < _rows; r++)
        {
            if (later.Sum[r] == 0)
                continue;
            float* output = Output + ((long)r * _width), added = later.Output + ((long)r * _width);
            if (Sum[r] == 0)
            {
                Max[r] = later.Max[r];
                Sum[r] = later.Sum[r];
                Buffer.MemoryCopy(added, output, _width * sizeof(float), _width * sizeof(float));
                continue;
            }

            float max = Max[r] < later.Max[r] ? later.Max[r] : Max[r];
            TLanes a = Exponential.Exp(TLanes.Broadcast(Max[r] - max)), b = Exponential.Exp(TLanes.Broadcast(later.Max[r] - max));
            Max[r] = max;
            Sum[r] = MathF.FusedMultiplyAdd(later.Sum[r], TLanes.First(b), Sum[r] * TLanes.First(a));
            for (int d = 0; d < _width; d += 16)
                TLanes.Store(TLanes.MultiplyAdd(TLanes.Load(added + d), b, TLanes.Load(output + d) * a), output + d);
        }
    }

    /// <summary>result[i] = output[row, i] * (1 / sum), i in [0, count).</summary>
    public void Normalize<TLanes>(int row, float* result, int count)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        float* output = Output + ((long)row * _width);
        float inverse = 1f / Sum[row];
        TLanes inverses = TLanes.Broadcast(inverse);
        int d = 0;
        for (; d <= count - 16; d += 16)
            TLanes.Store(TLanes.Load(output + d) * inverses, result + d);
        for (; d < count; d++)
            result[d] = output[d] * inverse;
    }
}
