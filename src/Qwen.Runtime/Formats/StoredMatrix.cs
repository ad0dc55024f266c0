namespace Qwen.Runtime.Formats;

/// <summary>
/// A weight matrix [Rows, Columns] as its checkpoint stores it, checked: a plain tensor, 8-bit floats with a grid of scales, or codes
/// quantized by groups. Backends bring it to the form they compute on.
/// </summary>
/// <param name="file">The file it lies in.</param>
/// <param name="name">Its name there.</param>
/// <param name="rows">Output features.</param>
/// <param name="columns">Input features.</param>
public abstract class StoredMatrix(string file, string name, int rows, int columns)
{
    /// <summary>The file it lies in.</summary>
    public string File { get; } = file;

    /// <summary>Its name there.</summary>
    public string Name { get; } = name;

    /// <summary>Output features.</summary>
    public int Rows { get; } = rows;

    /// <summary>Input features.</summary>
    public int Columns { get; } = columns;

    /// <summary>The values of some rows, plainly from the definition of the format: the reference for every faster way. Rounded to F32 at most once.</summary>
    /// <param name="firstRow">First row.</param>
    /// <param name="rows">How many rows.</param>
    /// <param name="values">[rows, Columns].</param>
    public abstract void Dequantize(int firstRow, int rows, Span<float> values);

    /// <summary>Checks the arguments of <see cref="Dequantize"/>.</summary>
    protected void CheckRows(int firstRow, int rows, Span<float> values)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(firstRow);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, Rows - firstRow);
        ArgumentOutOfRangeException.ThrowIfNotEqual((long)values.Length, (long)rows * Columns);
    }
}

/// <summary>A matrix in one tensor: floats, or the blocks of a GGUF type.</summary>
/// <param name="tensor">Of two dimensions, each of which an int holds.</param>
public sealed unsafe class TensorMatrix(Tensor tensor) : StoredMatrix(tensor.File, tensor.Name, checked((int)tensor.Shape[0]), checked((int)tensor.Shape[1]))
{
    /// <summary>The tensor.</summary>
    public Tensor Tensor { get; } = tensor;

    /// <inheritdoc/>
    public override void Dequantize(int firstRow, int rows, Span<float> values)
    {
        CheckRows(firstRow, rows, values);
        long rowBytes = Tensor.ByteCount / Rows;
        Dequantizer.Dequantize(Tensor.Type, new ReadOnlySpan<byte>(Tensor.Data + (firstRow * rowBytes), checked((int)(rows * rowBytes))), values);
    }
}
