namespace Qwen.Cpu;

/// <summary>How the elements of a weight matrix are stored. Q and IQ types are those of GGUF (ggml's block layouts).</summary>
/// <remarks>
/// Int{4,8}G{g} are this engine's own: group-quantized checkpoints (AWQ, GPTQ) are repacked to them once, when they are loaded. A zero lies
/// in 0..256, so scale * zero is exact in F32. 4-bit codes come in runs of 64 columns, 32 bytes each: byte i holds the code of column i in its
/// low nibble and that of column 32 + i in its high one. (Int4G32: runs of 32 columns in 16 bytes, as Q4_0.) 8-bit codes come in column order.
/// </remarks>
public enum WeightType : byte
{
    /// <summary>IEEE binary32.</summary>
    F32,

    /// <summary>IEEE binary16.</summary>
    F16,

    /// <summary>The upper half of a binary32.</summary>
    BF16,

    /// <summary>OCP 8-bit float with 4 exponent and 3 fraction bits, no infinities (E4M3FN), with a <see cref="ScaleGrid"/>.</summary>
    F8_E4M3,

    /// <summary>Blocks of 32: F16 scale, 4-bit codes less 8.</summary>
    Q4_0,

    /// <summary>Blocks of 32: F16 scale and minimum, 4-bit codes.</summary>
    Q4_1,

    /// <summary>Blocks of 32: F16 scale, 5-bit codes less 16.</summary>
    Q5_0,

    /// <summary>Blocks of 32: F16 scale and minimum, 5-bit codes.</summary>
    Q5_1,

    /// <summary>Blocks of 32: F16 scale, 8-bit codes.</summary>
    Q8_0,

    /// <summary>Super-blocks of 256: 16 sub-blocks with 4-bit scales and minima, 2-bit codes.</summary>
    Q2_K,

    /// <summary>Super-blocks of 256: 16 sub-blocks with 6-bit scales, 3-bit codes.</summary>
    Q3_K,

    /// <summary>Super-blocks of 256: 8 sub-blocks with 6-bit scales and minima, 4-bit codes.</summary>
    Q4_K,

    /// <summary>Super-blocks of 256: 8 sub-blocks with 6-bit scales and minima, 5-bit codes.</summary>
    Q5_K,

    /// <summary>Super-blocks of 256: 16 sub-blocks with 8-bit scales, 6-bit codes.</summary>
    Q6_K,

    /// <summary>Super-blocks of 256: F32 scale, 8-bit codes, sums per 16.</summary>
    Q8_K,

    /// <summary>Blocks of 32: F16 scale, 4-bit indices into a table of 16 levels.</summary>
    IQ4_NL,

    /// <summary>Super-blocks of 256: 8 sub-blocks with 6-bit scales, 4-bit indices into the table of IQ4_NL.</summary>
    IQ4_XS,

    /// <summary>Blocks of 32: F16 scale, int16 zero, 4-bit codes; value = scale * (code - zero).</summary>
    Int4G32,

    /// <summary>As Int4G32, in blocks of 64.</summary>
    Int4G64,

    /// <summary>As Int4G32, in blocks of 128.</summary>
    Int4G128,

    /// <summary>Blocks of 32: F16 scale, int16 zero, 8-bit unsigned codes; value = scale * (code - zero).</summary>
    Int8G32,

    /// <summary>As Int8G32, in blocks of 64.</summary>
    Int8G64,

    /// <summary>As Int8G32, in blocks of 128.</summary>
    Int8G128,
}

/// <summary>A row-major matrix [Rows, Columns] of weights where it lies: usually the mapped bytes of a model file.</summary>
/// <param name="type">Storage of the elements.</param>
/// <param name="rows">Output features.</param>
/// <param name="columns">Input features; a multiple of the type's block.</param>
/// <param name="data">First byte of row 0; rows follow each other without gaps. No alignment is asked for.</param>
/// <param name="rowBytes">Bytes of a row.</param>
/// <param name="scales">Of F8_E4M3, what each element is multiplied with; other types have none.</param>
/// <param name="inputOrder">
/// Null, or Columns indices: column j multiplies x[inputOrder[j]] (GPTQ's act-order). For quantized types only; equal orders share a pointer.
/// </param>
public readonly unsafe struct WeightMatrix(
    WeightType type, int rows, int columns, byte* data, long rowBytes, ScaleGrid scales = default, int* inputOrder = null)
{
    /// <summary>Storage of the elements.</summary>
    public readonly WeightType Type = type;

    /// <summary>Output features.</summary>
    public readonly int Rows = rows;

    /// <summary>Input features.</summary>
    public readonly int Columns = columns;

    /// <summary>First byte of row 0.</summary>
    public readonly byte* Data = data;

    /// <summary>Bytes of a row.</summary>
    public readonly long RowBytes = rowBytes;

    /// <summary>Of F8_E4M3, what each element is multiplied with.</summary>
    public readonly ScaleGrid Scales = scales;

    /// <summary>Null, or for each column the input feature that it multiplies.</summary>
    public readonly int* InputOrder = inputOrder;

    /// <summary>Throws where the scales or the input order are not what the type needs.</summary>
    /// <exception cref="ArgumentException">They are not.</exception>
    internal void CheckExtras()
    {
        bool wholeRows = Scales.BlockColumns >= Columns || Scales.BlockColumns % 16 == 0;
        if (Type == WeightType.F8_E4M3 && (Scales.Values is null || Scales.BlockRows <= 0 || Scales.BlockColumns <= 0 || !wholeRows))
            throw new ArgumentException($"{Type} has no scales for blocks of {Scales.BlockRows} rows and {Scales.BlockColumns} columns.");
        if (InputOrder is null)
            return;
        if (Type.IsFloat)
            throw new ArgumentException($"{Type} takes its inputs in order.");
        for (int k = 0; k < Columns; k++)
        {
            if ((uint)InputOrder[k] >= (uint)Columns)
                throw new ArgumentException($"Column {k} multiplies the input {InputOrder[k]} of {Columns}.");
        }
    }
}

/// <summary>Facts about <see cref="WeightType"/>.</summary>
public static class WeightTypes
{
    extension(WeightType type)
    {
        /// <summary>Computed on F32 activations; the others on activations quantized to 8 bits.</summary>
        public bool IsFloat => type <= WeightType.F8_E4M3;
    }
}
