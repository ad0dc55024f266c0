using System.Collections.Immutable;
using System.Runtime.CompilerServices;

namespace Qwen.Runtime.Formats;

/// <summary>A named array in a checkpoint: where it lies, and how to read it. Valid while its <see cref="Checkpoint"/> is.</summary>
public sealed unsafe class Tensor
{
    internal Tensor(string file, string name, TensorType type, ImmutableArray<long> shape, byte* data)
    {
        File = file;
        Name = name;
        Type = type;
        Shape = shape;
        Data = data;
        ElementCount = shape.Aggregate(1L, (product, size) => checked(product * size));
        ByteCount = ElementCount / type.BlockElements * type.BlockBytes;
    }

    /// <summary>The file it lies in.</summary>
    public string File { get; }

    /// <summary>Its name there.</summary>
    public string Name { get; }

    /// <summary>How its elements are stored.</summary>
    public TensorType Type { get; }

    /// <summary>Sizes, outermost first: a matrix is [rows, columns], rows contiguous (GGUF writes them the other way round).</summary>
    public ImmutableArray<long> Shape { get; }

    /// <summary>Elements.</summary>
    public long ElementCount { get; }

    /// <summary>Bytes.</summary>
    public long ByteCount { get; }

    /// <summary>The first byte; null in an outline.</summary>
    public byte* Data { get; }

    /// <summary>All bytes.</summary>
    /// <exception cref="OverflowException">More than a span can hold.</exception>
    /// <exception cref="InvalidOperationException">The checkpoint is an outline.</exception>
    public ReadOnlySpan<byte> Bytes => Data is null ? throw new InvalidOperationException($"Tensor '{Name}' is an outline without bytes.") : new(Data, checked((int)ByteCount));

    /// <summary>An element of an F32, F16 or BF16 tensor.</summary>
    internal float FloatAt(long index) => Type switch
    {
        TensorType.F32 => Unsafe.ReadUnaligned<float>(Data + (index * sizeof(float))),
        TensorType.F16 => (float)BitConverter.UInt16BitsToHalf(Unsafe.ReadUnaligned<ushort>(Data + (index * sizeof(ushort)))),
        TensorType.BF16 => BitConverter.UInt32BitsToSingle((uint)Unsafe.ReadUnaligned<ushort>(Data + (index * sizeof(ushort))) << 16),
        _ => throw new InvalidOperationException($"Tensor '{Name}' is stored as {Type}, not in floats."),
    };

    /// <summary>
    /// Checks that a shape makes sense and lies in <paramref name="available"/> bytes from <paramref name="offset"/> on; the bytes it takes.
    /// </summary>
    internal static long CheckedBytes(string file, string name, TensorType type, ReadOnlySpan<long> shape, ulong offset, ulong available)
    {
        UInt128 elements = 1;
        foreach (long size in shape)
        {
            if (size < 0)
                throw Error($"has the negative size {size}");
            elements *= (ulong)size;
            if (elements > long.MaxValue)
                throw Error("has more elements than 64 bits count");
        }

        long row = shape.Length == 0 ? 1 : shape[^1];
        if (row % type.BlockElements != 0)
            throw Error($"has rows of {row} elements, not a multiple of the {type.BlockElements} of a {type} block");
        UInt128 bytes = elements / (uint)type.BlockElements * (uint)type.BlockBytes;
        if (offset > available || bytes > available - offset)
            throw Error($"says shape [{string.Join(", ", shape.ToArray())}] in {type} ({bytes:N0} bytes) at offset {offset:N0}, but the data has {available:N0} bytes; the file is damaged or truncated");
        return (long)bytes;

        ModelFormatException Error(string what) => new(file, $"tensor '{name}' {what}");
    }

    /// <summary>Checks that no two of the byte ranges share a byte.</summary>
    internal static void CheckOverlaps(string file, IEnumerable<(string Name, ulong Offset, ulong Bytes)> ranges)
    {
        (string Name, ulong Offset, ulong Bytes) previous = default;
        foreach ((string Name, ulong Offset, ulong Bytes) range in ranges.Where(r => r.Bytes > 0).OrderBy(r => r.Offset))
        {
            if (previous.Name is not null && range.Offset < previous.Offset + previous.Bytes)
                throw new ModelFormatException(file, $"tensors '{previous.Name}' and '{range.Name}' overlap at byte {range.Offset:N0} of the data");
            previous = range;
        }
    }
}
