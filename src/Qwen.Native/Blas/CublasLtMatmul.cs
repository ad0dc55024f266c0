using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.Native.Blas;

/// <summary>
/// A product as cublasLt sees it. The library thinks in columns, so y = x w^T, all row-major, is its D = A^T B with A = w and B = x, both
/// [inputs, ...] with a column for each output or token, and D = y with a column for each token. This "TN" form is the one that FP8 has, and a
/// bias over D's rows is a bias over outputs.
/// </summary>
internal sealed unsafe class CublasLtMatmul : IMatmul
{
    private readonly CublasLtHandle _library;
    private readonly MatmulDescHandle _descriptor;
    private readonly MatrixLayoutHandle _weights, _activations, _result;
    private CublasLtHeuristicResult _chosen;
    private DevicePointer _bias, _weightScale, _activationScale;

    public CublasLtMatmul(CublasLtHandle library, in MatmulShape shape)
    {
        _library = library;
        Shape = shape;
        CublasLtApi.MatmulDescCreate(out _descriptor, CublasComputeType.F32, CudaDataType.F32).Check();
        Set(CublasLtMatmulAttribute.TransposeA, CublasOperation.Transpose);
        if (shape.Bias)
        {
            Set(CublasLtMatmulAttribute.Epilogue, CublasLtEpilogue.Bias);
            Set(CublasLtMatmulAttribute.BiasDataType, MatmulRules.BiasType(shape).ToCuda());
        }

        SetScaleMode(CublasLtMatmulAttribute.AScaleMode, shape.WeightScale);
        SetScaleMode(CublasLtMatmulAttribute.BScaleMode, shape.ActivationScale);
        _weights = Layout(shape.Weights, shape.Inputs, shape.Outputs, shape.Inputs);
        _activations = Layout(shape.Activations, shape.Inputs, shape.Tokens, shape.Inputs);
        _result = Layout(shape.Result, shape.Outputs, shape.Tokens, shape.ResultStride == 0 ? shape.Outputs : shape.ResultStride);
    }

    /// <inheritdoc/>
    public MatmulShape Shape { get; }

    /// <summary>The library's choice for operands of the promised alignment; null where it has no algorithm.</summary>
    public CublasLtHeuristicResult? AskLibrary()
    {
        // For fine scales the library looks at the pointers' presence; any aligned address does.
        SetPointer(CublasLtMatmulAttribute.BiasPointer, Shape.Bias, ref _bias, new DevicePointer(256));
        SetPointer(CublasLtMatmulAttribute.AScalePointer, Shape.WeightScale != MatmulScale.None, ref _weightScale, new DevicePointer(256));
        SetPointer(CublasLtMatmulAttribute.BScalePointer, Shape.ActivationScale != MatmulScale.None, ref _activationScale, new DevicePointer(256));
        CublasLtApi.MatmulPreferenceCreate(out MatmulPreferenceHandle preference).Check();
        using (preference)
        {
            Prefer(preference, CublasLtPreferenceAttribute.MaxWorkspaceBytes, (ulong)CublasLt.WorkspaceBytes);
            // Sums are F32 to the end: the other schemes add partial sums in the result's type.
            Prefer(preference, CublasLtPreferenceAttribute.ReductionSchemeMask, CublasLtReductionScheme.ComputeType);
            for (CublasLtPreferenceAttribute operand = CublasLtPreferenceAttribute.MinAlignmentA; operand <= CublasLtPreferenceAttribute.MinAlignmentD; operand++)
                Prefer(preference, operand, MatmulRules.Alignment);
            CublasStatus status = CublasLtApi.MatmulAlgoGetHeuristic(
                _library, _descriptor, _weights, _activations, _result, _result, preference, 1, out CublasLtHeuristicResult best, out int returned);
            if (status == CublasStatus.NotSupported || (status == CublasStatus.Success && (returned == 0 || best.State != CublasStatus.Success)))
                return null;
            status.Check("MatmulAlgoGetHeuristic");
            return best;
        }
    }

    /// <summary>Takes an algorithm for all runs.</summary>
    public void Use(in CublasLtHeuristicResult chosen) => _chosen = chosen;

    /// <summary>Puts the product on a stream.</summary>
    /// <param name="operands">Where its operands are.</param>
    /// <param name="workspace">Memory of <see cref="CublasLt.WorkspaceBytes"/> that only this stream uses.</param>
    /// <param name="stream">The stream.</param>
    /// <exception cref="ArgumentException">The operands do not fit the shape.</exception>
    public void Run(in MatmulOperands operands, DevicePointer workspace, CudaStreamHandle stream)
    {
        if (MatmulRules.WhyNot(Shape, operands) is { } reason)
            throw new ArgumentException($"{reason} ({Shape}, {operands})", nameof(operands));
        SetPointer(CublasLtMatmulAttribute.BiasPointer, Shape.Bias, ref _bias, operands.Bias);
        SetPointer(CublasLtMatmulAttribute.AScalePointer, Shape.WeightScale != MatmulScale.None, ref _weightScale, operands.WScale);
        SetPointer(CublasLtMatmulAttribute.BScalePointer, Shape.ActivationScale != MatmulScale.None, ref _activationScale, operands.XScale);
        float alpha = operands.Alpha, beta = Shape.Accumulate ? 1 : 0;
        fixed (CublasLtAlgorithm* algorithm = &_chosen.Algorithm)
        {
            CublasLtApi.Matmul(
                _library, _descriptor, &alpha, operands.W.Address, _weights, operands.X.Address, _activations, &beta, operands.Y.Address, _result,
                operands.Y.Address, _result, algorithm, workspace.Address, _chosen.WorkspaceBytes, stream).Check();
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _result.Dispose();
        _activations.Dispose();
        _weights.Dispose();
        _descriptor.Dispose();
    }

    private static MatrixLayoutHandle Layout(ElementType type, int rows, int columns, int stride)
    {
        CublasLtApi.MatrixLayoutCreate(out MatrixLayoutHandle layout, type.ToCuda(), (ulong)rows, (ulong)columns, stride).Check();
        return layout;
    }

    private static void Prefer<T>(MatmulPreferenceHandle preference, CublasLtPreferenceAttribute attribute, T value)
        where T : unmanaged => CublasLtApi.MatmulPreferenceSetAttribute(preference, attribute, &value, (nuint)sizeof(T)).Check();

    private void Set<T>(CublasLtMatmulAttribute attribute, T value)
        where T : unmanaged => CublasLtApi.MatmulDescSetAttribute(_descriptor, attribute, &value, (nuint)sizeof(T)).Check();

    /// <summary>Libraries before 12.8 do not know the attribute, and have the one mode that is the default.</summary>
    private void SetScaleMode(CublasLtMatmulAttribute attribute, MatmulScale scale)
    {
        if (scale is not (MatmulScale.None or MatmulScale.Tensor))
        {
            Set(attribute, scale switch
            {
                MatmulScale.Row => CublasLtScaleMode.OuterVec32F,
                MatmulScale.RowGroup128 => CublasLtScaleMode.Vec128F32,
                _ => CublasLtScaleMode.Block128x128F32,
            });
        }
    }

    private void SetPointer(CublasLtMatmulAttribute attribute, bool used, ref DevicePointer was, DevicePointer now)
    {
        if (!used || was == now)
            return;
        Set(attribute, now.Address);
        was = now;
    }
}
