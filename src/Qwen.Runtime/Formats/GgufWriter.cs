using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace Qwen.Runtime.Formats;

/// <summary>Writes a GGUF file, version 3.</summary>
public sealed class GgufWriter
{
    private readonly List<(string Name, TensorType Type, long[] Shape, ReadOnlyMemory<byte> Data)> _tensors = [];

    /// <summary>
    /// Key-value pairs: numbers of any of the format's types, bool, string, arrays of those (string[] too), or object[] of arrays.
    /// <c>general.alignment</c> (uint) sets the alignment of the data.
    /// </summary>
    public Dictionary<string, object> Metadata { get; } = new(StringComparer.Ordinal);

    /// <summary>Adds a tensor.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="type">A type that GGUF has a number for.</param>
    /// <param name="shape">Sizes, outermost first.</param>
    /// <param name="data">Its bytes.</param>
    /// <exception cref="ArgumentException">The type is not GGUF's, or the bytes are not the shape's.</exception>
    public void Add(string name, TensorType type, ReadOnlySpan<long> shape, ReadOnlyMemory<byte> data)
    {
        if (type.GgufNumber < 0)
            throw new ArgumentException($"GGUF has no type {type}.", nameof(type));
        if (Tensor.CheckedBytes("(new)", name, type, shape, 0, (ulong)data.Length) != data.Length)
            throw new ArgumentException($"Tensor '{name}' has {data.Length} bytes, which are not its shape's.", nameof(data));
        _tensors.Add((name, type, shape.ToArray(), data));
    }

    /// <summary>Writes header, metadata, tensor table and data.</summary>
    public void Write(Stream stream)
    {
        long alignment = Metadata.TryGetValue("general.alignment", out object? value) ? (uint)value : Gguf.DefaultAlignment;
        using var head = new MemoryStream();
        Put(head, Gguf.Magic);
        Put(head, 3u);
        Put(head, (ulong)_tensors.Count);
        Put(head, (ulong)Metadata.Count);
        foreach ((string key, object pair) in Metadata)
        {
            PutString(head, key);
            GgufType type = TypeOf(pair.GetType());
            Put(head, (uint)type);
            PutValue(head, pair, type);
        }

        long offset = 0;
        foreach ((string name, TensorType type, long[] shape, ReadOnlyMemory<byte> data) in _tensors)
        {
            PutString(head, name);
            Put(head, (uint)shape.Length);
            foreach (long size in shape.Reverse())
                Put(head, size);
            Put(head, (uint)type.GgufNumber);
            Put(head, offset);
            offset = Align(offset + data.Length);
        }

        Pad(head, head.Length);
        head.WriteTo(stream);
        foreach ((_, _, _, ReadOnlyMemory<byte> data) in _tensors)
        {
            stream.Write(data.Span);
            Pad(stream, data.Length);
        }

        long Align(long position) => (position + alignment - 1) / alignment * alignment;
        void Pad(Stream to, long written) => to.Write(new byte[Align(written) - written]);
    }

    private static GgufType TypeOf(Type type) =>
        type == typeof(byte) ? GgufType.UInt8
        : type == typeof(sbyte) ? GgufType.Int8
        : type == typeof(ushort) ? GgufType.UInt16
        : type == typeof(short) ? GgufType.Int16
        : type == typeof(uint) ? GgufType.UInt32
        : type == typeof(int) ? GgufType.Int32
        : type == typeof(float) ? GgufType.Float32
        : type == typeof(bool) ? GgufType.Bool
        : type == typeof(string) ? GgufType.String
        : type == typeof(ulong) ? GgufType.UInt64
        : type == typeof(long) ? GgufType.Int64
        : type == typeof(double) ? GgufType.Float64
        : type.IsArray ? GgufType.Array
        : throw new ArgumentException($"GGUF metadata has no type for {type}.", nameof(type));

    private static void PutValue(Stream stream, object value, GgufType type)
    {
        switch (value)
        {
            case string text: PutString(stream, text); break;
            case bool flag: stream.WriteByte(flag ? (byte)1 : (byte)0); break;
            case byte v: Put(stream, v); break;
            case sbyte v: Put(stream, v); break;
            case ushort v: Put(stream, v); break;
            case short v: Put(stream, v); break;
            case uint v: Put(stream, v); break;
            case int v: Put(stream, v); break;
            case float v: Put(stream, v); break;
            case ulong v: Put(stream, v); break;
            case long v: Put(stream, v); break;
            case double v: Put(stream, v); break;
            case Array array:
                Type element = array.GetType().GetElementType()!;
                GgufType elementType = element == typeof(object) ? GgufType.Array : TypeOf(element);
                Put(stream, (uint)elementType);
                Put(stream, (ulong)array.Length);
                foreach (object item in array)
                    PutValue(stream, item, elementType);
                break;
            default: throw new ArgumentException($"GGUF metadata has no type for {type}.", nameof(value));
        }
    }

    private static void PutString(Stream stream, string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        Put(stream, (ulong)bytes.Length);
        stream.Write(bytes);
    }

    private static void Put<T>(Stream stream, T value)
        where T : unmanaged
    {
        Span<byte> bytes = stackalloc byte[Unsafe.SizeOf<T>()];
        MemoryMarshal.Write(bytes, value);
        stream.Write(bytes);
    }
}
