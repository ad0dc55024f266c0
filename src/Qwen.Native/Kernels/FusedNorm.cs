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

/// <summary>What a product with a fused norm reads and writes for it.</summary>
/// <param name="Squares">F32 [tokens, Parts]: sums of squares of parts of the hidden state; written, of the result.</param>
/// <param name="Parts">Of the input: how many parts there are (<see cref="GemvTiling.Groups"/> of the product before).</param>
/// <param name="Epsilon">Of the input: keeps a row of zeros finite.</param>
/// <param name="Weight">Of the result: F32 [outputs], the norm's weights.</param>
/// <param name="Scaled">Of the result: [tokens, outputs], y * weight.</param>
public readonly record struct FusedNormArguments(DevicePointer Squares, int Parts = 0, float Epsilon = 0, DevicePointer Weight = default, DevicePointer Scaled = default)
{
    /// <summary>Refuses what the kernel would misread.</summary>
    internal void Check(FusedNorm norm)
    {
        if (norm != FusedNorm.None && Squares.IsNull)
            throw new ArgumentOutOfRangeException(nameof(norm), norm, "sums of squares have no place.");
        if (norm == FusedNorm.OfInput)
            ArgumentOutOfRangeException.ThrowIfLessThan(Parts, 1);
    }
}

/// <summary>The parameters of a fused norm, and what is computed with them.</summary>
internal sealed class FusedNormEmission(PtxBuilder k, FusedNorm norm, ElementType type)
{
    private const int PartsAtOnce = 8; // of a lane: loads that wait together

    private readonly Global _squares = k.Pointer("squares"), _weight = k.Pointer("norm_weight"), _scaled = k.Pointer("scaled");
    private readonly U32 _parts = k.Number("parts");
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
        using (k.For(k.Warp, tokens, k.Warps, out U32 token))
        {
            F32 sum = k.Variable<F32>(0f);
            using (k.For(0, _parts, 32 * PartsAtOnce, out U32 first))
            {
                F32[] squares = [.. Enumerable.Range(0, PartsAtOnce).Select(i =>
                {
                    U32 part = first + (k.Lane + (i * 32));
                    return k.Load<F32>(_squares.At((token * _parts) + part, sizeof(float)), when: part < _parts);
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

    /// <summary>Writes the sum of the squares of a token's results of a group, each in a lane of its own; of lanes without a result it is zero.</summary>
    public void Squares(F32 result, int lanes, U32 token, U32 group, U32 groups, Pred writes) =>
        k.Store(_squares.At((token * groups) + group, sizeof(float)), k.SumLanes(result * result, lanes), writes);
}
