namespace Qwen.Runtime.Formats;

/// <summary>E4M3 codes with a grid of scales: w[r, c] = E4M3(codes[r, c]) * scales[r / BlockRows, c / BlockColumns].</summary>
public sealed unsafe class Float8Matrix : StoredMatrix
{
    internal Float8Matrix(Tensor codes, Tensor scales, int blockRows, int blockColumns)
        : base(codes.File, codes.Name, (int)codes.Shape[0], (int)codes.Shape[1])
    {
        Codes = codes;
        Scales = scales;
        BlockRows = blockRows;
        BlockColumns = blockColumns;
    }

    /// <summary>[Rows, Columns], F8_E4M3.</summary>
    public Tensor Codes { get; }

    /// <summary>The scales, row-major, in F32, F16 or BF16; a grid of ceil(Rows / BlockRows) by ceil(Columns / BlockColumns).</summary>
    public Tensor Scales { get; }

    /// <summary>Rows that share a scale: 1 for a scale per output, all for one per tensor.</summary>
    public int BlockRows { get; }

    /// <summary>Columns that share a scale.</summary>
    public int BlockColumns { get; }

    /// <inheritdoc/>
    public override void Dequantize(int firstRow, int rows, Span<float> values)
    {
        CheckRows(firstRow, rows, values);
        int blocksAcross = (Columns + BlockColumns - 1) / BlockColumns;
        for (int r = 0; r < rows; r++)
        {
            int row = firstRow + r;
            for (int c = 0; c < Columns; c++)
                values[(r * Columns) + c] = Float8.FromE4M3(Codes.Data[((long)row * Columns) + c]) * Scales.FloatAt(((long)(row / BlockRows) * blocksAcross) + (c / BlockColumns));
        }
    }
}
