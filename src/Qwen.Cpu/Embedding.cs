namespace Qwen.Cpu;

/// <summary>Rows of a matrix as F32: the embedding look-up.</summary>
public static unsafe class Embedding
{
    /// <summary>destination[k] = W[row, k], exactly as the type defines it.</summary>
    /// <param name="w">The table.</param>
    /// <param name="row">Inside it.</param>
    /// <param name="destination">[Columns].</param>
    public static void Row(in WeightMatrix w, int row, float* destination)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)w.Rows, nameof(row));
        if (w.Type == WeightType.F8_E4M3)
            Float8Rows.DequantizeRow(w, row, destination);
        else if (w.Type.IsFloat)
            FloatRows.DequantizeRow(w, row, destination);
        else
            IntegerRows.DequantizeRow(w, row, destination);
    }
}
