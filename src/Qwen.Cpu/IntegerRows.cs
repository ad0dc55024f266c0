using System.Runtime.CompilerServices;
using Qwen.Cpu.Quantized;

namespace Qwen.Cpu;

/// <summary>Products of quantized weight rows, read where they lie, with int8 activations: exact integer dots, F32 between sub-blocks.</summary>
/// <remarks>
/// The order of accumulation is one for all formats, instruction sets, token counts and splits: lane b mod 16 sums, in increasing b,
/// fma(dot_b, scale_b * scale_x, lane) and, with a bias, fma(bias_b * scale_x, sum_x, lane); then the lanes fold by halves.
/// </remarks>
internal static unsafe class IntegerRows
{
    /// <summary>From this many tokens on, unpacking 16 rows into a panel costs less than it saves.</summary>
    private const int PanelTokens = 6;

    /// <summary>Bytes of scratch memory that <see cref="Multiply"/> needs for rows of that many columns.</summary>
    public static long ScratchBytes(int columns) => Math.Max(RowDot.ScratchBytes(columns), RowPanel.ScratchBytes(columns));

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
    /// <exception cref="ArgumentException">The type is not quantized, or x has other columns than w.</exception>
    public static void Multiply(
        in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        if (x.Columns != w.Columns)
            throw new ArgumentException($"The weights have {w.Columns} columns and the activations {x.Columns}.", nameof(x));
        Output output = new(y, yStride, accumulate);
        switch (w.Type)
        {
            case WeightType.Q4_0: Multiply<Q4_0>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q4_1: Multiply<Q4_1>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q5_0: Multiply<Q5_0>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q5_1: Multiply<Q5_1>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q8_0: Multiply<Q8_0>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q2_K: Multiply<Q2_K>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q3_K: Multiply<Q3_K>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q4_K: Multiply<Q4_K>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q5_K: Multiply<Q5_K>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q6_K: Multiply<Q6_K>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.Q8_K: Multiply<Q8_K>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.IQ4_NL: Multiply<IQ4_NL>(w, from, to, x, tokens, output, scratch); break;
            case WeightType.IQ4_XS: Multiply<IQ4_XS>(w, from, to, x, tokens, output, scratch); break;
            default: throw NotQuantized(w.Type);
        }
    }

    /// <summary>Writes the F32 values of a row, as the format defines them.</summary>
    /// <param name="w">Weights of a quantized type.</param>
    /// <param name="row">0 .. Rows-1.</param>
    /// <param name="destination">Room for Columns floats.</param>
    /// <exception cref="ArgumentException">The type is not quantized, or its blocks do not divide the columns.</exception>
    public static void DequantizeRow(in WeightMatrix w, int row, float* destination)
    {
        switch (w.Type)
        {
            case WeightType.Q4_0: RowDequantizer.Dequantize<Q4_0>(w, row, destination); break;
            case WeightType.Q4_1: RowDequantizer.Dequantize<Q4_1>(w, row, destination); break;
            case WeightType.Q5_0: RowDequantizer.Dequantize<Q5_0>(w, row, destination); break;
            case WeightType.Q5_1: RowDequantizer.Dequantize<Q5_1>(w, row, destination); break;
            case WeightType.Q8_0: RowDequantizer.Dequantize<Q8_0>(w, row, destination); break;
            case WeightType.Q2_K: RowDequantizer.Dequantize<Q2_K>(w, row, destination); break;
            case WeightType.Q3_K: RowDequantizer.Dequantize<Q3_K>(w, row, destination); break;
            case WeightType.Q4_K: RowDequantizer.Dequantize<Q4_K>(w, row, destination); break;
            case WeightType.Q5_K: RowDequantizer.Dequantize<Q5_K>(w, row, destination); break;
            case WeightType.Q6_K: RowDequantizer.Dequantize<Q6_K>(w, row, destination); break;
            case WeightType.Q8_K: RowDequantizer.Dequantize<Q8_K>(w, row, destination); break;
            case WeightType.IQ4_NL: RowDequantizer.Dequantize<IQ4_NL>(w, row, destination); break;
            case WeightType.IQ4_XS: RowDequantizer.Dequantize<IQ4_XS>(w, row, destination); break;
            default: throw NotQuantized(w.Type);
        }
    }

    private static void Multiply<TFormat>(
        in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        CheckBlocks<TFormat>(w);
        int row = from;
        if (RowPanel.IsSupported && tokens >= PanelTokens)
        {
            for (; row + RowPanel.Rows <= to; row += RowPanel.Rows)
                RowPanel.Multiply<TFormat>(w, row, x, tokens, output.At(row - from), scratch);
        }

        if (row < to)
            RowDot.Multiply<TFormat>(w, row, to, x, tokens, output.At(row - from), scratch);
    }

    /// <exception cref="ArgumentException">The blocks do not divide the columns, or the rows do not follow each other without gaps.</exception>
    internal static void CheckBlocks<TFormat>(in WeightMatrix w)
        where TFormat : struct, IQuantizedFormat
    {
        if (w.Columns % TFormat.BlockColumns != 0 || w.RowBytes != (long)w.Columns / TFormat.BlockColumns * TFormat.BlockBytes)
            throw new ArgumentException($"A row of {w.Columns} columns in {w.RowBytes} bytes does not hold whole {w.Type} blocks.", nameof(w));
    }

    private static ArgumentException NotQuantized(WeightType type) => new($"{type} is no quantized type.", nameof(type));
}

/// <summary>Where outputs go: token t's output of row r at Start[t * Stride + r].</summary>
internal readonly unsafe struct Output(float* start, long stride, bool accumulate)
{
    private readonly float* _start = start;
    private readonly long _stride = stride;

    /// <summary>Outputs are added to what is there.</summary>
    public readonly bool Accumulate = accumulate;

    /// <summary>The same, <paramref name="rows"/> further.</summary>
    public Output At(int rows) => new(_start + rows, _stride, Accumulate);

    /// <summary>A token's output of row 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float* Token(int token) => _start + (token * _stride);
}
