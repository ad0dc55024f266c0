using Qwen.Native.Interop;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;
using Qwen.Native.Tests.Interop;

namespace Qwen.Native.Tests.Kernels;

public sealed class KernelCatalogTests
{
    [SkippableTheory]
    [InlineData(80, "sm_80")]
    [InlineData(86, "sm_86")]
    [InlineData(89, "sm_89")]
    [InlineData(90, "sm_90")]
    [InlineData(90, "sm_90a")]
    public void EveryKernel_Assembles_WithoutSpills(int sm, string name)
    {
        Checkers.Need(NativeLibraries.PtxCompiler);
        var target = new PtxTarget(sm, PtxCompiler.PtxVersion, ArchitectureSpecific: name.EndsWith('a'));

        var spilled = new List<AssembledKernel>();
        foreach (PtxKernel kernel in KernelCatalog.All(target).DistinctBy(kernel => kernel.Text))
        {
            AssembledKernel assembled = Assert.Single(PtxCompiler.Compile(kernel.Text, name));
            Assert.Equal(kernel.Name, assembled.Name);
            if (assembled.StackBytes + assembled.SpillStoreBytes + assembled.SpillLoadBytes > 0)
                spilled.Add(assembled);
        }

        Assert.Empty(spilled);
    }

    [Fact]
    public void EveryKernel_HasANameOfItsOwn()
    {
        IEnumerable<PtxKernel> kernels = KernelCatalog.All(new PtxTarget(90, 84)).DistinctBy(kernel => kernel.Text);

        Assert.Empty(kernels.GroupBy(kernel => kernel.Name).Where(group => group.Count() > 1).Select(group => group.Key));
    }
}
