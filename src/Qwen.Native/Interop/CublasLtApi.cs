using System.Runtime.InteropServices;

namespace Qwen.Native.Interop;

/// <summary>cublasLt, what is used of it. Descriptors are always made by the library: their sizes change from version to version.</summary>
internal static unsafe partial class CublasLtApi
{
    private const string Library = NativeLibraries.BlasLt;

    static CublasLtApi() => NativeLibraries.Register();

    [LibraryImport(Library, EntryPoint = "cublasLtGetStatusName")]
    private static partial byte* GetStatusName(CublasStatus status);

    /// <summary>Such as CUBLAS_STATUS_NOT_SUPPORTED.</summary>
    public static string StatusName(CublasStatus status) => Marshal.PtrToStringUTF8((nint)GetStatusName(status)) ?? "unknown cublasStatus_t";

    /// <returns>major * 10000 + minor * 100 + patch, of cuBLAS and not of CUDA.</returns>
    [LibraryImport(Library, EntryPoint = "cublasLtGetVersion")]
    internal static partial nuint GetVersion();

    [LibraryImport(Library, EntryPoint = "cublasLtCreate")]
    internal static partial CublasStatus Create(out CublasLtHandle handle);

    [LibraryImport(Library, EntryPoint = "cublasLtDestroy")]
    internal static partial CublasStatus Destroy(nint handle);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulDescCreate")]
    internal static partial CublasStatus MatmulDescCreate(out MatmulDescHandle descriptor, CublasComputeType compute, CudaDataType scale);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulDescDestroy")]
    internal static partial CublasStatus MatmulDescDestroy(nint descriptor);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulDescSetAttribute")]
    internal static partial CublasStatus MatmulDescSetAttribute(MatmulDescHandle descriptor, CublasLtMatmulAttribute attribute, void* value, nuint bytes);

    [LibraryImport(Library, EntryPoint = "cublasLtMatrixLayoutCreate")]
    internal static partial CublasStatus MatrixLayoutCreate(out MatrixLayoutHandle layout, CudaDataType type, ulong rows, ulong columns, long stride);

    [LibraryImport(Library, EntryPoint = "cublasLtMatrixLayoutDestroy")]
    internal static partial CublasStatus MatrixLayoutDestroy(nint layout);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulPreferenceCreate")]
    internal static partial CublasStatus MatmulPreferenceCreate(out MatmulPreferenceHandle preference);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulPreferenceDestroy")]
    internal static partial CublasStatus MatmulPreferenceDestroy(nint preference);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulPreferenceSetAttribute")]
    internal static partial CublasStatus MatmulPreferenceSetAttribute(MatmulPreferenceHandle preference, CublasLtPreferenceAttribute attribute, void* value, nuint bytes);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmulAlgoGetHeuristic")]
    internal static partial CublasStatus MatmulAlgoGetHeuristic(
        CublasLtHandle handle, MatmulDescHandle descriptor, MatrixLayoutHandle a, MatrixLayoutHandle b, MatrixLayoutHandle c, MatrixLayoutHandle d,
        MatmulPreferenceHandle preference, int requested, out CublasLtHeuristicResult best, out int returned);

    [LibraryImport(Library, EntryPoint = "cublasLtMatmul")]
    internal static partial CublasStatus Matmul(
        CublasLtHandle handle, MatmulDescHandle descriptor, float* alpha, ulong a, MatrixLayoutHandle aLayout, ulong b, MatrixLayoutHandle bLayout,
        float* beta, ulong c, MatrixLayoutHandle cLayout, ulong d, MatrixLayoutHandle dLayout, CublasLtAlgorithm* algorithm,
        ulong workspace, nuint workspaceBytes, CudaStreamHandle stream);
}

/// <summary>A thing of cublasLt. None is tied to a context.</summary>
internal abstract class CublasLtOwnedHandle() : SafeHandle(0, ownsHandle: true)
{
    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <summary>Calls the library's function that destroys it.</summary>
    protected abstract CublasStatus Destroy(nint thing);

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => Destroy(handle) == CublasStatus.Success;
}

/// <summary>cublasLtHandle_t.</summary>
internal sealed class CublasLtHandle : CublasLtOwnedHandle
{
    protected override CublasStatus Destroy(nint thing) => CublasLtApi.Destroy(thing);
}

/// <summary>cublasLtMatmulDesc_t.</summary>
internal sealed class MatmulDescHandle : CublasLtOwnedHandle
{
    protected override CublasStatus Destroy(nint thing) => CublasLtApi.MatmulDescDestroy(thing);
}

/// <summary>cublasLtMatrixLayout_t.</summary>
internal sealed class MatrixLayoutHandle : CublasLtOwnedHandle
{
    protected override CublasStatus Destroy(nint thing) => CublasLtApi.MatrixLayoutDestroy(thing);
}

/// <summary>cublasLtMatmulPreference_t.</summary>
internal sealed class MatmulPreferenceHandle : CublasLtOwnedHandle
{
    protected override CublasStatus Destroy(nint thing) => CublasLtApi.MatmulPreferenceDestroy(thing);
}
