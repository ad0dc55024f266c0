using System.Runtime.InteropServices;

namespace Qwen.Native.Interop;

/// <summary>nvPTXCompileResult.</summary>
internal enum PtxCompileResult
{
    Success = 0,
    InvalidCompilerHandle = 1,
    InvalidInput = 2,
    CompilationFailure = 3,
    Internal = 4,
    OutOfMemory = 5,
    CompilerInvocationIncomplete = 6,
    UnsupportedPtxVersion = 7,
}

/// <summary>The PTX Compiler API, as the driver's just-in-time compiler exports it. It needs no GPU.</summary>
internal static unsafe partial class PtxCompilerApi
{
    private const string Library = NativeLibraries.PtxCompiler;

    static PtxCompilerApi() => NativeLibraries.Register();

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerGetVersion")]
    internal static partial PtxCompileResult GetVersion(out uint major, out uint minor);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerCreate")]
    internal static partial PtxCompileResult Create(out PtxCompilerHandle compiler, nuint ptxBytes, byte* ptx);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerDestroy")]
    internal static partial PtxCompileResult Destroy(ref nint compiler);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerCompile")]
    internal static partial PtxCompileResult Compile(PtxCompilerHandle compiler, int optionCount, byte** options);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerGetErrorLogSize")]
    internal static partial PtxCompileResult GetErrorLogSize(PtxCompilerHandle compiler, out nuint bytes);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerGetErrorLog")]
    internal static partial PtxCompileResult GetErrorLog(PtxCompilerHandle compiler, byte* log);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerGetInfoLogSize")]
    internal static partial PtxCompileResult GetInfoLogSize(PtxCompilerHandle compiler, out nuint bytes);

    [LibraryImport(Library, EntryPoint = "nvPTXCompilerGetInfoLog")]
    internal static partial PtxCompileResult GetInfoLog(PtxCompilerHandle compiler, byte* log);
}

/// <summary>nvPTXCompilerHandle.</summary>
internal sealed class PtxCompilerHandle() : SafeHandle(0, ownsHandle: true)
{
    /// <inheritdoc/>
    public override bool IsInvalid => handle == 0;

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => PtxCompilerApi.Destroy(ref handle) == PtxCompileResult.Success;
}
