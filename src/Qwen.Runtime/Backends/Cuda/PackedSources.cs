using System.Buffers.Binary;
using Qwen.Native.Kernels;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Rows of stacked matrices, which are packed alike.</summary>
/// <param name="parts">The matrices from top to bottom, each with its rows.</param>
/// <param name="inputs">Columns.</param>
/// <param name="groups">Groups of a row.</param>
internal sealed class StackedSource(IReadOnlyList<(IPackedSource Source, int Rows)> parts, int inputs, int groups) : IPackedSource
{
    public void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets)
    {
        foreach ((IPackedSource source, int partRows) in parts)
        {
            int count = Math.Min(rows, partRows - firstRow);
            if (count > 0)
            {
                source.Read(firstRow, count, codes[..(count * inputs)], scales[..(count * groups)], offsets.IsEmpty ? offsets : offsets[..(count * groups)]);
                (firstRow, rows) = (firstRow + count, rows - count);
                codes = codes[(count * inputs)..];
                scales = scales[(count * groups)..];
                offsets = offsets.IsEmpty ? offsets : offsets[(count * groups)..];
            }

            firstRow -= partRows;
        }
    }
}

/// <summary>Rows of AWQ's and GPTQ's matrices, columns in the order of their groups.</summary>
/// <param name="matrix">The matrix.</param>
/// <param name="plan">The size of groups as they are packed, and the order.</param>
/// <param name="hasOffsets">Zero points are asked for.</param>
internal sealed class GroupSource(GroupQuantizedMatrix matrix, GroupPlan plan, bool hasOffsets) : IPackedSource
{
    public void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets)
    {
        int columns = matrix.Columns, groups = columns / plan.BlockColumns;
        matrix.ReadCodes(firstRow, rows, plan.InputOrder, codes);
        for (int r = 0; r < rows; r++)
        {
            for (int g = 0; g < groups; g++)
            {
                int group = g * plan.BlockColumns / matrix.GroupSize;
                scales[(r * groups) + g] = matrix.Scale(firstRow + r, group);
                if (hasOffsets)
                    offsets[(r * groups) + g] = matrix.Zero(firstRow + r, group);
            }
        }
    }
}

/// <summary>Rows of GGUF's Q4_0, Q4_1, Q4_K and Q8_0: groups of 32 (ggml-common.h describes the blocks).</summary>
/// <param name="tensor">The matrix.</param>
internal sealed unsafe class GgufSource(Tensor tensor) : IPackedSource
{
    private const int Group = 32, SuperBlock = 256;

    private readonly long _rowBytes = tensor.ByteCount / tensor.Shape[0];

    /// <summary>How its types are packed; null for other types.</summary>
    public static PackedFormat? FormatOf(TensorType type) => type switch
    {
        TensorType.Q4_0 => new PackedFormat(4, Group, PackedOffset.None),
        TensorType.Q4_1 or TensorType.Q4_K => new PackedFormat(4, Group, PackedOffset.Minimum),
        TensorType.Q8_0 => new PackedFormat(8, Group, PackedOffset.None),
        _ => null,
    };

    public void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets)
    {
        int columns = (int)tensor.Shape[1], groups = columns / Group;
        for (int r = 0; r < rows; r++)
        {
            var row = new ReadOnlySpan<byte>(tensor.Data + ((firstRow + r) * _rowBytes), (int)_rowBytes);
            Read(row, codes.Slice(r * columns, columns), scales.Slice(r * groups, groups), offsets.IsEmpty ? offsets : offsets.Slice(r * groups, groups));
        }
    }

    private void Read(ReadOnlySpan<byte> row, Span<byte> codes, Span<float> scales, Span<float> offsets)
    {
        int blockBytes = tensor.Type.BlockBytes;
        for (int b = 0; b * blockBytes < row.Length; b++)
        {
            ReadOnlySpan<byte> block = row.Slice(b * blockBytes, blockBytes);
            switch (tensor.Type)
            {
                case TensorType.Q4_0: // F16 scale, then nibbles of elements i and i + 16
                    scales[b] = Half16(block);
                    Nibbles(block[2..], 16, codes[(b * Group)..]);
                    break;
                case TensorType.Q4_1: // F16 scale, F16 minimum
                    (scales[b], offsets[b]) = (Half16(block), Half16(block[2..]));
                    Nibbles(block[4..], 16, codes[(b * Group)..]);
                    break;
                case TensorType.Q8_0: // F16 scale, signed bytes
                    scales[b] = Half16(block);
                    for (int i = 0; i < Group; i++)
                        codes[(b * Group) + i] = (byte)(block[2 + i] ^ 0x80);
                    break;
                case TensorType.Q4_K: // F16 scale, F16 minimum, 8 pairs of 6 bits in 12 bytes, then four times nibbles of elements i and i + 32
                    for (int s = 0; s < SuperBlock / Group; s++)
                    {
                        ReadOnlySpan<byte> packed = block.Slice(4, 12);
                        int scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6 << 4);
                        int minimum = s < 4 ? packed[s + 4] & 63 : (packed[s + 4] >> 4) | (packed[s] >> 6 << 4);
                        scales[(b * 8) + s] = Half16(block) * scale;
                        offsets[(b * 8) + s] = -Half16(block[2..]) * minimum;
                    }

                    for (int chunk = 0; chunk < 4; chunk++)
                        Nibbles(block.Slice(16 + (chunk * 32), 32), 32, codes[((b * SuperBlock) + (chunk * 64))..]);
                    break;
            }
        }
    }

    private static void Nibbles(ReadOnlySpan<byte> bytes, int count, Span<byte> codes)
    {
        for (int i = 0; i < count; i++)
            (codes[i], codes[count + i]) = ((byte)(bytes[i] & 15), (byte)(bytes[i] >> 4));
    }

    private static float Half16(ReadOnlySpan<byte> bytes) => (float)BinaryPrimitives.ReadHalfLittleEndian(bytes);
}
