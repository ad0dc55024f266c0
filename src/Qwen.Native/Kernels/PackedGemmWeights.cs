using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// The weights of a <see cref="PackedMatrix"/>. Two of its tiles are a stage, and a lane's piece of each is the A registers of 4 (8 bits: 2) steps, decoded
/// to whole numbers less their zero points, which 16 bits hold exactly; scales are F32's.
/// </summary>
internal sealed class PackedGemmWeights(PtxBuilder k, PackedProduct product, Global weights, Global scales, U32 outputs, U32 inputs) : GemmWeights
{
    private const int TilesOfStage = 2;
    private readonly PackedFormat _format = product.Format;
    private readonly PackedCodes _codes = new(k, product.Activations, product.Format.Bits);
    private readonly U32 _columnTiles = (inputs + (product.Format.TileInputs - 1)) / product.Format.TileInputs;

    public override int StageInputs => TilesOfStage * _format.TileInputs;

    public override int Pieces => TilesOfStage;

    public override int Segments => WholeRow ? 1 : Math.Max(1, StageInputs / _format.GroupSize);

    public override int ScaleBytes => Segments * _format.GroupBytes;

    public override bool HasMinimum => _format.Offset == PackedOffset.Minimum;

    private int PieceBytes => Pieces * 32 * 16;

    private U32 IsOdd => k.Warp & 1;

    private bool WholeRow => _format.GroupSize == PackedFormat.WholeRow;

    // A lane t has 8 consecutive inputs of 32: two steps, of each two words, those of the lower and of the upper half of its 16 inputs.
    public override (U32 Chunk, U32 Place) Deal(U32 word) => ((word / 16 * 4) + (word & 3), (word / 4) & 3);

    // Gated, two warps share a tile of the gate and the same of the up projection: one copies the first, one the second.
    public override Global[] At(U32 sixteen)
    {
        U32 tiles = (outputs + (PackedMatrix.TileOutputs - 1)) / PackedMatrix.TileOutputs, tile = k.Min(sixteen, tiles - 1);
        if (product.Gated)
            tile = k.Min(sixteen / 2, (tiles / 2) - 1) + (IsOdd * (tiles / 2));
        U32 firstGroup = WholeRow ? tile : tile * _columnTiles * _format.SegmentsOfTile / _format.TilesOfGroup;
        return [weights.At(tile * _columnTiles, PackedMatrix.TileBytes).At(k.Lane, 16), scales.At(firstGroup, _format.GroupBytes)];
    }

    public override void Prefetch(Global[] tile, U32 stage, Pred when) => k.PrefetchLine(tile[0].At(stage, TilesOfStage * PackedMatrix.TileBytes), when);

    public override bool HasWholeStages => !WholeRow && _format.GroupSize >= StageInputs;

    public override void Copy(Global[] tile, U32 stage, Shared pieces, Shared scales, Pred exists)
    {
        Global from = tile[0].At(stage, TilesOfStage * PackedMatrix.TileBytes);
        U32 group = WholeRow ? 0 : _format.GroupSize > StageInputs ? stage / (_format.GroupSize / StageInputs) : stage * Segments;
        Global scalesFrom = tile[1].At(group, _format.GroupBytes).At(k.Lane, 16);
        U32? second = null, upper = null;
        if (!HasWholeStages)
        {
            Pred hasSecond = (stage * TilesOfStage) + 1 < _columnTiles;
            second = k.Select<U32>(hasSecond, 16, 0);
            if (Segments > 1)
                upper = k.Select<U32>(hasSecond | (k.Lane < ScaleBytes / 32), 16, 0); // the upper lanes have groups of the second tile
        }

        k.CopyAsync(pieces, from, 16, when: exists);
        k.CopyAsync(pieces + PackedMatrix.TileBytes, from + PackedMatrix.TileBytes, 16, second, exists);
        k.CopyAsync(scales.At(k.Lane, 16), scalesFrom, 16, upper, exists & (k.Lane < ScaleBytes / 16));
    }

    // Gated, the even warp has the tiles' rows g, the odd one the rows g + 8.
    public override U32[][] LoadPieces(Shared pieces)
    {
        if (!product.Gated)
            return LoadPieces(k, pieces);
        Pred isOdd = IsOdd.Is(1);
        U32[][] gate = LoadPieces(k, OfGate(pieces, PieceBytes)), up = LoadPieces(k, OfGate(pieces, PieceBytes) + PieceBytes);
        U32 Row(U32[] words, int half) => k.Select(isOdd, words[(half * 2) + 1], words[half * 2]);
        return [.. gate.Zip(up, (g, u) => (U32[])[Row(g, 0), Row(u, 0), Row(g, 1), Row(u, 1)])];
    }

    public override U32[][] LoadScales(Shared scales)
    {
        U32[][] Of(Shared tile) => [.. Enumerable.Range(0, Segments).Select(s => k.LoadVector<U32>(tile.At(k.Lane >> 2, _format.GroupBytes / 8) + (s * _format.GroupBytes), _format.GroupBytes / 32))];
        if (!product.Gated)
            return Of(scales);
        U32 halves = k.Select<U32>(IsOdd.Is(1), 0x7632, 0x5410);
        U32[][] gate = Of(OfGate(scales, ScaleBytes)), up = Of(OfGate(scales, ScaleBytes) + ScaleBytes);
        return [.. gate.Zip(up, (g, u) => g.Zip(u, (low, high) => k.Permute(low, high, halves)).ToArray())];
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

    /// <summary>From where a warp's own is to where that of the pair's gate is.</summary>
    private Shared OfGate(Shared own, int bytes) => own + (0u - (IsOdd * bytes));

    /// <summary>What is added to decoded codes of rows g and g + 8; null for nothing.</summary>
    private (Half2 Low, Half2 High)? Negative(U32[] scaleWords)
    {
        int excess = _codes.Bias + (_format.Offset == PackedOffset.None ? _format.Middle : 0);
        if (_format.Offset != PackedOffset.ZeroPoint)
            return excess == 0 ? null : (k.Constant(product.Activations, -excess), k.Constant(product.Activations, -excess));
        (F32 low, F32 high) = k.Unpack(scaleWords[1].AsHalf2(ElementType.F16));
        (low, high) = (-(float)excess - low, -(float)excess - high);
        return (k.Pack(product.Activations, low, low), k.Pack(product.Activations, high, high));
    }
}
