namespace Qwen.Cpu.Quantized;

/// <summary>The scratch memory of <see cref="RowDot"/>: the scales and biases of a row, its unpacked codes, and a copy of its last blocks.</summary>
/// <remarks>Everything is padded to 512 columns, as the activations are.</remarks>
internal readonly unsafe struct RowScratch(byte* memory, int columns)
{
    private const int TailBytes = 1024; // 512 columns take at most 2 * 292 bytes (Q8_K)

    /// <summary>F32 scale per sub-block.</summary>
    public readonly float* Scales = (float*)(memory + TailBytes);

    /// <summary>F32 bias per sub-block.</summary>
    public readonly float* Biases = (float*)(memory + TailBytes + SubBlockBytes(columns));

    /// <summary>A code per column.</summary>
    public readonly byte* Codes = memory + TailBytes + (2 * SubBlockBytes(columns));

    /// <summary>The last blocks of a matrix, where a whole read of 512 columns would leave it.</summary>
    public readonly byte* Tail = memory;

    /// <summary>Bytes for rows of that many columns.</summary>
    public static long Bytes(int columns) => TailBytes + (2 * SubBlockBytes(columns)) + Padded(columns);

    private static long SubBlockBytes(int columns) => Padded(columns) / 16 * sizeof(float);

    private static long Padded(int columns) => ((long)columns + 511) / 512 * 512;
}
