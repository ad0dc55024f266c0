namespace Qwen.Native.Device;

/// <summary>The type of a value in device memory.</summary>
public enum ElementType
{
    /// <summary>IEEE single.</summary>
    F32,

    /// <summary>IEEE half.</summary>
    F16,

    /// <summary>The upper half of a single.</summary>
    BF16,

    /// <summary>FP8 with 4 exponent and 3 mantissa bits (arXiv 2209.05433), largest value 448.</summary>
    E4M3,

    /// <summary>FP8 with 5 exponent and 2 mantissa bits (arXiv 2209.05433), largest finite value 57344.</summary>
    E5M2,

    /// <summary>Signed byte.</summary>
    S8,

    /// <summary>Signed 32-bit integer.</summary>
    S32,
}

/// <summary>Sizes of <see cref="ElementType"/>.</summary>
public static class ElementTypes
{
    /// <summary>Bytes of one value.</summary>
    public static int Bytes(this ElementType type) => type switch
    {
        ElementType.F32 or ElementType.S32 => 4,
        ElementType.F16 or ElementType.BF16 => 2,
        ElementType.E4M3 or ElementType.E5M2 or ElementType.S8 => 1,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
    };
}
