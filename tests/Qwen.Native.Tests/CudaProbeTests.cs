namespace Qwen.Native.Tests;

public sealed class CudaProbeTests
{
    [Fact]
    public void Run_FindsDevices_OrSaysWhyNot()
    {
        CudaProbe probe = CudaProbe.Run();
        Assert.Equal(["cublasLt", "cudart", "driver"], probe.Libraries.Keys.Order());
        if (probe.Reason is null)
            Assert.All(probe.Devices, d => Assert.True(d.MemoryBytes > 0 && d.ComputeCapability.Major >= 3 && d.Name.Length > 0));
        else
            Assert.Matches("is not found|cuInit returned|no device", probe.Reason);
        Assert.Contains(probe.Reason ?? "available", probe.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void Run_SaysThatTheDriverIsMissing_WhereNoLibraryHasItsName()
    {
        // The Windows names on another system, and the other way round, name nothing that is there.
        CudaProbe probe = CudaProbe.Run(Path.GetTempPath(), windows: !OperatingSystem.IsWindows());
        Assert.Contains("is not found: there is no NVIDIA driver", probe.Reason, StringComparison.Ordinal);
        Assert.All(probe.Libraries.Values, Assert.Null);
        Assert.Empty(probe.Devices);
    }

    [Theory]
    [InlineData(true, "nvcuda.dll")]
    [InlineData(false, "libcuda.so.1")]
    public void FileNames_HaveThreeVersions(bool windows, string driver)
    {
        IReadOnlyDictionary<string, string[]> names = CudaProbe.FileNames(windows);
        Assert.Equal([driver], names["driver"]);
        Assert.Equal(3, names["cudart"].Length);
        Assert.Equal(3, names["cublasLt"].Length);
    }
}
