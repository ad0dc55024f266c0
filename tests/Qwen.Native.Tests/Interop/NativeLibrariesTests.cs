using Qwen.Native.Interop;

namespace Qwen.Native.Tests.Interop;

public sealed class NativeLibrariesTests
{
    [Theory]
    [InlineData(NativeLibraries.Driver, false, "libcuda.so.1")]
    [InlineData(NativeLibraries.Driver, true, "nvcuda.dll")]
    [InlineData(NativeLibraries.Runtime, false, "libcudart.so.13 libcudart.so.12 libcudart.so.11.0")]
    [InlineData(NativeLibraries.Runtime, true, "cudart64_13.dll cudart64_12.dll cudart64_110.dll")]
    [InlineData(NativeLibraries.BlasLt, false, "libcublasLt.so.13 libcublasLt.so.12 libcublasLt.so.11")]
    [InlineData(NativeLibraries.BlasLt, true, "cublasLt64_13.dll cublasLt64_12.dll cublasLt64_11.dll")]
    public void FileNames_AreTheVersionsNewestFirst(string library, bool windows, string names) =>
        Assert.Equal(names.Split(' '), NativeLibraries.FileNames(library, windows));

    [Fact]
    public void FileNames_LeaveOutWhatIsNewerThanTheDriver() =>
        Assert.Equal(["libcublasLt.so.12", "libcublasLt.so.11"], NativeLibraries.FileNames(NativeLibraries.BlasLt, windows: false, driverMajor: 12));

    [Fact]
    public void Folders_OnLinux_AreOursThenTheSystemsThenTheToolkits()
    {
        var variables = new Dictionary<string, string> { [NativeLibraries.PathVariable] = "/opt/cuda:/venv/site-packages", ["CUDA_HOME"] = "/home/me/cuda" };
        string[] Match(string pattern) => pattern switch
        {
            "/venv/site-packages/nvidia/*/lib" => ["/venv/site-packages/nvidia/cublas/lib"],
            "/usr/local/cuda*/lib64" => ["/usr/local/cuda-12.9/lib64", "/usr/local/cuda-13.0/lib64"],
            _ => [],
        };

        Assert.Equal(
            [
                "/opt/cuda", "/opt/cuda/lib64", "/opt/cuda/lib", "/venv/site-packages", "/venv/site-packages/lib64", "/venv/site-packages/lib",
                "/venv/site-packages/nvidia/cublas/lib", "", "/home/me/cuda/lib64", "/home/me/cuda/lib", "/usr/local/cuda-13.0/lib64",
                "/usr/local/cuda-12.9/lib64", "/usr/lib/wsl/lib", "/usr/lib/x86_64-linux-gnu/nvidia/current",
            ],
            NativeLibraries.Folders(windows: false, variables.GetValueOrDefault, Match));
    }

    [Fact]
    public void Folders_OnWindows_KeepDriveLetters()
    {
        var variables = new Dictionary<string, string> { ["CUDA_PATH"] = @"C:\CUDA\v13.0" };

        Assert.Equal(["", @"C:\CUDA\v13.0/bin", @"C:\CUDA\v13.0/bin/x64"], NativeLibraries.Folders(windows: true, variables.GetValueOrDefault, _ => []));
    }

    [Fact]
    public void Missing_SaysWhatWasLookedForAndWhere()
    {
        string text = NativeLibraries.Missing(NativeLibraries.Driver, ["libcuda.so.1"], ["/opt/cuda", ""]);
        Assert.Equal("libcuda.so.1 is not found: there is no NVIDIA driver (searched /opt/cuda, the system's library path; QWEN_CUDA_PATH may name another folder).", text);
        Assert.StartsWith("none of a, b was found: cublasLt is not installed", NativeLibraries.Missing(NativeLibraries.BlasLt, ["a", "b"], [""]), StringComparison.Ordinal);
    }
}
