namespace Qwen.Cpu;

/// <summary>Rows of an F8_E4M3 matrix: widened to F32, E4M3(code) * scale, and then computed as F32 rows.</summary>
internal static unsafe class Float8Rows
{
    private static readonly float[] Values = [.. Enumerable.Range(0, 256).Select(c => Widen((byte)c))];

    /// <summary>values[k] = E4M3(W[row, k]) * scale of its block.</summary>
    public static void DequantizeRow(in WeightMatrix w, int row, float* values)
    {
        byte* codes = w.Data + (row * w.RowBytes);
        int blockColumns = w.Scales.BlockColumns, across = (int)(((long)w.Columns + blockColumns - 1) / blockColumns);
        float* scales = w.Scales.Values + ((long)(row / w.Scales.BlockRows) * across);
        for (int block = 0; block < across; block++)
        {
            long first = (long)block * blockColumns, last = Math.Min(w.Columns, first + blockColumns);
            for (long k = first; k < last; k++)
                values[k] = Values[codes[k]] * scales[block];
        }
    }

    /// <summary>As <see cref="FloatRows.Multiply(in WeightMatrix, int, int, float*, long, int, float*, long, bool, byte*)"/>, for at most 16 rows.</summary>
    /// <param name="w">The matrix.</param>
    /// <param name="from">First row.</param>
    /// <param name="to">One past the last row.</param>
    /// <param name="x">Activations.</param>
    /// <param name="xStride">Their stride.</param>
    /// <param name="tokens">How many.</param>
    /// <param name="y">Outputs.</param>
    /// <param name="yStride">Their stride.</param>
    /// <param name="accumulate">Adds to y.</param>
    /// <param name="scratch">For the product.</param>
    /// <param name="rows">Room for 16 rows.</param>
    public static void Multiply(in WeightMatrix w, int from, int to, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate, byte* scratch, float* rows)
    {
        for (int row = from; row < to; row += StackedMatrix.TileRows)
        {
            int count = Math.Min(StackedMatrix.TileRows, to - row);
            for (int r = 0; r < count; r++)
                DequantizeRow(w, row + r, rows + ((long)r * w.Columns));
            var widened = new WeightMatrix(WeightType.F32, count, w.Columns, (byte*)rows, w.Columns * (long)sizeof(float));
            FloatRows.Multiply(widened, 0, count, x, xStride, tokens, y + (row - from), yStride, accumulate, scratch);
        }
    }

    private static float Widen(byte code)
    {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        float magnitude = (code & 0x7f) == 0x7f ? float.NaN : exponent == 0 ? MathF.ScaleB(mantissa, -9) : MathF.ScaleB(8 + mantissa, exponent - 10);
        return code >= 0x80 ? -magnitude : magnitude;
    }
}
