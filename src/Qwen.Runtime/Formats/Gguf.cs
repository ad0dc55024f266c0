using System.Collections.Immutable;
using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace Qwen.Runtime.Formats;

/// <summary>The GGUF format (ggml's docs/gguf.md), versions 2 and 3, little-endian: header, metadata, tensor table, aligned data.</summary>
internal static unsafe partial class Gguf
{
    public const uint Magic = 0x46554747; // "GGUF"
    public const int DefaultAlignment = 32;
    private const int MostDimensions = 4, MostNesting = 4;

    /// <summary>Opens a file, or all files of a split given any one of them.</summary>
    public static Checkpoint Open(string path) =>
        Checkpoint.Map(path, Shards(path), file =>
        {
            (List<Tensor> tensors, GgufMetadata metadata) = Read(file.Path, file.Pointer, file.Length);
            return (tensors, metadata);
        });

    /// <summary>The tensors and metadata of a file in memory.</summary>
    internal static (List<Tensor> Tensors, GgufMetadata Metadata) Read(string file, byte* data, long length)
    {
        var reader = new Reader(file, data, length);
        if (length < 4 || reader.Read<uint>("magic") != Magic)
            throw new ModelFormatException(file, "does not start with 'GGUF'");
        uint version = reader.Read<uint>("version");
        if (version is not (2 or 3))
            throw new ModelFormatException(file, $"has GGUF version {version}; supported are 2 and 3, little-endian");
        // A tensor's entry takes at least 24 bytes, a pair at least 13: counts beyond the file are refused before anything is made for them.
        int tensorCount = reader.ReadCount("tensor count", 24), pairCount = reader.ReadCount("metadata count", 13);

        var values = new Dictionary<string, object>(StringComparer.Ordinal);
        for (int i = 0; i < pairCount; i++)
        {
            string key = reader.ReadString($"key {i}");
            if (!values.TryAdd(key, reader.ReadValue(key, (GgufType)reader.Read<uint>(key), 0)))
                throw new ModelFormatException(file, $"metadata key '{key}' is there twice");
        }

        var metadata = new GgufMetadata(file, values);
        uint alignment = metadata.TryGetUInt32("general.alignment", out uint asked) ? asked : DefaultAlignment;
        if (alignment == 0 || alignment > 1 << 20 || (alignment & (alignment - 1)) != 0)
            throw new ModelFormatException(file, $"general.alignment: {alignment} is not a power of two up to 1,048,576");
        return (ReadTensors(ref reader, tensorCount, alignment), metadata);
    }

    private static List<Tensor> ReadTensors(ref Reader reader, int count, uint alignment)
    {
        string file = reader.File;
        var table = new List<(string Name, TensorType Type, ImmutableArray<long> Shape, ulong Offset)>(count);
        for (int i = 0; i < count; i++)
        {
            string name = reader.ReadString($"name of tensor {i}");
            uint dimensions = reader.Read<uint>(name);
            if (dimensions > MostDimensions)
                throw new ModelFormatException(file, $"tensor '{name}' has {dimensions} dimensions, the most is {MostDimensions}");
            var shape = new long[dimensions];
            for (int d = (int)dimensions - 1; d >= 0; d--) // the file has the innermost first
                shape[d] = reader.Read<long>(name);
            uint number = reader.Read<uint>(name);
            TensorType type = TensorTypes.FromGguf(number) ?? throw new ModelFormatException(file, $"tensor '{name}' has the ggml type {number}, which is not supported");
            table.Add((name, type, ImmutableArray.Create(shape), reader.Read<ulong>(name)));
        }

        long start = (reader.Position + alignment - 1) & ~((long)alignment - 1);
        ulong available = start <= reader.Length ? (ulong)(reader.Length - start) : 0;
        var tensors = new List<Tensor>(count);
        var ranges = new List<(string, ulong, ulong)>(count);
        var names = new HashSet<string>(StringComparer.Ordinal);
        foreach ((string name, TensorType type, ImmutableArray<long> shape, ulong offset) in table)
        {
            if (!names.Add(name))
                throw new ModelFormatException(file, $"tensor '{name}' is there twice");
            if (offset % alignment != 0)
                throw new ModelFormatException(file, $"tensor '{name}' lies at offset {offset:N0}, which is not a multiple of the alignment {alignment}");
            long bytes = Tensor.CheckedBytes(file, name, type, shape.AsSpan(), offset, available);
            tensors.Add(new Tensor(file, name, type, shape, reader.Data + start + (long)offset));
            ranges.Add((name, offset, (ulong)bytes));
        }

        Tensor.CheckOverlaps(file, ranges);
        return tensors;
    }

    private static IEnumerable<string> Shards(string path)
    {
        Match split = SplitName().Match(path);
        if (!split.Success)
            return [path];
        int count = int.Parse(split.Groups["count"].ValueSpan, CultureInfo.InvariantCulture);
        if (count == 0)
            throw new ModelFormatException(path, "is named as a part of a split of 0");
        return Enumerable.Range(1, count).Select(i => $"{path[..split.Groups["number"].Index]}{i:D5}-of-{count:D5}.gguf");
    }

    [GeneratedRegex(@"-(?<number>\d{5})-of-(?<count>\d{5})\.gguf$", RegexOptions.IgnoreCase)]
    private static partial Regex SplitName();

    /// <summary>Reads forward through the file; nothing is read that is not there.</summary>
    private ref struct Reader(string file, byte* data, long length)
    {
        public readonly string File => file;

        public readonly byte* Data => data;

        public readonly long Length => length;

        public long Position { get; private set; }

        public T Read<T>(string field)
            where T : unmanaged
        {
            Need(field, (ulong)sizeof(T));
            T value = System.Runtime.CompilerServices.Unsafe.ReadUnaligned<T>(data + Position);
            Position += sizeof(T);
            return value;
        }

        public int ReadCount(string field, int leastBytesEach)
        {
            ulong count = Read<ulong>(field);
            if (count > (ulong)(length - Position) / (ulong)leastBytesEach || count > int.MaxValue)
                throw new ModelFormatException(file, $"{field}: {count:N0} is more than the file can hold");
            return (int)count;
        }

        public string ReadString(string field)
        {
            ReadOnlySpan<byte> bytes = ReadBytes(field);
            return Encoding.UTF8.GetString(bytes);
        }

        public object ReadValue(string key, GgufType type, int depth) => type switch
        {
            GgufType.UInt8 => Read<byte>(key),
            GgufType.Int8 => Read<sbyte>(key),
            GgufType.UInt16 => Read<ushort>(key),
            GgufType.Int16 => Read<short>(key),
            GgufType.UInt32 => Read<uint>(key),
            GgufType.Int32 => Read<int>(key),
            GgufType.Float32 => Read<float>(key),
            GgufType.Bool => ReadBool(key),
            GgufType.String => ReadString(key),
            GgufType.Array => ReadArray(key, depth),
            GgufType.UInt64 => Read<ulong>(key),
            GgufType.Int64 => Read<long>(key),
            GgufType.Float64 => Read<double>(key),
            _ => throw new ModelFormatException(file, $"{key}: value type {(uint)type} is not known"),
        };

        private object ReadArray(string key, int depth)
        {
            if (depth == MostNesting)
                throw new ModelFormatException(file, $"{key}: lists are nested more than {MostNesting} deep");
            var type = (GgufType)Read<uint>(key);
            switch (type)
            {
                case GgufType.UInt8: return ReadNumbers<byte>(key);
                case GgufType.Int8: return ReadNumbers<sbyte>(key);
                case GgufType.UInt16: return ReadNumbers<ushort>(key);
                case GgufType.Int16: return ReadNumbers<short>(key);
                case GgufType.UInt32: return ReadNumbers<uint>(key);
                case GgufType.Int32: return ReadNumbers<int>(key);
                case GgufType.Float32: return ReadNumbers<float>(key);
                case GgufType.UInt64: return ReadNumbers<ulong>(key);
                case GgufType.Int64: return ReadNumbers<long>(key);
                case GgufType.Float64: return ReadNumbers<double>(key);
                case GgufType.String: return ReadStrings(key);
                case GgufType.Bool:
                    var flags = new bool[ReadCount(key, 1)];
                    for (int i = 0; i < flags.Length; i++)
                        flags[i] = ReadBool(key);
                    return flags;
                case GgufType.Array:
                    var lists = new object[ReadCount(key, 12)];
                    for (int i = 0; i < lists.Length; i++)
                        lists[i] = ReadArray(key, depth + 1);
                    return lists;
                default:
                    throw new ModelFormatException(file, $"{key}: value type {(uint)type} is not known");
            }
        }

        private T[] ReadNumbers<T>(string key)
            where T : unmanaged
        {
            var numbers = new T[ReadCount(key, sizeof(T))];
            new ReadOnlySpan<byte>(data + Position, numbers.Length * sizeof(T)).CopyTo(System.Runtime.InteropServices.MemoryMarshal.AsBytes(numbers.AsSpan()));
            Position += (long)numbers.Length * sizeof(T);
            return numbers;
        }

        private GgufStringArray ReadStrings(string key)
        {
            var offsets = new long[ReadCount(key, 8)];
            for (int i = 0; i < offsets.Length; i++)
            {
                offsets[i] = Position;
                ReadBytes(key);
            }

            return new GgufStringArray(data, offsets);
        }

        private ReadOnlySpan<byte> ReadBytes(string field)
        {
            ulong count = Read<ulong>(field);
            Need(field, count);
            if (count > int.MaxValue)
                throw new ModelFormatException(file, $"{field}: a string of {count:N0} bytes is too long");
            var bytes = new ReadOnlySpan<byte>(data + Position, (int)count);
            Position += (long)count;
            return bytes;
        }

        private bool ReadBool(string key) => Read<byte>(key) switch
        {
            0 => false,
            1 => true,
            byte other => throw new ModelFormatException(file, $"{key}: {other} is neither true (1) nor false (0)"),
        };

        private readonly void Need(string field, ulong bytes)
        {
            if (bytes > (ulong)(length - Position))
                throw new ModelFormatException(file, $"{field}: {bytes:N0} bytes are wanted at offset {Position:N0}, the file has {length:N0}; it is damaged or truncated");
        }
    }
}
