using System.Reflection;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Qwen.Native.Interop;

namespace Qwen.Native.Tests.Interop;

public sealed unsafe class MarshallingTests
{
    [Fact]
    public void Structs_HaveTheHeadersSizesAndOffsets()
    {
        Assert.Equal(72, sizeof(LaunchAttribute));
        Assert.Equal(56, sizeof(LaunchConfig));
        Assert.Equal(64, sizeof(CublasLtAlgorithm));
        Assert.Equal(96, sizeof(CublasLtHeuristicResult));
        Assert.Equal(8, Marshal.OffsetOf<LaunchAttribute>(nameof(LaunchAttribute.Value)));
        Assert.Equal(24, Marshal.OffsetOf<LaunchConfig>(nameof(LaunchConfig.SharedBytes)));
        Assert.Equal(32, Marshal.OffsetOf<LaunchConfig>(nameof(LaunchConfig.Stream)));
        Assert.Equal(40, Marshal.OffsetOf<LaunchConfig>(nameof(LaunchConfig.Attributes)));
        Assert.Equal(48, Marshal.OffsetOf<LaunchConfig>(nameof(LaunchConfig.AttributeCount)));
        CublasLtHeuristicResult result = default;
        byte* start = (byte*)&result;
        Assert.Equal(64, (byte*)&result.WorkspaceBytes - start);
        Assert.Equal(72, (byte*)&result.State - start);
        Assert.Equal(76, (byte*)&result.Waves - start);
    }

    [SkippableTheory]
    [InlineData(typeof(CudaDriver), NativeLibraries.Driver)]
    [InlineData(typeof(CudaRuntime), NativeLibraries.Runtime)]
    [InlineData(typeof(CublasLtApi), NativeLibraries.BlasLt)]
    [InlineData(typeof(PtxCompilerApi), NativeLibraries.PtxCompiler)]
    public void EntryPoints_AreExportedByTheRealLibrary(Type bindings, string library)
    {
        nint handle = Checkers.Need(library);

        string[] entries = EntryPoints(bindings);

        Assert.NotEmpty(entries);
        Assert.All(entries, e => Assert.True(NativeLibrary.TryGetExport(handle, e, out _), $"{e} is not exported"));
    }

    [Fact]
    public void EntryPoints_AreAllOfTheAssemblys()
    {
        // A new binding class must be put in the theory above.
        IEnumerable<Type> bindings = typeof(CudaDriver).Assembly.GetTypes().Where(t => t.IsAbstract && t.IsSealed && EntryPoints(t).Length > 0);
        Assert.Equal(["CublasLtApi", "CudaDriver", "CudaRuntime", "PtxCompilerApi"], bindings.Select(t => t.Name).Order(StringComparer.Ordinal));
    }

    [SkippableFact]
    public void LaunchKernel_AllocatesNothing()
    {
        // Without cuInit the driver refuses the call, after all the marshalling that a good one has.
        Checkers.Need(NativeLibraries.Driver);
        using var stream = new CudaStreamHandle();
        void** parameters = stackalloc void*[1];
        CuResult result = CudaDriver.LaunchKernel(0, 1, 1, 1, 1, 1, 1, 0, stream, parameters, null);
        long before = GC.GetAllocatedBytesForCurrentThread();

        for (int i = 0; i < 1000; i++)
            result = CudaDriver.LaunchKernel(0, 1, 1, 1, 1, 1, 1, 0, stream, parameters, null);

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        Assert.NotEqual(CuResult.Success, result);
    }

    /// <summary>The exported names that a class imports: the method's own, or, where arguments are marshalled, those of its stub's local function.</summary>
    private static string[] EntryPoints(Type type) =>
    [
        .. type.GetMethods(BindingFlags.Static | BindingFlags.NonPublic | BindingFlags.Public | BindingFlags.DeclaredOnly)
            .Select(m => m.GetCustomAttribute<DllImportAttribute>()?.EntryPoint).OfType<string>().Distinct(),
    ];
}
