namespace Qwen.Native.Kernels;

/// <summary>Block formats of GGUF files that <see cref="DequantizeKernel"/> reads as they lie (ggml's names; ggml-common.h describes the blocks).</summary>
public enum BlockFormat
{
    /// <summary>32 codes of 4 bits, F16 scale.</summary>
    Q4_0,

    /// <summary>32 codes of 4 bits, F16 scale and minimum.</summary>
    Q4_1,

    /// <summary>32 codes of 5 bits, F16 scale.</summary>
    Q5_0,

    /// <summary>32 codes of 5 bits, F16 scale and minimum.</summary>
    Q5_1,

    /// <summary>32 signed bytes, F16 scale.</summary>
    Q8_0,

    /// <summary>256 codes of 2 bits, 16 scales and minima of 4 bits.</summary>
    Q2_K,

    /// <summary>256 codes of 3 bits, 16 scales of 6 bits.</summary>
    Q3_K,

    /// <summary>256 codes of 4 bits, 8 scales and minima of 6 bits.</summary>
    Q4_K,

    /// <summary>256 codes of 5 bits, 8 scales and minima of 6 bits.</summary>
    Q5_K,

    /// <summary>256 codes of 6 bits, 16 signed scales of 8 bits.</summary>
    Q6_K,

    /// <summary>256 signed bytes, F32 scale, sums.</summary>
    Q8_K,

    /// <summary>32 codes of 4 bits for levels that are not evenly spaced, F16 scale.</summary>
    IQ4_NL,

    /// <summary>As <see cref="IQ4_NL"/>, 256 codes with 8 scales of 6 bits.</summary>
    IQ4_XS,
}

/// <summary>Sizes of <see cref="BlockFormat"/>.</summary>
public static class BlockFormats
{
    /// <summary>Values of a block.</summary>
    public static int Elements(this BlockFormat format) => format switch
    {
        BlockFormat.Q4_0 or BlockFormat.Q4_1 or BlockFormat.Q5_0 or BlockFormat.Q5_1 or BlockFormat.Q8_0 or BlockFormat.IQ4_NL => 32,
        _ => 256,
    };

    /// <summary>Bytes of a block.</summary>
    public static int Bytes(this BlockFormat format) => format switch
    {
        BlockFormat.Q4_0 or BlockFormat.IQ4_NL => 18,
        BlockFormat.Q4_1 => 20,
        BlockFormat.Q5_0 => 22,
        BlockFormat.Q5_1 => 24,
        BlockFormat.Q8_0 => 34,
        BlockFormat.Q2_K => 84,
        BlockFormat.Q3_K => 110,
        BlockFormat.Q4_K => 144,
        BlockFormat.Q5_K => 176,
        BlockFormat.Q6_K => 210,
        BlockFormat.Q8_K => 292,
        BlockFormat.IQ4_XS => 136,
        _ => throw new ArgumentOutOfRangeException(nameof(format), format, null),
    };
}
