using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Emulation;

public sealed class CatalogTests
{
    [Theory]
    [InlineData(80)]
    [InlineData(86)]
    [InlineData(89)]
    [InlineData(90)]
    public void TheEmulatedDevice_TakesEveryKernelOfTheEngine(int computeCapability)
    {
        using EmulatedDevice device = new(computeCapability);
        PtxTarget target = new(computeCapability, device.Info.PtxVersion, ArchitectureSpecific: computeCapability == 90);
        int count = 0;
        foreach (PtxKernel kernel in KernelCatalog.All(target))
        {
            try
            {
                using IDeviceModule module = device.LoadModule(kernel.Text);
                Assert.Equal(kernel.Name, module.Function(kernel.Name, kernel.DynamicSharedBytes).Name);
                count++;
            }
            catch (PtxException refused)
            {
                Assert.Fail($"{kernel.Name}: {refused.Message}");
            }
        }

        Assert.True(count > 50);
    }
}
