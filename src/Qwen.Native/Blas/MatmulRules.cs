using Qwen.Native.Device;

namespace Qwen.Native.Blas;

/// <summary>
/// What cublasLt computes, by its documentation of <c>cublasLtMatmul</c>: types, scales, sizes and alignments. The real device asks here before
/// it asks the library, and the emulated one refuses by the same rules, so that a product that runs in the tests runs on the hardware.
/// </summary>
public static class MatmulRules
{
    /// <summary>The first version of the library with scales per row and per block: that of CUDA 12.9.</summary>
    public const int FineScalesVersion = 12_09_00;

    /// <summary>The first version of the library with FP8: that of CUDA 11.8.</summary>
    public const int Float8Version = 11_11_00;

    /// <summary>Bytes that operands' addresses and FP8 rows are multiples of.</summary>
    public const int Alignment = 16;

    /// <summary>Says why a product is not computed; null where it is.</summary>
    /// <param name="shape">The product.</param>
    /// <param name="computeCapability">Of the device, such as 89.</param>
    /// <param name="libraryVersion">cublasLtGetVersion's number: 120900 for 12.9.0.</param>
    public static string? WhyNot(in MatmulShape shape, int computeCapability, int libraryVersion)
    {
        if (shape.Tokens <= 0 || shape.Outputs <= 0 || shape.Inputs <= 0)
            return $"a product of {shape.Tokens} tokens, {shape.Outputs} outputs and {shape.Inputs} inputs is empty";
        if (shape.ResultStride != 0 && shape.ResultStride < shape.Outputs)
            return $"a stride of {shape.ResultStride} is less than the {shape.Outputs} outputs of a row";
        return shape.Weights switch
        {
            ElementType.F32 or ElementType.F16 or ElementType.BF16 => WhyNotDense(shape),
            ElementType.E4M3 => WhyNotFloat8(shape, computeCapability, libraryVersion),
            _ => $"weights of {shape.Weights} are not multiplied",
        };
    }

    /// <summary>Says what is wrong with operands; null where they fit the shape.</summary>
    public static string? WhyNot(in MatmulShape shape, in MatmulOperands operands)
    {
        if (operands.X.IsNull || operands.W.IsNull || operands.Y.IsNull)
            return "an operand has no address";
        if (((operands.X.Address | operands.W.Address | operands.Y.Address | operands.Bias.Address) & (Alignment - 1)) != 0)
            return $"an operand's address is not a multiple of {Alignment} bytes";
        if (shape.Bias == operands.Bias.IsNull)
            return shape.Bias ? "the bias has no address" : "a bias is given to a product without one";
        if ((shape.ActivationScale == MatmulScale.None) != operands.XScale.IsNull)
            return "the activations' scale has no address, or is given to a product without one";
        if ((shape.WeightScale == MatmulScale.None) != operands.WScale.IsNull)
            return "the weights' scale has no address, or is given to a product without one";
        bool blocks = IsFine(shape.WeightScale) && shape.WeightScale != MatmulScale.Row;
        if (blocks && ((operands.XScale.Address | operands.WScale.Address) & (Alignment - 1)) != 0)
            return $"an address of block scales is not a multiple of {Alignment} bytes";
        return null;
    }

    /// <summary>The type that a product's bias has.</summary>
    public static ElementType BiasType(in MatmulShape shape) =>
        shape.Result == ElementType.F32 && shape.Weights == ElementType.E4M3 ? ElementType.BF16 : shape.Result;

    private static string? WhyNotDense(in MatmulShape shape)
    {
        if (shape.Activations != shape.Weights)
            return $"{shape.Weights} weights take {shape.Weights} activations, not {shape.Activations}";
        if (shape.Result != shape.Weights && shape.Result != ElementType.F32)
            return $"{shape.Weights} weights give {shape.Weights} or F32, not {shape.Result}";
        if (shape.WeightScale != MatmulScale.None || shape.ActivationScale != MatmulScale.None)
            return $"{shape.Weights} has no scales: only FP8 has";
        return null;
    }

    private static string? WhyNotFloat8(in MatmulShape shape, int computeCapability, int libraryVersion)
    {
        if (computeCapability < 89)
            return $"FP8 needs compute capability 8.9, not {computeCapability / 10}.{computeCapability % 10}";
        if (libraryVersion < Float8Version)
            return $"FP8 needs cublasLt of CUDA 11.8, not {libraryVersion}";
        if (shape.Activations is not (ElementType.E4M3 or ElementType.E5M2))
            return $"E4M3 weights take E4M3 or E5M2 activations, not {shape.Activations}";
        if (shape.Result is not (ElementType.F32 or ElementType.F16 or ElementType.BF16))
            return $"E4M3 weights give F32, F16 or BF16, not {shape.Result}";
        if (shape.Inputs % Alignment != 0)
            return $"FP8 rows are multiples of {Alignment} inputs, not {shape.Inputs}";
        if (shape.Outputs * (long)shape.Result.Bytes() % Alignment != 0 || shape.ResultStride * (long)shape.Result.Bytes() % Alignment != 0)
            return $"FP8 gives rows of a multiple of {Alignment} bytes, not {shape.Outputs} outputs of {shape.Result} with stride {shape.ResultStride}";
        return IsFine(shape.WeightScale) || IsFine(shape.ActivationScale) ? WhyNotFine(shape, computeCapability, libraryVersion) : null;
    }

    /// <summary>Scales per row or block: only on 9.0 (newer devices have other block formats), and only in pairs that fit.</summary>
    private static string? WhyNotFine(in MatmulShape shape, int computeCapability, int libraryVersion)
    {
        if (computeCapability != 90)
            return $"scales per row or block need compute capability 9.0, not {computeCapability / 10}.{computeCapability % 10}";
        if (libraryVersion < FineScalesVersion)
            return $"scales per row or block need cublasLt 12.9, not {libraryVersion}";
        if ((shape.WeightScale, shape.ActivationScale) is not ((MatmulScale.Row, MatmulScale.Row) or (MatmulScale.RowGroup128, MatmulScale.RowGroup128)
            or (MatmulScale.Block128, MatmulScale.RowGroup128) or (MatmulScale.RowGroup128, MatmulScale.Block128)))
            return $"weights scaled by {shape.WeightScale} do not go with activations scaled by {shape.ActivationScale}";
        if (shape.WeightScale != MatmulScale.Row && (shape.Tokens % 4 != 0 || shape.Outputs % 4 != 0))
            return $"block scales need multiples of 4 tokens and outputs, not {shape.Tokens} and {shape.Outputs}";
        return null;
    }

    private static bool IsFine(MatmulScale scale) => scale is MatmulScale.Row or MatmulScale.RowGroup128 or MatmulScale.Block128;
}
