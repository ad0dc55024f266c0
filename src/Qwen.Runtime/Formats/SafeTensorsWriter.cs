using System.Buffers.Binary;
using System.Text.Json;

namespace Qwen.Runtime.Formats;

/// <summary>Writes a safetensors file: tensors in the order they are added, without gaps, as the format asks.</summary>
public sealed class SafeTensorsWriter
{
    private readonly List<(string Name, TensorType Type, long[] Shape, ReadOnlyMemory<byte> Data)> _tensors = [];

    /// <summary>Free text that goes with the file.</summary>
    public Dictionary<string, string> Metadata { get; } = new(StringComparer.Ordinal);

    /// <summary>Adds a tensor.</summary>
    /// <param name="name">Its name.</param>
    /// <param name="type">A type that safetensors has a name for.</param>
    /// <param name="shape">Sizes, outermost first.</param>
    /// <param name="data">Its bytes.</param>
    /// <exception cref="ArgumentException">The type is not safetensors', or the bytes are not the shape's.</exception>
    public void Add(string name, TensorType type, ReadOnlySpan<long> shape, ReadOnlyMemory<byte> data)
    {
        if (type.SafeTensorsName is null)
            throw new ArgumentException($"safetensors has no type {type}.", nameof(type));
        if (Tensor.CheckedBytes("(new)", name, type, shape, 0, (ulong)data.Length) != data.Length)
            throw new ArgumentException($"Tensor '{name}' has {data.Length} bytes, which are not its shape's.", nameof(data));
        _tensors.Add((name, type, shape.ToArray(), data));
    }

    /// <summary>Writes header and data.</summary>
    public void Write(Stream stream)
    {
        using var header = new MemoryStream();
        using (var json = new Utf8JsonWriter(header))
        {
            json.WriteStartObject();
            if (Metadata.Count > 0)
            {
                json.WriteStartObject("__metadata__");
                foreach ((string key, string value) in Metadata)
                    json.WriteString(key, value);
                json.WriteEndObject();
            }

            long offset = 0;
            foreach ((string name, TensorType type, long[] shape, ReadOnlyMemory<byte> data) in _tensors)
            {
                json.WriteStartObject(name);
                json.WriteString("dtype", type.SafeTensorsName);
                json.WriteStartArray("shape");
                foreach (long size in shape)
                    json.WriteNumberValue(size);
                json.WriteEndArray();
                json.WriteStartArray("data_offsets");
                json.WriteNumberValue(offset);
                json.WriteNumberValue(offset + data.Length);
                json.WriteEndArray();
                json.WriteEndObject();
                offset += data.Length;
            }

            json.WriteEndObject();
        }

        while (header.Length % 8 != 0)
            header.WriteByte((byte)' ');
        Span<byte> length = stackalloc byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        stream.Write(length);
        header.WriteTo(stream);
        foreach ((_, _, _, ReadOnlyMemory<byte> data) in _tensors)
            stream.Write(data.Span);
    }
}
