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
}
