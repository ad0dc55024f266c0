using System.Runtime.CompilerServices;

namespace Qwen.Runtime.Formats;

/// <summary>
/// AWQ's and GPTQ's matrices: w[r, c] = scale[g, r] * (code[r, c] - zero[g, r]), where g is the group of column c.
/// Codes lie in 32-bit words, input-major: what is a row here runs down a column of the stored tensors.
/// </summary>
/// <remarks>
/// AWQ (gemm): qweight [Columns, Rows / 8], eight rows to a word; qzeros [Groups, Rows / 8] likewise. The nibbles of a word, from the lowest,
/// are rows 0, 2, 4, 6, 1, 3, 5, 7.
/// GPTQ: qweight [Columns / n, Rows], n = 32 / Bits columns to a word from the lowest bits on; qzeros [Groups, Rows / n], rows in order.
/// Both: scales [Groups, Rows].
/// </remarks>
public sealed unsafe class GroupQuantizedMatrix : StoredMatrix
{
    private readonly int[]? _groupOf;

    internal GroupQuantizedMatrix(string module, QuantizationConfig config, int rows, int columns, Tensor codes, Tensor scales, Tensor? zeros, int[]? groupOf)
        : base(codes.File, module, rows, columns)
    {
        IsAwq = config.Kind == QuantizationKind.Awq;
        Bits = config.Bits;
        GroupSize = config.GroupSize < 0 ? columns : config.GroupSize;
        ZeroOffset = config.ZeroOffset;
        Codes = codes;
        Scales = scales;
        Zeros = zeros;
        _groupOf = groupOf;
    }

    /// <summary>Packed as AWQ does; else as GPTQ does.</summary>
    public bool IsAwq { get; }

    /// <summary>Bits of a code: 4 or 8.</summary>
    public int Bits { get; }

    /// <summary>Columns of a group; the last one may have fewer.</summary>
    public int GroupSize { get; }

    /// <summary>qweight.</summary>
    public Tensor Codes { get; }

    /// <summary>scales, in F16, BF16 or F32.</summary>
    public Tensor Scales { get; }

    /// <summary>qzeros; null where every zero point is the middle code.</summary>
    public Tensor? Zeros { get; }

    /// <summary>What is added to a stored zero point.</summary>
    public int ZeroOffset { get; }

    /// <summary>The group of each column (g_idx); empty where it is column / GroupSize.</summary>
    public ReadOnlySpan<int> GroupOf => _groupOf;

    /// <summary>The code of an element.</summary>
    public int Code(int row, int column) => IsAwq
        ? Field(Codes, column, row, AwqNibble(row))
        : Field(Codes, column / PerWord, row * PerWord, column % PerWord);

    /// <summary>The codes of some rows: [rows, Columns], a code a byte.</summary>
    /// <param name="firstRow">The first row.</param>
    /// <param name="rows">How many.</param>
    /// <param name="order">The column that each place gets; empty for their own order.</param>
    /// <param name="codes">Where to.</param>
    public void ReadCodes(int firstRow, int rows, ReadOnlySpan<int> order, Span<byte> codes)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(codes.Length, rows * Columns, nameof(codes));
        fixed (byte* to = codes)
        {
            if (IsAwq && firstRow % AwqRows == 0 && rows % AwqRows == 0)
                ReadAwq(firstRow, rows, order, to);
            else if (!IsAwq && Bits == 4 && order.IsEmpty && Columns % PerWord == 0)
                ReadGptq4(firstRow, rows, to);
            else
                ReadEach(firstRow, rows, order, codes);
        }
    }

    /// <summary>The zero point of a row in a group: 0 to 256.</summary>
    public int Zero(int row, int group) => Zeros is null
        ? 1 << (Bits - 1)
        : Field(Zeros, group, row, IsAwq ? AwqNibble(row) : row % PerWord) + ZeroOffset;

    /// <summary>The scale of a row in a group.</summary>
    public float Scale(int row, int group) => Scales.FloatAt(((long)group * Rows) + row);

    /// <inheritdoc/>
    public override void Dequantize(int firstRow, int rows, Span<float> values)
    {
        CheckRows(firstRow, rows, values);
        for (int c = 0; c < Columns; c++) // columns outside: that is how they lie in memory
        {
            int group = _groupOf is null ? c / GroupSize : _groupOf[c];
            for (int r = 0; r < rows; r++)
                values[(r * Columns) + c] = Scale(firstRow + r, group) * (Code(firstRow + r, c) - Zero(firstRow + r, group));
        }
    }

    private const int AwqRows = 8; // of a word

    // Columns outside, here and below: that is how they lie in memory.
    private void ReadAwq(int firstRow, int rows, ReadOnlySpan<int> order, byte* codes)
    {
        long lineWords = Codes.Shape[1];
        for (int c = 0; c < Columns; c++)
        {
            byte* line = Codes.Data + ((((order.IsEmpty ? c : order[c]) * lineWords) + (firstRow / AwqRows)) * sizeof(uint));
            byte* to = codes + c;
            for (int r = 0; r < rows; r += AwqRows, line += sizeof(uint))
            {
                uint word = Unsafe.ReadUnaligned<uint>(line);
                for (int i = 0; i < AwqRows; i++, to += Columns)
                    *to = (byte)((word >> (AwqNibble(i) * 4)) & 15);
            }
        }
    }

    private void ReadGptq4(int firstRow, int rows, byte* codes)
    {
        long lineWords = Codes.Shape[1];
        for (int c = 0; c < Columns; c += 8)
        {
            byte* line = Codes.Data + ((((c / 8) * lineWords) + firstRow) * sizeof(uint));
            for (int r = 0; r < rows; r++)
            {
                // nibbles to bytes, halving the distance three times
                ulong spread = Unsafe.ReadUnaligned<uint>(line + (r * sizeof(uint)));
                spread = (spread | (spread << 16)) & 0x0000ffff0000ffff;
                spread = (spread | (spread << 8)) & 0x00ff00ff00ff00ff;
                spread = (spread | (spread << 4)) & 0x0f0f0f0f0f0f0f0f;
                Unsafe.WriteUnaligned(codes + ((long)r * Columns) + c, spread);
            }
        }
    }

    private void ReadEach(int firstRow, int rows, ReadOnlySpan<int> order, Span<byte> codes)
    {
        for (int c = 0; c < Columns; c++)
        {
            for (int r = 0; r < rows; r++)
                codes[(r * Columns) + c] = (byte)Code(firstRow + r, order.IsEmpty ? c : order[c]);
        }
    }

    private int PerWord => 32 / Bits;

    private static int AwqNibble(int row) => (row % 2 * 4) + (row % 8 / 2);

    /// <summary>A field of the word that holds <paramref name="element"/> of a line of the tensor.</summary>
    private int Field(Tensor words, long line, int element, int field)
    {
        uint word = Unsafe.ReadUnaligned<uint>(words.Data + (((line * words.Shape[1]) + (element / PerWord)) * sizeof(uint)));
        return (int)(word >> (field * Bits)) & ((1 << Bits) - 1);
    }
}
