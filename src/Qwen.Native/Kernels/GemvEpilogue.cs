using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// The end of a product of few tokens: the warps' sums of a row of tiles are added in the order of the warps, and what becomes of them is stored.
/// So an output's sum has one order, whatever the tokens.
/// </summary>
/// <param name="k">The kernel.</param>
/// <param name="tiling">Its tiles and warps.</param>
/// <param name="gated">The tiles are of a gate and an up projection: y = SiLU(gate) * up.</param>
/// <param name="type">Type of y.</param>
/// <param name="y">[tokens, results].</param>
/// <param name="results">Outputs; of a gated product half of them.</param>
/// <param name="tokens">1 to 8.</param>
internal sealed class GemvEpilogue(PtxBuilder k, GemvTiling tiling, bool gated, ElementType type, Global y, U32 results, U32 tokens)
{
    /// <summary>Most tokens: the columns of an mma.</summary>
    public const int MostTokens = 8;

    private readonly int _resultsOfGroup = tiling.ResultsOfGroup(gated), _stride = tiling.PartialStride;
    private readonly Shared _partial = k.AllocateShared(tiling.PartialBytes);

    /// <summary>What the sum of an output (a row of W) is multiplied by, where it is.</summary>
    public Func<U32, Pred, F32>? Scale { get; init; }

    /// <summary>What is added to it.</summary>
    public Func<U32, Pred, F32>? Bias { get; init; }

    /// <summary>It is added to what y holds.</summary>
    public bool Accumulate { get; init; }

    /// <summary>What is done of a norm.</summary>
    public required FusedNormEmission Norm { get; init; }

    /// <summary>Loads what goes with the sums of a row, before they are there.</summary>
    public Terms[] Load(U32 group)
    {
        if (Scale is null && Bias is null && !Accumulate && !Norm.OfResult)
            return [];
        return [.. Results(group).Select(result =>
        {
            U32[] outputs = gated ? [result.Output, result.Output + results] : [result.Output];
            return new Terms(
                Scale is null ? [] : [.. outputs.Select(o => Scale(o, result.Exists))], Bias is null ? [] : [.. outputs.Select(o => Bias(o, result.Exists))],
                Accumulate ? k.Load<F32>(result.To, when: result.Exists) : null, Norm.OfResult ? Norm.Weight(result.Output, result.Exists) : null);
        })];
    }

    /// <summary>Adds the warps' sums, and stores a row's results.</summary>
    /// <param name="group">The row.</param>
    /// <param name="sums">This lane's, of each tile.</param>
    /// <param name="terms">What goes with them.</param>
    public void Store(U32 group, F32[][] sums, Terms[] terms)
    {
        k.Comment("the warps' sums, in the order of the warps");
        k.Barrier(); // the row before has been added
        Shared ofLane = _partial.At((((k.Warp * MostTokens) + ((k.Lane & 3) * 2)) * _stride) + (k.Lane >> 2), sizeof(float));
        for (int i = 0; i < sums.Length; i++)
        {
            for (int c = 0; c < 4; c++)
                k.Store(ofLane + (((c % 2 * _stride) + (c / 2 * 8) + (i * GemvTiling.TileOutputs)) * sizeof(float)), sums[i][c]);
        }

        k.Barrier();
        foreach ((Result result, int i) in Results(group).Select((result, i) => (result, i)))
        {
            F32 stored = k.Variable<F32>(0f);
            using (k.If(result.Exists))
            {
                Shared column = _partial.At(result.Column, sizeof(float));
                F32 value = gated ? SwiGluKernel.Gated(k, [Sum(column, result.Token, i, 0)], [Sum(column, result.Token, i, 1)])[0] : Sum(column, result.Token, i, 0);
                k.Set(stored, Accumulate ? value + terms[i].Before!.Value : value);
                k.StoreElements(type, result.To, [stored]);
                if (Norm.OfResult)
                    Norm.Scaled((result.Token * results) + result.Output, stored * terms[i].NormWeight!.Value);
            }

            if (Norm.OfResult)
                Norm.Squares(stored, result.Exists, result.Token, result.Output, results);
        }

        F32 Sum(Shared column, U32 token, int i, int half)
        {
            column += half * GemvTiling.TileOutputs * sizeof(float);
            F32 sum = k.Load<F32>(column);
            for (int warp = 1; warp < k.Warps; warp++)
                sum += k.Load<F32>(column + (warp * MostTokens * _stride * sizeof(float)));
            if (Norm.OfInput)
                sum *= Norm.Inverse(token);
            if (Scale is not null)
                sum *= terms[i].Scales[half];
            return Bias is null ? sum : sum + terms[i].Biases[half];
        }
    }

    /// <summary>The results of a row that this thread adds up and stores.</summary>
    private Result[] Results(U32 group) =>
    [
        .. Enumerable.Range(0, ((MostTokens * _resultsOfGroup) + k.Threads - 1) / k.Threads).Select(i =>
        {
            U32 index = k.Thread + (i * k.Threads), inGroup = index % _resultsOfGroup, token = index / _resultsOfGroup, output = (group * _resultsOfGroup) + inGroup;
            return new Result((token < tokens) & (output < results), token, output, y.At((token * results) + output, type.Bytes()), (token * _stride) + inGroup);
        }),
    ];

    /// <summary>What goes with a result's sum, or with both of a gated one.</summary>
    internal sealed record Terms(F32[] Scales, F32[] Biases, F32? Before, F32? NormWeight);

    /// <summary>An output of a token: where it goes, and where its sums are.</summary>
    private sealed record Result(Pred Exists, U32 Token, U32 Output, Global To, U32 Column);
}
