using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Qwen.Native.Kernels;

/// <summary>Where <see cref="PackedMatrix"/> gets its weights from: any file format, through an adapter.</summary>
public interface IPackedSource
{
    /// <summary>Reads consecutive rows (outputs). Called from several threads at once.</summary>
    /// <param name="firstRow">The first.</param>
    /// <param name="rows">How many: at most 16.</param>
    /// <param name="codes">[rows, Inputs], a code a byte.</param>
    /// <param name="scales">[rows, Groups].</param>
    /// <param name="offsets">[rows, Groups]: zero points or minima; empty where the format has none.</param>
    void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets);
}

/// <summary>
/// The layout of a group-quantized matrix [Outputs, Inputs] for the tensor cores: how large it is, how it is packed, and what it means.
/// </summary>
/// <remarks>
/// Codes: tiles of 16 outputs by 64 inputs (8 bits: 32), [row tile][column tile][512 bytes]: a lane's 16 bytes are the four A registers of
/// mma.m16n8k16 for 4 (2) steps, so that a warp reads a tile in one fully coalesced access and a row tile is one stream. Lane L = 4 g + t holds
/// in word r the row g + 8 (r &amp; 1), and there for step j, in the fields j and j + 4 (8 bits: j + 2), the inputs
/// 32 (j >> 1) + 8 t + 4 (j &amp; 1) + 2 (r >> 1) and the next: shifted by j fields and masked, a word is a register of two codes in 16-bit halves.
/// The sum over inputs has no order, so they are dealt such that what a lane needs of an activation's row is 16 consecutive bytes for two steps.
/// Scales: [row tile][group][g = 0..7] of the pair of F16 for rows g and g + 8, followed by the pair of offsets if there are any: what one lane
/// needs of a group is one access. Outputs are padded to a multiple of 128 and inputs to whole tiles, with codes and scales of zero.
/// All F16: rounded once where a source's scales and minima have more bits (Q4_K's products of F16 and 6 bits; F32 scales), else exact.
/// </remarks>
public sealed class PackedMatrix
{
    /// <summary>Outputs of a tile.</summary>
    public const int TileOutputs = 16;

    internal const int TileBytes = 512;
    private const int TilesTogether = 8; // that a thread packs one after the other: AWQ has 128 outputs in a line of the cache, which is then still there
    private const int OutputMultiple = 128; // what a block of the widest kernel reads without asking
    private const int MostExtent = 1 << 22; // so that a byte of a row tile fits 32 bits
    private const float MostHalf = 65504;

    /// <summary>Describes a matrix.</summary>
    /// <param name="outputs">Rows.</param>
    /// <param name="inputs">Columns: a multiple of the group size; where that is the whole row, of the format's tile.</param>
    /// <param name="format">How it is quantized.</param>
    public PackedMatrix(int outputs, int inputs, PackedFormat format)
    {
        format.Check();
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(outputs);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(inputs);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(outputs, MostExtent);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(inputs, MostExtent);
        int multiple = format.GroupSize == PackedFormat.WholeRow ? format.TileInputs : format.GroupSize;
        if (inputs % multiple != 0)
            throw new ArgumentOutOfRangeException(nameof(inputs), inputs, $"must be a multiple of {multiple} for {format}.");
        (Outputs, Inputs, Format) = (outputs, inputs, format);
        Groups = format.GroupSize == PackedFormat.WholeRow ? 1 : inputs / format.GroupSize;
        ColumnTiles = (inputs + format.TileInputs - 1) / format.TileInputs;
        RowTiles = (outputs + OutputMultiple - 1) / OutputMultiple * (OutputMultiple / TileOutputs);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)RowTiles * ColumnTiles, 1 << 30, nameof(outputs));
    }

    /// <summary>Rows.</summary>
    public int Outputs { get; }

    /// <summary>Columns.</summary>
    public int Inputs { get; }

    /// <summary>How it is quantized.</summary>
    public PackedFormat Format { get; }

    /// <summary>Groups of a row.</summary>
    public int Groups { get; }

    /// <summary>Tiles from top to bottom, padding included.</summary>
    public int RowTiles { get; }

    /// <summary>Tiles from left to right.</summary>
    public int ColumnTiles { get; }

    /// <summary>Bytes of the codes of a row tile.</summary>
    public long RowTileCodeBytes => (long)ColumnTiles * TileBytes;

    /// <summary>Bytes of the scales and offsets of a row tile.</summary>
    public long RowTileScaleBytes => Format.GroupSize == PackedFormat.WholeRow ? Format.GroupBytes : (long)ColumnTiles * Format.SegmentsOfTile / Format.TilesOfGroup * Format.GroupBytes;

    /// <summary>Bytes of all codes: where the scales begin.</summary>
    public long CodeBytes => RowTiles * RowTileCodeBytes;

    /// <summary>Bytes of all: codes, then scales.</summary>
    public long ByteCount => CodeBytes + (RowTiles * RowTileScaleBytes);

    /// <summary>Packs some row tiles, in parallel. So a matrix can go to the device through a staging buffer, a part at a time.</summary>
    /// <param name="source">What to pack.</param>
    /// <param name="firstTile">The first row tile.</param>
    /// <param name="tiles">How many.</param>
    /// <param name="codes">tiles * <see cref="RowTileCodeBytes"/>.</param>
    /// <param name="scales">tiles * <see cref="RowTileScaleBytes"/>.</param>
    /// <exception cref="InvalidDataException">A scale or offset is no finite F16, or a code has more bits than the format's.</exception>
    public unsafe void Pack(IPackedSource source, int firstTile, int tiles, Span<byte> codes, Span<byte> scales)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (firstTile < 0 || tiles < 0 || firstTile > RowTiles - tiles)
            throw new ArgumentOutOfRangeException(nameof(tiles), tiles, $"from tile {firstTile} on: there are {RowTiles}.");
        ArgumentOutOfRangeException.ThrowIfNotEqual(codes.Length, tiles * RowTileCodeBytes, nameof(codes));
        ArgumentOutOfRangeException.ThrowIfNotEqual(scales.Length, tiles * RowTileScaleBytes, nameof(scales));
        fixed (byte* codesAt = codes, scalesAt = scales)
        {
            (nint toCodes, nint toScales) = ((nint)codesAt, (nint)scalesAt);
            Parallel.For(
                0, (tiles + TilesTogether - 1) / TilesTogether, () => new Scratch(this),
                (part, _, scratch) =>
                {
                    for (int tile = part * TilesTogether; tile < Math.Min((part + 1) * TilesTogether, tiles); tile++)
                    {
                        PackTile(
                            source, firstTile + tile, scratch,
                            new Span<byte>((void*)(toCodes + (nint)(tile * RowTileCodeBytes)), (int)RowTileCodeBytes),
                            new Span<byte>((void*)(toScales + (nint)(tile * RowTileScaleBytes)), (int)RowTileScaleBytes));
                    }

                    return scratch;
                },
                _ => { });
        }
    }

    /// <summary>All of it in one array: codes, then scales.</summary>
    public byte[] Pack(IPackedSource source)
    {
        var packed = new byte[ByteCount];
        Pack(source, 0, RowTiles, packed.AsSpan(0, (int)CodeBytes), packed.AsSpan((int)CodeBytes));
        return packed;
    }

    /// <summary>The weights that a packed matrix stands for, [Outputs, Inputs]: the plain reading of the layout, element by element.</summary>
    public void Unpack(ReadOnlySpan<byte> packed, Span<float> weights)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(packed.Length, ByteCount, nameof(packed));
        ArgumentOutOfRangeException.ThrowIfNotEqual(weights.Length, (long)Outputs * Inputs, nameof(weights));
        for (int row = 0; row < Outputs; row++)
        {
            for (int column = 0; column < Inputs; column++)
            {
                int code = Code(packed, row, column);
                int group = Format.GroupSize == PackedFormat.WholeRow ? 0 : column / Format.GroupSize;
                int at = (int)(CodeBytes + ((row / TileOutputs) * RowTileScaleBytes) + (group * Format.GroupBytes) + (row % 8 * (Format.GroupBytes / 8)) + (row % TileOutputs / 8 * 2));
                float scale = (float)BinaryPrimitives.ReadHalfLittleEndian(packed[at..]);
                float offset = Format.Offset == PackedOffset.None ? Format.Middle : (float)BinaryPrimitives.ReadHalfLittleEndian(packed[(at + 4)..]);
                weights[(row * Inputs) + column] = Format.Offset == PackedOffset.Minimum ? (scale * code) + offset : scale * (code - offset);
            }
        }
    }

    private int Code(ReadOnlySpan<byte> packed, int row, int column)
    {
        int c = column % Format.TileInputs;
        int lane = (row % 8 * 4) + (c % 32 / 8), word = (row % TileOutputs / 8) + (c % 4 / 2 * 2), step = (c / 32 * 2) + (c % 8 / 4);
        int field = step + (c % 2 * (16 / Format.Bits));
        int at = (int)((row / TileOutputs * RowTileCodeBytes) + (column / Format.TileInputs * TileBytes) + (lane * 16) + (word * 4));
        return (int)(BinaryPrimitives.ReadUInt32LittleEndian(packed[at..]) >> (field * Format.Bits)) & ((1 << Format.Bits) - 1);
    }

    private void PackTile(IPackedSource source, int tile, Scratch scratch, Span<byte> codes, Span<byte> scales)
    {
        int first = tile * TileOutputs, rows = Math.Clamp(Outputs - first, 0, TileOutputs);
        scratch.Clear(rows);
        scales.Clear();
        if (rows > 0)
        {
            Span<float> offsets = scratch.Offsets.AsSpan(0, scratch.Offsets.Length / TileOutputs * rows);
            source.Read(first, rows, scratch.Codes.AsSpan(0, rows * Inputs), scratch.Scales.AsSpan(0, rows * Groups), offsets);
            if (Format.Bits == 4 && scratch.Codes.AsSpan(0, rows * Inputs).ContainsAnyExceptInRange((byte)0, (byte)15))
                throw new InvalidDataException($"Rows {first} to {first + rows - 1} hold codes above 15.");
        }

        PackCodes(scratch.Codes, MemoryMarshal.Cast<byte, uint>(codes));
        for (int row = 0; row < TileOutputs; row++)
        {
            for (int group = 0; group < Groups; group++)
            {
                Span<byte> at = scales[((group * Format.GroupBytes) + (row % 8 * (Format.GroupBytes / 8)) + (row / 8 * 2))..];
                BinaryPrimitives.WriteHalfLittleEndian(at, ToHalf(scratch.Scales[(row * Groups) + group], "scale", first + row, group));
                if (Format.Offset != PackedOffset.None)
                    BinaryPrimitives.WriteHalfLittleEndian(at[4..], ToHalf(scratch.Offsets[(row * Groups) + group], "offset", first + row, group));
            }
        }
    }

    // Eight consecutive inputs of a row go to the two words of one lane that hold this row, as the fields of two steps.
    private void PackCodes(ReadOnlySpan<byte> codes, Span<uint> words)
    {
        words.Clear();
        for (int row = 0; row < TileOutputs; row++)
        {
            ReadOnlySpan<ulong> eights = MemoryMarshal.Cast<byte, ulong>(codes.Slice(row * Inputs, Inputs));
            for (int i = 0; i < eights.Length; i++)
            {
                int column = i * 8, inTile = column % Format.TileInputs;
                int lane = (row % 8 * 4) + (column % 32 / 8), step = inTile / 32 * 2;
                int at = (column / Format.TileInputs * (TileBytes / 4)) + (lane * 4) + (row / 8);
                for (int pair = 0; pair < 2; pair++)
                {
                    // codes 2 pair and the next, for this step; four bytes on, those of the next step
                    uint here = (uint)(eights[i] >> (16 * pair)), next = (uint)(eights[i] >> (32 + (16 * pair)));
                    uint low = (here & 0xff) | ((next & 0xff) << Format.Bits);
                    uint high = ((here >> 8) & 0xff) | (((next >> 8) & 0xff) << Format.Bits);
                    words[at + (2 * pair)] |= (low | (high << 16)) << (Format.Bits * step);
                }
            }
        }
    }

    private static Half ToHalf(float value, string what, int row, int group) => MathF.Abs(value) <= MostHalf
        ? (Half)value
        : throw new InvalidDataException($"The {what} of row {row}, group {group} is {value}: packed weights hold those up to {MostHalf}.");

    private sealed class Scratch(PackedMatrix matrix)
    {
        public byte[] Codes { get; } = new byte[TileOutputs * matrix.Inputs];

        public float[] Scales { get; } = new float[TileOutputs * matrix.Groups];

        public float[] Offsets { get; } = matrix.Format.Offset == PackedOffset.None ? [] : new float[TileOutputs * matrix.Groups];

        /// <summary>Zeros in the rows that no source fills.</summary>
        public void Clear(int rows)
        {
            Codes.AsSpan(rows * matrix.Inputs).Clear();
            Scales.AsSpan(rows * matrix.Groups).Clear();
            Offsets.AsSpan(Offsets.Length / TileOutputs * rows).Clear();
        }
    }
}
