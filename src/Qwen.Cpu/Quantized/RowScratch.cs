namespace Qwen.Cpu.Quantized;

/// <summary>The scratch memory of <see cref="RowDot"/>: the scales and biases of two rows, the unpacked codes of one, and a copy of its last blocks.</summary>
/// <remarks>Everything is padded to 512 columns, as the activations are.</remarks>
internal readonly unsafe struct RowScratch(byte* memory, int columns)
{
    private const int TailBytes = 1024; // 512 columns take at most 2 * 292 bytes (Q8_K)

    /// <summary>The last blocks of a matrix, where a whole read of 512 columns would leave it.</summary>
    public byte* Tail => memory;

    /// <summary>A code per column.</summary>
    public byte* Codes => memory + TailBytes + (4 * SubBlockBytes(columns));

    /// <summary>Bytes for rows of that many columns.</summary>
    public static long Bytes(int columns) => TailBytes + (4 * SubBlockBytes(columns)) + Padded(columns);

    /// <summary>Room for the scales of a row; a row's are overwritten by those of the row after the next.</summary>
    public RowScales Scales(int row)
    {
        byte* scales = memory + TailBytes + ((row & 1) * 2 * SubBlockBytes(columns));
        return new RowScales((float*)scales, (float*)(scales + SubBlockBytes(columns)));
    }

    private static long SubBlockBytes(int columns) => Padded(columns) / 16 * sizeof(float);

    private static long Padded(int columns) => ((long)columns + 511) / 512 * 512;
}

/// <summary>An F32 scale and, in formats that have one, a bias per sub-block.</summary>
internal readonly unsafe struct RowScales(float* scales, float* biases)
{
    public readonly float* Scales = scales;
    public readonly float* Biases = biases;
}
