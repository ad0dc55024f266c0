using System.Runtime.InteropServices;

namespace Qwen.Native.Interop;

/// <summary>The CUDA runtime: only its version. Everything else is done through the driver, which needs no toolkit.</summary>
internal static partial class CudaRuntime
{
    static CudaRuntime() => NativeLibraries.Register();

    /// <returns>cudaError_t; 0 for success.</returns>
    [LibraryImport(NativeLibraries.Runtime, EntryPoint = "cudaRuntimeGetVersion")]
    internal static partial int RuntimeGetVersion(out int version);
}
