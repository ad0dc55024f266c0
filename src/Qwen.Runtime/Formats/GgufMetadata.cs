using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Text;

namespace Qwen.Runtime.Formats;

#pragma warning disable CS1591 // The names are the documentation.
/// <summary>Types of GGUF metadata values, by their numbers in the file.</summary>
public enum GgufType
{
    UInt8, Int8, UInt16, Int16, UInt32, Int32, Float32, Bool, String, Array, UInt64, Int64, Float64,
}
#pragma warning restore CS1591

/// <summary>A list of strings that stays in the file: an entry is decoded when it is asked for.</summary>
public sealed unsafe class GgufStringArray
{
    private readonly byte* _file;
    private readonly long[] _offsets; // of each string's 64-bit length

    internal GgufStringArray(byte* file, long[] offsets)
    {
        _file = file;
        _offsets = offsets;
    }

    /// <summary>Strings.</summary>
    public int Count => _offsets.Length;

    /// <summary>The UTF-8 bytes of a string, valid while the checkpoint is.</summary>
    public ReadOnlySpan<byte> this[int index]
    {
        get
        {
            byte* at = _file + _offsets[index];
            return new ReadOnlySpan<byte>(at + 8, (int)BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(at, 8)));
        }
    }
}

/// <summary>The key-value pairs of a GGUF file. Numbers are boxed in their own type, arrays are arrays of it, strings are strings.</summary>
public sealed class GgufMetadata
{
    private readonly Dictionary<string, object> _values;
    private readonly string _file;

    internal GgufMetadata(string file, Dictionary<string, object> values)
    {
        _file = file;
        _values = values;
    }

    /// <summary>All pairs: numbers, bool, string, <see cref="GgufStringArray"/>, arrays of numbers, or object[] of nested arrays.</summary>
    public IReadOnlyDictionary<string, object> Values => _values;

    /// <summary>The key is there.</summary>
    public bool Contains(string key) => _values.ContainsKey(key);

    /// <summary>A string.</summary>
    /// <exception cref="ModelFormatException">It is missing, or no string.</exception>
    public string GetString(string key) => TryGetString(key, out string? value) ? value : throw Missing(key);

    /// <summary>A string, if the key is there.</summary>
    /// <exception cref="ModelFormatException">It is no string.</exception>
    public bool TryGetString(string key, [NotNullWhen(true)] out string? value) => TryGet(key, "a string", v => v as string, out value);

    /// <summary>A whole number of any width that fits.</summary>
    /// <exception cref="ModelFormatException">It is missing, or does not fit.</exception>
    public uint GetUInt32(string key) => TryGetUInt32(key, out uint value) ? value : throw Missing(key);

    /// <summary>A whole number of any width that fits, if the key is there.</summary>
    /// <exception cref="ModelFormatException">It does not fit.</exception>
    public bool TryGetUInt32(string key, out uint value)
    {
        bool found = TryGet(key, "a whole number of 32 bits", AsUInt32, out uint? number);
        value = number ?? 0;
        return found;
    }

    /// <summary>A float of either width.</summary>
    /// <exception cref="ModelFormatException">It is missing, or no float.</exception>
    public float GetFloat32(string key) => TryGetFloat32(key, out float value) ? value : throw Missing(key);

    /// <summary>A float of either width, if the key is there.</summary>
    /// <exception cref="ModelFormatException">It is no float.</exception>
    public bool TryGetFloat32(string key, out float value)
    {
        bool found = TryGet(key, "a float", v => v switch { float f => f, double d => (float?)d, _ => null }, out float? number);
        value = number ?? 0;
        return found;
    }

    /// <summary>A list of strings.</summary>
    /// <exception cref="ModelFormatException">It is missing, or no such list.</exception>
    public GgufStringArray GetStrings(string key) => TryGet(key, "a list of strings", v => v as GgufStringArray, out GgufStringArray? value) ? value! : throw Missing(key);

    /// <summary>A list of 32-bit integers, if the key is there.</summary>
    /// <exception cref="ModelFormatException">It is no such list.</exception>
    public bool TryGetInt32s(string key, [NotNullWhen(true)] out int[]? value) =>
        TryGet(key, "a list of 32-bit integers", v => v switch { int[] signed => signed, uint[] unsigned => (int[])(object)unsigned, _ => null }, out value);

    private static uint? AsUInt32(object value)
    {
        Int128? number = value switch
        {
            byte v => v,
            sbyte v => v,
            ushort v => v,
            short v => v,
            uint v => v,
            int v => v,
            ulong v => v,
            long v => v,
            _ => null,
        };
        return number is { } n && n >= 0 && n <= uint.MaxValue ? (uint)n : null;
    }

    private bool TryGet<T>(string key, string kind, Func<object, T?> convert, out T? value)
    {
        value = default;
        if (!_values.TryGetValue(key, out object? found))
            return false;
        value = convert(found);
        return value is not null ? true : throw new ModelFormatException(_file, $"{key}: {Describe(found)} is not {kind}");
    }

    private static string Describe(object value) => value switch
    {
        string s => s.Length <= 80 ? $"'{s}'" : $"'{s[..80]}...'",
        GgufStringArray list => $"a list of {list.Count} strings",
        Array array => $"a list of {array.Length} values",
        _ => value.ToString()!,
    };

    private ModelFormatException Missing(string key) => new(_file, $"{key} is missing");
}
