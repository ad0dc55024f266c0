namespace Qwen.Runtime.Backends;

/// <summary>How cached keys and values are stored.</summary>
public enum KvCacheType
{
    /// <summary>IEEE binary16: the default.</summary>
    F16,

    /// <summary>bfloat16.</summary>
    BF16,

    /// <summary>IEEE binary32.</summary>
    F32,

    /// <summary>8-bit integers, with a scale per token and head.</summary>
    Int8,

    /// <summary>8-bit floats with 3 bits of fraction, with a scale per token and head.</summary>
    F8_E4M3,

    /// <summary>8-bit floats with 2 bits of fraction, with a scale per token and head.</summary>
    F8_E5M2,
}
