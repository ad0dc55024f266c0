using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>A product y = W x with weights as they are stored, as <see cref="DenseGemvKernel"/> is built for it.</summary>
/// <param name="Weights">Type of W: that of x, or E4M3.</param>
/// <param name="Activations">Type of x: F16 or BF16.</param>
/// <param name="Result">Type of y: that of x, or F32.</param>
/// <param name="Scale">Of E4M3: None, Tensor, Row (an output) or Block128.</param>
/// <param name="Accumulate">y += W x; y is F32.</param>
/// <param name="Bias">Add an F32 bias to every output.</param>
/// <param name="Gated">W is a gate and an up projection, one above the other, and y[o] = SiLU(gate[o]) * up[o].</param>
/// <param name="Norm">What it does of an RMS norm.</param>
public readonly record struct DenseProduct(
    ElementType Weights, ElementType Activations, ElementType Result, MatmulScale Scale = MatmulScale.None, bool Accumulate = false, bool Bias = false, bool Gated = false,
    FusedNorm Norm = FusedNorm.None)
{
    /// <summary>Inputs come in multiples of this: 16 bytes of a row of W.</summary>
    public int InputsMultiple => 16 / Weights.Bytes();

    /// <summary>Refuses what no kernel computes.</summary>
    public void Check()
    {
        if (Activations is not (ElementType.F16 or ElementType.BF16))
            throw new ArgumentOutOfRangeException(nameof(Activations), Activations, "must be F16 or BF16.");
        if (Weights != Activations && Weights != ElementType.E4M3)
            throw new ArgumentOutOfRangeException(nameof(Weights), Weights, $"must be {Activations} or E4M3.");
        if (Result != Activations && Result != ElementType.F32)
            throw new ArgumentOutOfRangeException(nameof(Result), Result, $"must be {Activations} or F32.");
        if (Scale is not (MatmulScale.None or MatmulScale.Tensor or MatmulScale.Row or MatmulScale.Block128) || (Scale != MatmulScale.None && Weights != ElementType.E4M3))
            throw new ArgumentOutOfRangeException(nameof(Scale), Scale, "must be Tensor, Row or Block128 for E4M3, and None for others.");
        if (Accumulate && Result != ElementType.F32)
            throw new ArgumentOutOfRangeException(nameof(Accumulate), Accumulate, "sums are kept in F32.");
        if (Norm == FusedNorm.OfResult && (Result != ElementType.F32 || Gated))
            throw new ArgumentOutOfRangeException(nameof(Norm), Norm, "the hidden state is F32, and not gated.");
    }

    /// <summary>For names of kernels.</summary>
    public override string ToString() =>
        $"{PtxBuilder.Name(Weights)}{(Scale == MatmulScale.None ? "" : $"_{Scale.ToString().ToLowerInvariant()}")}_{PtxBuilder.Name(Activations)}_{PtxBuilder.Name(Result)}{(Accumulate ? "_add" : "")}{(Bias ? "_bias" : "")}{(Gated ? "_gated" : "")}{Norm switch { FusedNorm.OfInput => "_normed", FusedNorm.OfResult => "_norm", _ => "" }}";
}
