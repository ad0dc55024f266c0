using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Qwen.Cpu;
using Qwen.Native.Device;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Rows of a stored matrix as the 16-bit floats that a GPU computes on: what is stored in another type is brought to it here, in parallel, while it is uploaded.</summary>
internal static unsafe class HostRows
{
    private const float MostHalf = 65504;

    /// <summary>Whether the stored bytes are already the values.</summary>
    public static bool AreStored(StoredMatrix matrix, ElementType type) =>
        matrix is TensorMatrix { Tensor.Type: var stored } && stored == (type == ElementType.F16 ? TensorType.F16 : TensorType.BF16);

    /// <summary>Writes rows, rounded to nearest even; F16 saturates.</summary>
    /// <param name="matrix">The matrix.</param>
    /// <param name="type">F16 or BF16.</param>
    /// <param name="firstRow">The first row.</param>
    /// <param name="values">[rows, Columns] of the type.</param>
    public static void Write(StoredMatrix matrix, ElementType type, int firstRow, Span<byte> values)
    {
        int columns = matrix.Columns, rows = values.Length / (columns * sizeof(ushort));
        fixed (byte* to = values)
        {
            nint target = (nint)to;
            Parallel.For(0, rows, () => new float[columns], (row, _, floats) =>
            {
                Read(matrix, firstRow + row, floats);
                Narrow(type, floats, new Span<ushort>((ushort*)target + ((long)row * columns), columns));
                return floats;
            }, _ => { });
        }
    }

    /// <summary>F32 to a 16-bit type.</summary>
    public static void Narrow(ElementType type, ReadOnlySpan<float> values, Span<ushort> narrowed)
    {
        if (type == ElementType.F16)
        {
            Span<Half> halves = MemoryMarshal.Cast<ushort, Half>(narrowed);
            TensorPrimitives.ConvertToHalf(values, halves);
            TensorPrimitives.Clamp<Half>(halves, (Half)(-MostHalf), (Half)MostHalf, halves);
            return;
        }

        ReadOnlySpan<uint> bits = MemoryMarshal.Cast<float, uint>(values);
        int i = 0;
        for (; i <= bits.Length - (2 * Vector<uint>.Count); i += 2 * Vector<uint>.Count)
            Vector.Narrow(Upper(new Vector<uint>(bits[i..])), Upper(new Vector<uint>(bits[(i + Vector<uint>.Count)..]))).CopyTo(narrowed[i..]);
        for (; i < bits.Length; i++)
            narrowed[i] = (ushort)Upper(new Vector<uint>(bits[i]))[0];
    }

    // The upper half, rounded to nearest even; NaN, which rounding could make a number, made quiet instead.
    private static Vector<uint> Upper(Vector<uint> bits)
    {
        Vector<uint> rounded = (bits + new Vector<uint>(0x7FFF) + ((bits >>> 16) & Vector<uint>.One)) >>> 16;
        return Vector.ConditionalSelect(Vector.GreaterThan(bits & new Vector<uint>(0x7FFFFFFF), new Vector<uint>(0x7F800000)), (bits >>> 16) | new Vector<uint>(0x40), rounded);
    }

    private static void Read(StoredMatrix matrix, int row, float[] floats)
    {
        if (matrix is not TensorMatrix plain)
        {
            matrix.Dequantize(row, 1, floats);
            return;
        }

        fixed (float* to = floats)
            Embedding.Row(new WeightMatrix(CpuLinearWeights.TypeOf(plain.Tensor), plain.Rows, plain.Columns, plain.Tensor.Data, plain.Tensor.ByteCount / plain.Rows), row, to);
    }
}
