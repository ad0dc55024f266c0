using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Qwen.Native.Device;

namespace Qwen.Native.Interop;

/// <summary>cublasStatus_t: those that are told apart here. The library names the others.</summary>
internal enum CublasStatus
{
    Success = 0,
    NotInitialized = 1,
    InvalidValue = 7,
    NotSupported = 15,
}

/// <summary>cublasComputeType_t.</summary>
internal enum CublasComputeType
{
    F32 = 68,
}

/// <summary>cudaDataType.</summary>
internal enum CudaDataType
{
    F32 = 0,
    F16 = 2,
    BF16 = 14,
    E4M3 = 28,
    E5M2 = 29,
}

/// <summary>cublasOperation_t.</summary>
internal enum CublasOperation
{
    None = 0,
    Transpose = 1,
}

/// <summary>cublasLtEpilogue_t.</summary>
internal enum CublasLtEpilogue
{
    Default = 1,
    Bias = 4,
}

/// <summary>cublasLtMatmulMatrixScale_t. The last three are of CUDA 12.9.</summary>
internal enum CublasLtScaleMode
{
    Scalar32F = 0,
    OuterVec32F = 3,
    Vec128F32 = 4,
    Block128x128F32 = 5,
}

/// <summary>cublasLtMatmulDescAttributes_t.</summary>
internal enum CublasLtMatmulAttribute
{
    TransposeA = 3,
    TransposeB = 4,
    Epilogue = 7,
    BiasPointer = 8,
    AScalePointer = 17,
    BScalePointer = 18,
    BiasDataType = 26,
    AScaleMode = 31,
    BScaleMode = 32,
}

/// <summary>cublasLtMatmulPreferenceAttributes_t.</summary>
internal enum CublasLtPreferenceAttribute
{
    MaxWorkspaceBytes = 1,
    ReductionSchemeMask = 3,
    MinAlignmentA = 5,
    MinAlignmentB = 6,
    MinAlignmentC = 7,
    MinAlignmentD = 8,
}

/// <summary>cublasLtReductionScheme_t: how partial sums are added where the inputs are split.</summary>
[Flags]
internal enum CublasLtReductionScheme
{
    None = 0,
    InPlace = 1,
    ComputeType = 2,
    OutputType = 4,
}

/// <summary>cublasLtMatmulAlgo_t: opaque, valid for the library version that made it.</summary>
[InlineArray(8)]
internal struct CublasLtAlgorithm
{
    private ulong _word;
}

/// <summary>cublasLtMatmulHeuristicResult_t, 96 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Size = 96)]
internal struct CublasLtHeuristicResult
{
    public CublasLtAlgorithm Algorithm;
    public nuint WorkspaceBytes;
    public CublasStatus State;
    public float Waves;
}

/// <summary>The library's names for the seam's types.</summary>
internal static class CudaDataTypes
{
    public static CudaDataType ToCuda(this ElementType type) => type switch
    {
        ElementType.F32 => CudaDataType.F32,
        ElementType.F16 => CudaDataType.F16,
        ElementType.BF16 => CudaDataType.BF16,
        ElementType.E4M3 => CudaDataType.E4M3,
        ElementType.E5M2 => CudaDataType.E5M2,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "is no type of a matrix product."),
    };
}
