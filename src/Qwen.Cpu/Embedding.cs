namespace Qwen.Cpu;

/// <summary>Rows of a matrix as F32: the embedding look-up.</summary>
public static unsafe class Embedding
{
    /// <summary>destination[k] = W[row, k], exactly as the type defines it.</summary>
    /// <param name="w">The table.</param>
    /// <param name="row">Inside it.</param>
    /// <param name="destination">[Columns].</param>
    /// <exception cref="ArgumentException">The table has an input order, or no scales where its type needs them.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such row.</exception>
    public static void Row(in WeightMatrix w, int row, float* destination)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)w.Rows, nameof(row));
        w.CheckExtras();
        if (w.InputOrder is not null)
            throw new ArgumentException("An embedding's features have an order of their own.", nameof(w));
        if (w.Type.IsFloat)
            FloatRows.DequantizeRow(w, row, destination);
        else
            IntegerRows.DequantizeRow(w, row, destination);
    }
}
