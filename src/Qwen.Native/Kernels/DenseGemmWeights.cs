using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Weights as they are stored, row-major: 16-bit ones, or E4M3, which becomes x's type exactly. A stage is 128 bytes of a row. A lane's four pieces are
/// 16 bytes of each 64 of rows g and g + 8: as they lie, the A registers of two (E4M3: four) steps.
/// </summary>
internal sealed class DenseGemmWeights(PtxBuilder k, DenseProduct product, Global weights, Global scales, U32 outputs, U32 inputs) : GemmWeights
{
    private const int StageBytes = 128;
    private readonly U32 _rowBytes = inputs * product.Weights.Bytes();

    public override int StageInputs => StageBytes / product.Weights.Bytes();

    public override int Pieces => 4;

    public override int ScaleBytes => product.Scale == MatmulScale.Block128 ? 16 : 0;

    private bool IsFloat8 => product.Weights == ElementType.E4M3;

    // A lane t has 16 bytes: 8 inputs of 32, as in a packed matrix, or 16 inputs of 64.
    public override (U32 Chunk, U32 Place) Deal(U32 word) => IsFloat8 ? (word & 7, word / 8) : ((word / 16 * 4) + (word & 3), (word / 4) & 3);

    public override Global[] At(U32 sixteen)
    {
        U32 results = product.Gated ? outputs / 2 : outputs, first = sixteen * (product.Gated ? 8 : 16), group = k.Lane >> 2;
        U32 Row(U32 output, bool isHigh) => product.Gated && isHigh ? k.Min(output, results - 1) + results : k.Min(output, results - 1);
        U32[] rows = [Row(first + group, false), Row(first + group + (product.Gated ? 0 : 8), true)];
        Global[] at = [.. rows.Select(row => weights.At(row, _rowBytes).At(k.Lane & 3, 16))];
        if (ScaleBytes == 0)
            return at;
        U32 blocksAcross = (((inputs + 127) / 128) + 3) & ~3u;
        return [.. at, scales.At(k.Select(k.Lane.Is(0), Row(first, false), Row(first, true)) / 128 * blocksAcross, sizeof(float))]; // lane 1's is of the upper eight rows
    }

    public override void Prefetch(Global[] tile, U32 stage, Pred when)
    {
        foreach (Global row in tile.AsSpan(0, 2))
            k.PrefetchLine(row.At(stage, StageBytes), when);
    }

    public override void Copy(Global[] tile, U32 stage, Shared pieces, Shared scales, Pred exists)
    {
        U32 at = (stage * StageBytes) + ((k.Lane & 3) * 16);
        for (int upper = 0; upper < 2; upper++)
        {
            Global row = tile[upper].At(stage, StageBytes);
            for (int half = 0; half < 2; half++)
                k.CopyAsync(pieces + (((half * 2) + upper) * 32 * 16), row + (half * 64), 16, k.Select<U32>(at + (half * 64) < _rowBytes, 16, 0), exists);
        }

        if (ScaleBytes > 0)
            k.CopyAsync(scales.At(k.Lane, sizeof(float)), tile[2].At(stage, sizeof(float)), sizeof(float), when: exists & (k.Lane < 2));
    }

    public override U32[][] LoadPieces(Shared pieces) => LoadPieces(k, pieces);

    public override U32[] Decode(U32[][] words, U32[][] scales, int step)
    {
        (int half, int inHalf) = IsFloat8 ? (step / 4, step % 4) : (step / 2, step % 2);
        U32[] low = words[half * 2], high = words[(half * 2) + 1];
        if (!IsFloat8)
            return [low[inHalf * 2], high[inHalf * 2], low[(inHalf * 2) + 1], high[(inHalf * 2) + 1]];
        return [Codes(low, 0), Codes(high, 0), Codes(low, 2), Codes(high, 2)];

        U32 Codes(U32[] of, int first) => product.Activations == ElementType.BF16 ? k.E4M3ToBFloat16(of[inHalf], first).AsU32
            : k.Float8ToHalf2(ElementType.E4M3, first == 0 ? of[inHalf] : of[inHalf] >> 16).AsU32;
    }

    public override U32[][] LoadScales(Shared scales) => ScaleBytes > 0 ? [k.LoadVector<U32>(scales, 2)] : [];

    public override (F32 Low, F32 High) Scale(U32[][] scales, int segment) => (k.AsFloat(scales[0][0]), k.AsFloat(scales[0][1]));

    public override F32? FinalScale(U32 output) => product.Scale switch
    {
        MatmulScale.Row => k.Load<F32>(scales.At(output, sizeof(float)), CacheHint.ReadOnly),
        MatmulScale.Tensor => k.Load<F32>(scales, CacheHint.ReadOnly),
        _ => null,
    };
}
