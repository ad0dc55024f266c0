using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.Native.Tests.Interop;

public sealed class PtxCompilerTests
{
    private const string Kernel = """
        .version 7.0
        .target sm_80
        .address_size 64
        .visible .entry twice(.param .u64 x)
        {
            .reg .b64 %rd<3>; .reg .f32 %f<3>; .reg .b32 %r<2>;
            .shared .align 16 .b8 tile[256];
            ld.param.u64 %rd1, [x];
            ld.global.f32 %f1, [%rd1];
            st.shared.f32 [tile], %f1;
            bar.sync 0;
            ld.shared.f32 %f2, [tile];
            add.f32 %f2, %f2, %f1;
            st.global.f32 [%rd1], %f2;
            ret;
        }
        """;

    [SkippableTheory]
    [InlineData("sm_80")]
    [InlineData("sm_86")]
    [InlineData("sm_89")]
    [InlineData("sm_90")]
    [InlineData("sm_90a")]
    public void Compile_CountsRegistersAndSharedMemory(string target)
    {
        Checkers.Need(NativeLibraries.PtxCompiler);

        AssembledKernel kernel = Assert.Single(PtxCompiler.Compile(Kernel, target));

        Assert.Equal("twice", kernel.Name);
        Assert.InRange(kernel.Registers, 4, 32);
        Assert.Equal(256, kernel.SharedBytes);
        Assert.Equal((0, 0, 0), (kernel.StackBytes, kernel.SpillStoreBytes, kernel.SpillLoadBytes));
    }

    [SkippableFact]
    public void Compile_FindsSpills()
    {
        Checkers.Need(NativeLibraries.PtxCompiler);
        // 64 values that are all alive at the barrier, in a kernel that may hold 16.
        string spills = ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry crowded(.param .u64 x)\n.maxnreg 24\n{\n.reg .b64 %rd<3>; .reg .f32 %f<66>;\nld.param.u64 %rd1, [x];\n"
            + string.Concat(Enumerable.Range(0, 64).Select(i => $"ld.volatile.global.f32 %f{i}, [%rd1+{i * 4}];\n")) + "bar.sync 0;\n"
            + string.Concat(Enumerable.Range(0, 64).Select(i => $"st.volatile.global.f32 [%rd1+{(63 - i) * 4}], %f{i};\n")) + "ret;\n}\n";

        AssembledKernel kernel = Assert.Single(PtxCompiler.Compile(spills, "sm_80"));

        Assert.True(kernel.SpillStoreBytes > 0 && kernel.SpillLoadBytes > 0 && kernel.Registers <= 24, kernel.ToString());
    }

    [SkippableFact]
    public void Compile_QuotesTheLinesItRefuses()
    {
        Checkers.Need(NativeLibraries.PtxCompiler);

        var e = Assert.Throws<DeviceException>(() => PtxCompiler.Compile(Kernel.Replace("add.f32 %f2, %f2, %f1;", "add.f32 %f2, %f2, %q7;", StringComparison.Ordinal), "sm_80"));

        Assert.Contains("line 13", e.Message, StringComparison.Ordinal);
        Assert.Contains("\n    13: add.f32 %f2, %f2, %q7;", e.Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Compile_RefusesANewerVersion()
    {
        Checkers.Need(NativeLibraries.PtxCompiler);

        var e = Assert.Throws<DeviceException>(() => PtxCompiler.Compile(Kernel.Replace("7.0", "99.0", StringComparison.Ordinal), "sm_80"));

        Assert.Contains(nameof(PtxCompileResult.UnsupportedPtxVersion), e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Parse_ReadsEveryEntry()
    {
        const string log = """
            ptxas info    : 0 bytes gmem
            ptxas info    : Compiling entry function 'a' for 'sm_90a'
            ptxas info    : Function properties for a
                96 bytes stack frame, 92 bytes spill stores, 88 bytes spill loads
            ptxas info    : Used 255 registers, used 1 barriers, 49152 bytes smem, 400 bytes cmem[0]
            ptxas info    : Compiling entry function 'b' for 'sm_90a'
            ptxas info    : Function properties for b
                0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
            ptxas info    : Used 8 registers, 360 bytes cmem[0]
            """;

        Assert.Equal([new AssembledKernel("a", 255, 49152, 96, 92, 88), new AssembledKernel("b", 8, 0, 0, 0, 0)], PtxCompiler.Parse(log));
    }
}
