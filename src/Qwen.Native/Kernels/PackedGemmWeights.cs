using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// The weights of a <see cref="PackedMatrix"/>. Two of its tiles are a stage, and a lane's piece of each is the A registers of 4 (8 bits: 2) steps, decoded
/// to whole numbers less their zero points, which 16 bits hold exactly; scales are F32's.
/// </summary>
internal sealed class PackedGemmWeights(PtxBuilder k, PackedFormat format, ElementType activations, Global weights, Global scales, U32 inputs, U32 rowTiles) : GemmWeights
{
    private const int TilesOfStage = 2;
    private readonly PackedCodes _codes = new(k, activations, format.Bits);
    private readonly U32 _columnTiles = (inputs + (format.TileInputs - 1)) / format.TileInputs;

    public override int StageInputs => TilesOfStage * format.TileInputs;

    public override int Pieces => TilesOfStage;

    public override int Segments => WholeRow ? 1 : Math.Max(1, StageInputs / format.GroupSize);

    public override int ScaleBytes => Segments * format.GroupBytes;

    public override bool HasMinimum => format.Offset == PackedOffset.Minimum;

    private bool WholeRow => format.GroupSize == PackedFormat.WholeRow;

    // A lane t has 8 consecutive inputs of 32: two steps, of each two words, those of the lower and of the upper half of its 16 inputs.
    public override (U32 Chunk, U32 Place) Deal(U32 word) => ((word / 16 * 4) + (word & 3), (word / 4) & 3);

    public override Global[] At(U32 rowTile)
    {
        U32 tile = k.Min(rowTile, rowTiles - 1);
        U32 firstGroup = WholeRow ? tile : tile * _columnTiles * format.SegmentsOfTile / format.TilesOfGroup;
        return [weights.At(tile * _columnTiles, PackedMatrix.TileBytes).At(k.Lane, 16), scales.At(firstGroup, format.GroupBytes)];
    }

    public override void Prefetch(Global[] tile, U32 stage, Pred when) => k.PrefetchLine(tile[0].At(stage, TilesOfStage * PackedMatrix.TileBytes), when);

    public override void Copy(Global[] tile, U32 stage, Shared pieces, Shared scales)
    {
        U32 first = stage * TilesOfStage;
        Pred hasSecond = first + 1 < _columnTiles;
        Global from = tile[0].At(first, PackedMatrix.TileBytes);
        k.CopyAsync(pieces, from, 16);
        k.CopyAsync(pieces + PackedMatrix.TileBytes, from.At(k.Select<U32>(hasSecond, PackedMatrix.TileBytes, 0), 1), 16, k.Select<U32>(hasSecond, 16, 0));

        U32 group = WholeRow ? 0 : format.GroupSize > StageInputs ? stage / (format.GroupSize / StageInputs) : stage * Segments, at = (group * format.GroupBytes) + (k.Lane * 16);
        Pred copies = k.Lane < ScaleBytes / 16;
        if (Segments == 1)
        {
            k.CopyAsync(scales.At(k.Lane, 16), tile[1].At(at, 1), 16, when: copies);
            return;
        }

        Pred exists = hasSecond | (k.Lane < ScaleBytes / 32); // the upper lanes have groups of the second tile
        k.CopyAsync(scales.At(k.Lane, 16), tile[1].At(k.Select<U32>(exists, at, 0), 1), 16, k.Select<U32>(exists, 16, 0), copies);
    }

    public override U32[][] LoadScales(Shared scales)
    {
        Shared ofLane = scales.At(k.Lane >> 2, format.GroupBytes / 8);
        return [.. Enumerable.Range(0, Segments).Select(s => k.LoadVector<U32>(ofLane + (s * format.GroupBytes), format.GroupBytes / 32))];
    }

    public override U32[] Decode(U32[][] words, U32[][] scales, int step)
    {
        (Half2 Low, Half2 High)? negative = Negative(scales[step * Segments / (StageInputs / 16)]);
        var a = new U32[4];
        for (int r = 0; r < 4; r++)
        {
            Half2 codes = _codes.Decode(words[step / _codes.Steps][r], step % _codes.Steps);
            a[r] = (negative is { } n ? codes + (r % 2 == 0 ? n.Low : n.High) : codes).AsU32;
        }

        return a;
    }

    public override (F32 Low, F32 High) Scale(U32[][] scales, int segment) => k.Unpack(scales[segment][0].AsHalf2(ElementType.F16));

    public override (F32 Low, F32 High) Minimum(U32[][] scales, int segment) => k.Unpack(scales[segment][1].AsHalf2(ElementType.F16));

    /// <summary>What is added to decoded codes of rows g and g + 8; null for nothing.</summary>
    private (Half2 Low, Half2 High)? Negative(U32[] scaleWords)
    {
        int excess = _codes.Bias + (format.Offset == PackedOffset.None ? format.Middle : 0);
        if (format.Offset != PackedOffset.ZeroPoint)
            return excess == 0 ? null : (k.Constant(activations, -excess), k.Constant(activations, -excess));
        (F32 low, F32 high) = k.Unpack(scaleWords[1].AsHalf2(ElementType.F16));
        (low, high) = (-(float)excess - low, -(float)excess - high);
        return (k.Pack(activations, low, low), k.Pack(activations, high, high));
    }
}
