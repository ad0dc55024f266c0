using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.Native.Tests.Interop;

public sealed class CudaExceptionTests
{
    [SkippableFact]
    public void Check_NamesCallCodeAndMeaning()
    {
        Checkers.Need(NativeLibraries.Driver);

        var e = Assert.Throws<CudaException>(() => CuResult.IllegalAddress.Check("CudaDriver.StreamSynchronize(_handle)"));

        Assert.Equal("cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS (700): an illegal memory access was encountered.", e.Message);
        Assert.Equal(("cuStreamSynchronize", 700, true), (e.Call, e.Code, e.ContextLost));
        Assert.False(Assert.Throws<CudaException>(() => CuResult.InvalidValue.Check("CudaDriver.X()")).ContextLost);
    }

    [SkippableFact]
    public void Check_NamesTheLibrarysStatus()
    {
        Checkers.Need(NativeLibraries.BlasLt);

        var e = Assert.Throws<CudaException>(() => CublasStatus.NotSupported.Check("CublasLtApi.Matmul(x)"));

        Assert.Equal("cublasLtMatmul failed: CUBLAS_STATUS_NOT_SUPPORTED (15).", e.Message);
    }

    [Fact]
    public void Open_WithoutADevice_SaysWhy()
    {
        DeviceException? e = Record.Exception(() => CudaDevice.Open(1000).Dispose()) as DeviceException;
        Assert.NotNull(e);
        Assert.Matches("libcuda.so.1 is not found|nvcuda.dll is not found|cuInit failed: CUDA_ERROR_|There is no CUDA device 1000", e.Message);
    }

    [Fact]
    public void Find_ListsDevices_OrSaysWhyNot()
    {
        CudaInstallation cuda = CudaInstallation.Find();

        Assert.Equal(["driver", "cudart", "cublasLt"], cuda.Libraries.Select(l => l.Name));
        Assert.All(cuda.Libraries, l => Assert.Equal(l.File is null, l.Version is null));
        if (cuda.Reason is null)
            Assert.All(cuda.Gpus, g => Assert.True(g.Info.MemoryBytes > 0 && g.Info.Major >= 3 && g.Info.Name.Length > 0));
        else
            Assert.Matches("found: |cuInit failed: CUDA_ERROR_|shows no device", cuda.Reason);
    }
}
