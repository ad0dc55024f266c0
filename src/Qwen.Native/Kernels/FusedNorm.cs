using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Which half of an RMS norm a product of few tokens does on the side: y = hidden / rms(hidden) * weight is linear but for the division, which is by
/// one number a token. So the product that adds to the hidden state writes hidden * weight with sums of squares, the product that takes it divides its sums.
/// </summary>
public enum FusedNorm
{
    /// <summary>None.</summary>
    None,

    /// <summary>x is hidden * weight: sums are divided by rms(hidden).</summary>
    OfInput,

    /// <summary>y is the hidden state: y * weight is written as well, in x's type, and the squares of y are summed.</summary>
    OfResult,
}

/// <summary>What a product reads and writes for its half of a norm.</summary>
/// <param name="Half">Which.</param>
/// <param name="Squares">F32 [tokens, ceil(columns / <see cref="PartColumns"/>)]: sums of squares of parts of the hidden state. Written, of the result.</param>
/// <param name="Epsilon">Of the input: keeps a row of zeros finite.</param>
/// <param name="Weight">Of the result: F32 [outputs], the norm's weights.</param>
/// <param name="Scaled">Of the result: [tokens, outputs], y * weight.</param>
public readonly record struct FusedNormArguments(FusedNorm Half, DevicePointer Squares, float Epsilon = 0, DevicePointer Weight = default, DevicePointer Scaled = default)
{
    /// <summary>Columns of the hidden state whose squares are added up: those of a tile.</summary>
    public const int PartColumns = GemvTiling.TileOutputs;

    /// <summary>Refuses what the kernel for another half would misread.</summary>
    internal void Check(FusedNorm norm)
    {
        if (Half != norm || Squares.IsNull != (norm == FusedNorm.None))
            throw new ArgumentOutOfRangeException(nameof(norm), this, $"the kernel is for a norm {norm}.");
    }
}

/// <summary>The parameters of a fused norm, and what is computed with them.</summary>
internal sealed class FusedNormEmission(PtxBuilder k, FusedNorm norm, ElementType type)
{
    private const int PartsAtOnce = 8; // of a lane: loads that wait together

    private readonly Global _squares = k.Pointer("squares"), _weight = k.Pointer("norm_weight"), _scaled = k.Pointer("scaled");
    private readonly F32 _epsilon = k.Float("epsilon");
    private Shared _inverses;

    public bool OfInput => norm == FusedNorm.OfInput;

    public bool OfResult => norm == FusedNorm.OfResult;

    /// <summary>1 / rms of each token to shared memory, a token a warp: others see it after the next barrier.</summary>
    public void LoadInverses(U32 tokens, U32 columns)
    {
        if (!OfInput)
            return;
        _inverses = k.AllocateShared(GemvEpilogue.MostTokens * sizeof(float));
        U32 parts = Parts(columns);
        using (k.For(k.Warp, tokens, k.Warps, out U32 token))
        {
            F32 sum = k.Variable<F32>(0f);
            using (k.For(0, parts, 32 * PartsAtOnce, out U32 first))
            {
                F32[] squares = [.. Enumerable.Range(0, PartsAtOnce).Select(i =>
                {
                    U32 part = first + (k.Lane + (i * 32));
                    return k.Load<F32>(_squares.At((token * parts) + part, sizeof(float)), when: part < parts);
                })];
                foreach (F32 value in squares)
                    k.AddInto(sum, value);
            }

            F32 mean = k.DivideExactly(k.SumLanes(sum), k.ToFloat(columns));
            k.Store(_inverses.At(token, sizeof(float)), k.ReciprocalSquareRoot(mean + _epsilon), k.Lane.Is(0));
        }
    }

    /// <summary>1 / rms of a token.</summary>
    public F32 Inverse(U32 token) => k.Load<F32>(_inverses.At(token, sizeof(float)));

    /// <summary>The norm's weight of an output.</summary>
    public F32 Weight(U32 output, Pred exists) => k.Load<F32>(_weight.At(output, sizeof(float)), CacheHint.ReadOnly, exists);

    /// <summary>Writes a result times its weight.</summary>
    public void Scaled(U32 at, F32 value) => k.StoreElements(type, _scaled.At(at, type.Bytes()), [value]);

    /// <summary>Writes the sum of the squares of the results of each tile, which neighbouring lanes have; a lane without a result has zero.</summary>
    /// <param name="result">This lane's.</param>
    /// <param name="exists">Whether it has one.</param>
    /// <param name="token">Its token.</param>
    /// <param name="output">Its output.</param>
    /// <param name="outputs">Columns of the hidden state.</param>
    public void Squares(F32 result, Pred exists, U32 token, U32 output, U32 outputs) =>
        k.Store(
            _squares.At((token * Parts(outputs)) + (output / FusedNormArguments.PartColumns), sizeof(float)), k.SumLanes(result * result, FusedNormArguments.PartColumns),
            exists & (k.Lane % FusedNormArguments.PartColumns).Is(0));

    private static U32 Parts(U32 columns) => (columns + (FusedNormArguments.PartColumns - 1)) / FusedNormArguments.PartColumns;
}
