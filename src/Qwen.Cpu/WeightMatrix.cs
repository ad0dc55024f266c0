namespace Qwen.Cpu;

/// <summary>How the elements of a weight matrix are stored. The quantized types are those of GGUF (ggml's block layouts).</summary>
public enum WeightType : byte
{
    /// <summary>IEEE binary32.</summary>
    F32,

    /// <summary>IEEE binary16.</summary>
    F16,

    /// <summary>The upper half of a binary32.</summary>
    BF16,

    /// <summary>OCP E4M3, with scales in a <see cref="ScaleGrid"/>.</summary>
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

    /// <summary>Blocks of 32: F16 scale, int16 zero, 4-bit codes.</summary>
    Int4G32,

    /// <summary>Blocks of 64: F16 scale, int16 zero, 4-bit codes.</summary>
    Int4G64,

    /// <summary>Blocks of 128: F16 scale, int16 zero, 4-bit codes.</summary>
    Int4G128,

    /// <summary>Blocks of 32: F16 scale, int16 zero, 8-bit codes.</summary>
    Int8G32,

    /// <summary>Blocks of 64: F16 scale, int16 zero, 8-bit codes.</summary>
    Int8G64,

    /// <summary>Blocks of 128: F16 scale, int16 zero, 8-bit codes.</summary>
    Int8G128,
}

/// <summary>The scales of an FP8 matrix, one for each block of it: value(r, c) = E4M3(code) * values[r / blockRows, c / blockColumns].</summary>
/// <param name="values">[ceil(Rows / blockRows), ceil(Columns / blockColumns)], each below 128 in magnitude.</param>
/// <param name="blockRows">Rows of a block: all of the matrix's for a scale per tensor, 1 for one per channel.</param>
/// <param name="blockColumns">Columns of a block: a multiple of 16, or at least all of the matrix's.</param>
public readonly unsafe struct ScaleGrid(float* values, int blockRows, int blockColumns)
{
    /// <summary>Scales are below this in magnitude: the kernels multiply them by 2^120.</summary>
    public const float MaxScale = 128f;

    /// <summary>Scales, row-major.</summary>
    public readonly float* Values = values;

    /// <summary>Rows of a block.</summary>
    public readonly int BlockRows = blockRows;

    /// <summary>Columns of a block.</summary>
    public readonly int BlockColumns = blockColumns;
}

/// <summary>A row-major matrix [Rows, Columns] of weights where it lies: usually the mapped bytes of a model file.</summary>
/// <param name="type">Storage of the elements.</param>
/// <param name="rows">Output features.</param>
/// <param name="columns">Input features; a multiple of the type's block.</param>
/// <param name="data">First byte of row 0; rows follow each other without gaps. No alignment is asked for.</param>
/// <param name="rowBytes">Bytes of a row.</param>
/// <param name="scales">Scales of FP8 codes, of which none may be NaN.</param>
/// <param name="inputOrder">Column j multiplies x[inputOrder[j]] (GPTQ's act-order); null for x[j]. For quantized types only.</param>
public readonly unsafe struct WeightMatrix(WeightType type, int rows, int columns, byte* data, long rowBytes, ScaleGrid scales = default, int* inputOrder = null)
{
    /// <summary>Scales of FP8 codes.</summary>
    public readonly ScaleGrid Scales = scales;

    /// <summary>Column j multiplies x[InputOrder[j]]; null for j itself.</summary>
    public readonly int* InputOrder = inputOrder;

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
