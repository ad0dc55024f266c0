using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Activations as 8-bit codes with an F32 scale for each 32 of them, for products with quantized weights.</summary>
/// <remarks>
/// For each token and 32 values: scale = max |x| / 127, code = x / scale rounded to nearest, ties to even. Scales and exact sums of
/// codes are kept per sub-block of 32 and, for the formats that have a scale per 16 weights, per 16. Rows are padded with zeros to
/// whole groups of <see cref="QuantizedActivationBuffer.Group"/> values.
/// </remarks>
public readonly unsafe struct QuantizedActivations
{
    internal sbyte* Codes { get; init; }

    internal long CodeStride { get; init; }

    /// <summary>Per sub-block of 32 and of 16: scales, and sums of codes.</summary>
    internal SubBlocks By32 { get; init; }

    internal SubBlocks By16 { get; init; }

    /// <summary>Scales and sums of codes for each sub-block [token, sub-block].</summary>
    internal readonly struct SubBlocks
    {
        public float* Scales { get; init; }

        public int* Sums { get; init; }

        public long Stride { get; init; }
    }
}

/// <summary>The memory that activations are quantized into, made once for the largest product.</summary>
public sealed unsafe class QuantizedActivationBuffer : IDisposable
{
    /// <summary>Values that the kernels take at once: 16 sub-blocks of 32.</summary>
    internal const int Group = 512;

    private readonly NativeBuffer<sbyte> _codes;
    private readonly NativeBuffer<float> _scales;
    private readonly NativeBuffer<int> _sums;
    private readonly int _maxTokens;

    /// <summary>Room for up to <paramref name="maxTokens"/> tokens of up to <paramref name="maxColumns"/> values.</summary>
    public QuantizedActivationBuffer(int maxTokens, int maxColumns)
    {
        long columns = Padded(maxColumns), subBlocks = (columns / 32) + (columns / 16);
        _maxTokens = maxTokens;
        _codes = new NativeBuffer<sbyte>(maxTokens * columns);
        _scales = new NativeBuffer<float>(maxTokens * subBlocks);
        _sums = new NativeBuffer<int>(maxTokens * subBlocks);
    }

    /// <summary>Quantizes rows x [tokens, columns] over all threads. Valid until the next call.</summary>
    public QuantizedActivations Quantize(WorkerPool pool, float* x, long xStride, int tokens, int columns)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(tokens, _maxTokens);
        long padded = Padded(columns), by32 = padded / 32, by16 = padded / 16;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(tokens * padded, _codes.Length, nameof(columns));
        var result = new QuantizedActivations
        {
            Codes = _codes.Pointer,
            CodeStride = padded,
            By32 = new QuantizedActivations.SubBlocks { Scales = _scales.Pointer, Sums = _sums.Pointer, Stride = by32 },
            By16 = new QuantizedActivations.SubBlocks { Scales = _scales.Pointer + (tokens * by32), Sums = _sums.Pointer + (tokens * by32), Stride = by16 },
        };
        var job = new QuantizeJob(result, x, xStride, columns);
        pool.Run(ref job, tokens);
        return result;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _codes.Dispose();
        _scales.Dispose();
        _sums.Dispose();
    }

    internal static long Padded(long columns) => (columns + Group - 1) / Group * Group;

    private readonly struct QuantizeJob(QuantizedActivations to, float* x, long xStride, int columns) : IJob
    {
        public void Execute(int from, int last, int worker)
        {
            for (int t = from; t < last; t++)
                Row(x + (t * xStride), t);
        }

        private void Row(float* row, int t)
        {
            sbyte* codes = to.Codes + (t * to.CodeStride);
            float* scales32 = to.By32.Scales + (t * to.By32.Stride), scales16 = to.By16.Scales + (t * to.By16.Stride);
            int* sums32 = to.By32.Sums + (t * to.By32.Stride), sums16 = to.By16.Sums + (t * to.By16.Stride);
            for (int b = 0; b < to.By32.Stride; b++)
            {
                int at = b * 32;
                Vector512<int> low = default, high = default;
                float scale = 0;
                if (at < columns) // columns are a multiple of 32
                {
                    Vector512<float> first = Vector512.Load(row + at), second = Vector512.Load(row + at + 16);
                    float max = Max(Vector512.Max(Vector512.Abs(first), Vector512.Abs(second)));
                    scale = max / 127;
                    float inverse = scale == 0 ? 0 : 127 / max;
                    low = Round(first * inverse);
                    high = Round(second * inverse);
                }

                Vector512.Narrow(Vector512.Narrow(low, high), default).GetLower().Store(codes + at);
                scales32[b] = scales16[2 * b] = scales16[(2 * b) + 1] = scale;
                sums16[2 * b] = Vector512.Sum(low);
                sums16[(2 * b) + 1] = Vector512.Sum(high);
                sums32[b] = sums16[2 * b] + sums16[(2 * b) + 1];
            }
        }

        // Adding 1.5 * 2^23 rounds to nearest even and leaves the whole number in the low bits. NaN gives some code: its scale is NaN.
        private static Vector512<int> Round(Vector512<float> v)
        {
            Vector512<float> magic = Vector512.Create(12582912f);
            Vector512<int> whole = (v + magic).AsInt32() - magic.AsInt32();
            return (whole << 24) >> 24;
        }

        private static float Max(Vector512<float> v)
        {
            Vector256<float> eight = Vector256.Max(v.GetLower(), v.GetUpper());
            Vector128<float> four = Vector128.Max(eight.GetLower(), eight.GetUpper());
            return MathF.Max(MathF.Max(four.GetElement(0), four.GetElement(1)), MathF.Max(four.GetElement(2), four.GetElement(3)));
        }
    }
}
