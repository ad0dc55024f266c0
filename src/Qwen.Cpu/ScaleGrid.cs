namespace Qwen.Cpu;

/// <summary>F32 scales of the rectangular blocks of a matrix: per tensor, per row (output channel), or per tile such as 128 x 128.</summary>
/// <remarks>The scale of element (r, c) is Values[(r / BlockRows) * ceil(Columns / BlockColumns) + c / BlockColumns].</remarks>
/// <param name="values">Row-major [ceil(Rows / blockRows), ceil(Columns / blockColumns)]; it outlives the matrix.</param>
/// <param name="blockRows">Rows that share a scale; positive.</param>
/// <param name="blockColumns">Columns that share a scale; all of them, or a positive multiple of 16.</param>
public readonly unsafe struct ScaleGrid(float* values, int blockRows, int blockColumns)
{
    /// <summary>The scales.</summary>
    public readonly float* Values = values;

    /// <summary>Rows that share a scale.</summary>
    public readonly int BlockRows = blockRows;

    /// <summary>Columns that share a scale.</summary>
    public readonly int BlockColumns = blockColumns;

    /// <summary>The scales of a row of so many columns, one per block of columns.</summary>
    internal float* Row(int row, int columns) => Values + ((long)(row / BlockRows) * (((long)columns + BlockColumns - 1) / BlockColumns));
}
