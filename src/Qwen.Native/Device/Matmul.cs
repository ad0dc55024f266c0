namespace Qwen.Native.Device;

/// <summary>How the values of a matrix of FP8 codes are scaled. A scale is an F32 in device memory that a code is multiplied by.</summary>
public enum MatmulScale
{
    /// <summary>Not at all.</summary>
    None,

    /// <summary>One scale.</summary>
    Tensor,

    /// <summary>A scale for each row (a token, or an output): [rows].</summary>
    Row,

    /// <summary>A scale for each 128 columns of each row, row index innermost: [ceil(columns / 128), rows], rows rounded up to a multiple of 4.</summary>
    RowGroup128,

    /// <summary>A scale for each 128 x 128 block, [ceil(rows / 128), ceil(columns / 128) rounded up to a multiple of 4].</summary>
    Block128,
}

/// <summary>
/// The one form of product a network needs: y[t, o] = sum over i of x[t, i] * w[o, i], all row-major and dense (the library's "TN" form).
/// Sums are F32.
/// </summary>
/// <param name="Tokens">Rows of x and y.</param>
/// <param name="Outputs">Rows of w, columns of y.</param>
/// <param name="Inputs">Columns of x and w.</param>
/// <param name="Weights">Type of w: F32, F16, BF16 or E4M3.</param>
/// <param name="Activations">Type of x: as w's, for F32, F16 and BF16; E4M3 or E5M2 for E4M3.</param>
/// <param name="Result">Type of y: F32, F16 or BF16.</param>
/// <param name="Accumulate">Add to what y holds.</param>
/// <param name="Bias">Add bias[o], of y's type where that has 16 bits, else BF16 (with E4M3 weights) or F32.</param>
/// <param name="WeightScale">Scales of w, for E4M3.</param>
/// <param name="ActivationScale">Scales of x, for FP8.</param>
/// <param name="ResultStride">Columns from a row of y to the next; 0 for <paramref name="Outputs"/>.</param>
public readonly record struct MatmulShape(
    int Tokens, int Outputs, int Inputs, ElementType Weights, ElementType Activations, ElementType Result, bool Accumulate = false, bool Bias = false,
    MatmulScale WeightScale = MatmulScale.None, MatmulScale ActivationScale = MatmulScale.None, int ResultStride = 0);

/// <summary>A matrix product with its algorithm chosen.</summary>
public interface IMatmul : IDisposable
{
    /// <summary>What it computes.</summary>
    MatmulShape Shape { get; }
}

/// <summary>Where a product's operands are. Addresses are multiples of 16 bytes.</summary>
/// <param name="X">Activations [Tokens, Inputs].</param>
/// <param name="W">Weights [Outputs, Inputs].</param>
/// <param name="Y">Result [Tokens, Outputs].</param>
/// <param name="Bias">Bias [Outputs].</param>
/// <param name="XScale">Scales of x.</param>
/// <param name="WScale">Scales of w.</param>
/// <param name="Alpha">A factor of the product.</param>
public readonly record struct MatmulOperands(
    DevicePointer X, DevicePointer W, DevicePointer Y, DevicePointer Bias = default, DevicePointer XScale = default, DevicePointer WScale = default, float Alpha = 1);
