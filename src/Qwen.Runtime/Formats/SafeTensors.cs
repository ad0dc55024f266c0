using System.Buffers.Binary;
using System.Collections.Immutable;
using System.Text.Json;

namespace Qwen.Runtime.Formats;

/// <summary>
/// The safetensors format (huggingface/safetensors): a 64-bit header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data.
/// </summary>
internal static unsafe class SafeTensors
{
    private const long MostHeaderBytes = 100L << 20; // the format's own bound
    private const int MostDimensions = 8;

    public static Checkpoint OpenDirectory(string directory)
    {
        string single = Path.Combine(directory, "model.safetensors"), index = single + ".index.json";
        if (File.Exists(index))
            return OpenIndex(directory, index);
        if (File.Exists(single))
            return OpenFiles(directory, [single]);
        throw new ModelFormatException(directory, "holds neither model.safetensors nor model.safetensors.index.json");
    }

    public static Checkpoint OpenIndex(string path, string index)
    {
        string directory = Path.GetDirectoryName(Path.GetFullPath(index))!;
        SortedSet<string> files = new(StringComparer.Ordinal);
        var expected = new List<(string Tensor, string File)>();
        using (JsonDocument json = Parse(index, File.ReadAllBytes(index)))
        {
            if (json.RootElement.ValueKind != JsonValueKind.Object || !json.RootElement.TryGetProperty("weight_map", out JsonElement map) || map.ValueKind != JsonValueKind.Object)
                throw new ModelFormatException(index, "weight_map is missing");
            foreach (JsonProperty entry in map.EnumerateObject())
            {
                string? file = entry.Value.ValueKind == JsonValueKind.String ? entry.Value.GetString() : null;
                if (file is null || file.Length == 0 || file != Path.GetFileName(file))
                    throw new ModelFormatException(index, $"weight_map: '{entry.Name}' points to {entry.Value.GetRawText()}, which is no file name");
                files.Add(file);
                expected.Add((entry.Name, file));
            }
        }

        Checkpoint checkpoint = OpenFiles(path, files.Select(file => Path.Combine(directory, file)));
        foreach ((string tensor, string file) in expected)
        {
            if (checkpoint.Tensors.TryGetValue(tensor, out Tensor? found) && Path.GetFileName(found.File) == file)
                continue;
            checkpoint.Dispose();
            throw new ModelFormatException(index, $"weight_map: tensor '{tensor}' is not in {file}");
        }

        return checkpoint;
    }

    public static Checkpoint OpenFiles(string path, IEnumerable<string> files) =>
        Checkpoint.Map(path, files, file => (Read(file.Path, file.Pointer, file.Length), null));

    /// <summary>The tensors of a file in memory.</summary>
    internal static List<Tensor> Read(string file, byte* data, long length)
    {
        if (length < 8)
            throw new ModelFormatException(file, $"has {length} bytes; a safetensors file starts with 8 bytes of header length");
        ulong headerBytes = BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(data, 8));
        if (headerBytes > MostHeaderBytes || (long)headerBytes > length - 8)
            throw new ModelFormatException(file, $"says its header has {headerBytes:N0} bytes, of {length - 8:N0} in the file; it is no safetensors file, or truncated");

        byte* body = data + 8 + headerBytes;
        ulong bodyBytes = (ulong)length - 8 - headerBytes;
        var tensors = new List<Tensor>();
        var ranges = new List<(string, ulong, ulong)>();
        var names = new HashSet<string>(StringComparer.Ordinal);
        byte[] header = new ReadOnlySpan<byte>(data + 8, (int)headerBytes).ToArray();
        // The JSON reader finds neither fault before a name is asked for, and then not as a fault of the JSON.
        if (!System.Text.Unicode.Utf8.IsValid(header) || header.AsSpan().IndexOf("\\ud"u8) >= 0 || header.AsSpan().IndexOf("\\uD"u8) >= 0)
            throw new ModelFormatException(file, "its header is not valid UTF-8, or has escaped surrogates");
        using JsonDocument json = Parse(file, header);
        if (json.RootElement.ValueKind != JsonValueKind.Object)
            throw new ModelFormatException(file, "its header is no JSON object");
        foreach (JsonProperty entry in json.RootElement.EnumerateObject())
        {
            if (entry.Name == "__metadata__")
                continue;
            if (!names.Add(entry.Name))
                throw new ModelFormatException(file, $"tensor '{entry.Name}' is there twice");
            (TensorType type, ImmutableArray<long> shape, ulong begin, ulong end) = ReadEntry(file, entry);
            long bytes = Tensor.CheckedBytes(file, entry.Name, type, shape.AsSpan(), begin, bodyBytes);
            if (end < begin || end - begin != (ulong)bytes)
                throw new ModelFormatException(file, $"tensor '{entry.Name}' says shape [{string.Join(", ", shape)}] in {type} ({bytes:N0} bytes) but spans bytes {begin:N0} to {end:N0}");
            tensors.Add(new Tensor(file, entry.Name, type, shape, body + begin));
            ranges.Add((entry.Name, begin, (ulong)bytes));
        }

        Tensor.CheckOverlaps(file, ranges);
        return tensors;
    }

    private static (TensorType Type, ImmutableArray<long> Shape, ulong Begin, ulong End) ReadEntry(string file, JsonProperty entry)
    {
        JsonElement value = entry.Value;
        if (value.ValueKind != JsonValueKind.Object
            || !value.TryGetProperty("dtype", out JsonElement dtype) || dtype.ValueKind != JsonValueKind.String
            || !value.TryGetProperty("shape", out JsonElement shape) || shape.ValueKind != JsonValueKind.Array || shape.GetArrayLength() > MostDimensions
            || !value.TryGetProperty("data_offsets", out JsonElement offsets) || offsets.ValueKind != JsonValueKind.Array || offsets.GetArrayLength() != 2
            || offsets[0].ValueKind != JsonValueKind.Number || !offsets[0].TryGetUInt64(out ulong begin) || offsets[1].ValueKind != JsonValueKind.Number || !offsets[1].TryGetUInt64(out ulong end))
            throw new ModelFormatException(file, $"tensor '{entry.Name}' has no well-formed dtype, shape and data_offsets: {Short(value.GetRawText())}");
        TensorType type = TensorTypes.FromSafeTensors(dtype.GetString()!)
            ?? throw new ModelFormatException(file, $"tensor '{entry.Name}' has the dtype '{Short(dtype.GetString()!)}', which is not supported");
        ImmutableArray<long>.Builder sizes = ImmutableArray.CreateBuilder<long>(shape.GetArrayLength());
        foreach (JsonElement size in shape.EnumerateArray())
        {
            if (size.ValueKind != JsonValueKind.Number || !size.TryGetInt64(out long number) || number < 0)
                throw new ModelFormatException(file, $"tensor '{entry.Name}' has the size {Short(size.GetRawText())} in its shape");
            sizes.Add(number);
        }

        return (type, sizes.DrainToImmutable(), begin, end);
    }

    private static JsonDocument Parse(string file, byte[] json)
    {
        try
        {
            return JsonDocument.Parse(json, new JsonDocumentOptions { MaxDepth = 16 });
        }
        catch (JsonException e)
        {
            throw new ModelFormatException(file, $"its JSON is damaged: {e.Message}");
        }
    }

    private static string Short(string text) => text.Length <= 80 ? text : text[..80] + "...";
}
