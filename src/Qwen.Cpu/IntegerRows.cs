using Qwen.Cpu.Quantized;

namespace Qwen.Cpu;

/// <summary>Products of quantized weight rows, read where they lie, with int8 activations: exact integer dots, F32 between sub-blocks.</summary>
/// <remarks>
/// The order of accumulation is one for all formats, instruction sets, token counts and splits: lane b mod 16 sums, in increasing b,
/// fma(dot_b, scale_b * scale_x, lane) and, with a bias, fma(bias_b, sum_x * scale_x, lane); then the lanes fold by halves.
/// </remarks>
internal static unsafe class IntegerRows
{
    /// <summary>Bytes of scratch memory that <see cref="Multiply"/> needs for rows of that many columns.</summary>
    public static long ScratchBytes(int columns) => Math.Max(RowDot.ScratchBytes(columns), RowPanel.ScratchBytes);

    /// <summary>y[t * yStride + (r - from)] = (or +=) dot(W[r, :], x[t, :]) for r in [from, to), t in [0, tokens).</summary>
    /// <param name="w">Weights of a quantized type [Rows, Columns].</param>
    /// <param name="from">First row.</param>
    /// <param name="to">One past the last row.</param>
    /// <param name="x">Activations [at least tokens, Columns].</param>
    /// <param name="tokens">Rows of x to take.</param>
    /// <param name="y">Output of row <paramref name="from"/> for token 0.</param>
    /// <param name="yStride">Floats from a token's outputs to the next token's.</param>
    /// <param name="accumulate">Add the dot, folded, to what y holds.</param>
    /// <param name="scratch"><see cref="ScratchBytes"/> bytes, aligned to 64, for this thread alone.</param>
    /// <exception cref="ArgumentException">The type is not quantized, its blocks do not divide the columns, or x has other columns than w.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The rows are not in w, or the tokens not in x.</exception>
    public static void Multiply(
        in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        if (x.Columns != w.Columns)
            throw new ArgumentException($"The weights have {w.Columns} columns and the activations {x.Columns}.", nameof(x));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)tokens, (uint)x.Tokens, nameof(tokens));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)to, (uint)w.Rows, nameof(to));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)from, (uint)to, nameof(from));
        QuantizedFormats.With(w.Type, new Product(w, from, to, x, tokens, new Output(y, yStride, accumulate), scratch));
    }

    /// <summary>Writes the F32 values of a row, as the format defines them.</summary>
    /// <param name="w">Weights of a quantized type.</param>
    /// <param name="row">0 .. Rows-1.</param>
    /// <param name="destination">Room for Columns floats.</param>
    /// <exception cref="ArgumentException">The type is not quantized, or its blocks do not divide the columns.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such row.</exception>
    public static void DequantizeRow(in WeightMatrix w, int row, float* destination)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)w.Rows, nameof(row));
        QuantizedFormats.With(w.Type, new Values(w, row, destination));
    }

    private readonly struct Product(WeightMatrix w, int from, int to, QuantizedActivations x, int tokens, Output output, byte* scratch) : IFormatWork
    {
        public void Do<TFormat>()
            where TFormat : struct, IQuantizedFormat
        {
            QuantizedFormats.Check<TFormat>(w);
            int row = from;
            if (RowPanel.IsSupported && tokens > 1)
            {
                row = to - ((to - from) % RowPanel.Rows);
                if (VnniTile.IsSupported)
                    RowPanel.Multiply<TFormat, VnniTile>(w, from, row, x, tokens, output, scratch);
                else
                    RowPanel.Multiply<TFormat, IntrinsicTile>(w, from, row, x, tokens, output, scratch);
            }

            if (row < to)
                RowDot.Multiply<TFormat>(w, row, to, x, tokens, output.At(row - from), scratch);
        }
    }

    private readonly struct Values(WeightMatrix w, int row, float* destination) : IFormatWork
    {
        public void Do<TFormat>()
            where TFormat : struct, IQuantizedFormat
        {
            QuantizedFormats.Check<TFormat>(w);
            RowDequantizer.Dequantize<TFormat>(w, row, destination);
        }
    }
}
