using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Ptx;

public sealed class PtxBuilderTests
{
    private static readonly PtxTarget _hopper = new(90, 84, ArchitectureSpecific: true), _ampere = new(80, 84);

    [Fact]
    public void AKernel_ReadsAsItWasWritten()
    {
        var k = new PtxBuilder(_ampere, "scale", threads: 64);
        Global x = k.Pointer("x");
        F32 factor = k.Float("factor");
        U32 count = k.Number("count");
        U32 i = (k.BlockX * k.Threads) + k.Thread;
        k.ReturnIf(i >= count);
        k.Comment("once, in place");
        Global at = x.At(i, sizeof(float));
        k.Store(at + 4, k.Load<F32>(at) * factor);

        Assert.Equal(
            """
            .version 7.0
            .target sm_80
            .address_size 64

            .visible .entry scale(
                .param .u64 x,
                .param .f32 factor,
                .param .u32 count)
            .maxntid 64, 1, 1
            {
                .reg .b64 %d<2>;
                .reg .f32 %f<3>;
                .reg .pred %p<1>;
                .reg .b32 %r<5>;

                ld.param.u64 %d0, [x];
                cvta.to.global.u64 %d0, %d0;
                ld.param.f32 %f0, [factor];
                ld.param.u32 %r0, [count];
                mov.u32 %r1, %ctaid.x;
                mov.u32 %r3, %tid.x;
                shl.b32 %r2, %r1, 6;
                add.u32 %r4, %r2, %r3;
                setp.ge.u32 %p0, %r4, %r0;
                @%p0 ret;
                // once, in place
                mad.wide.u32 %d1, %r4, 4, %d0;
                ld.global.f32 %f1, [%d1];
                mul.rn.f32 %f2, %f1, %f0;
                st.global.f32 [%d1+4], %f2;
                ret;
            }

            """, k.Build().Text);
    }

    [Fact]
    public void SharedMemory_IsStaticAsLongAsItFits()
    {
        Assert.Contains(".shared .align 16 .b8 shared_memory[49152];", Text(k => k.AllocateShared(48 << 10)), StringComparison.Ordinal);
        Assert.Contains(".shared .align 128 .b8 shared_memory[132];", Text(k => (k.AllocateShared(4), k.AllocateShared(4, 128))), StringComparison.Ordinal);

        var k = new PtxBuilder(_ampere, "k", 32);
        k.AllocateShared((48 << 10) + 1);
        PtxKernel large = k.Build();
        Assert.Equal((48 << 10) + 1, large.DynamicSharedBytes);
        Assert.Contains(".extern .shared .align 16 .b8 shared_memory[];", large.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(PtxFeature.Base, "7.0", "sm_80")]
    [InlineData(PtxFeature.CacheHints, "7.4", "sm_80")]
    [InlineData(PtxFeature.Float8Conversion, "8.1", "sm_89")]
    [InlineData(PtxFeature.Float8Mma, "8.4", "sm_89")]
    [InlineData(PtxFeature.DependentLaunch, "7.8", "sm_90")]
    [InlineData(PtxFeature.BulkCopy, "8.0", "sm_90")]
    [InlineData(PtxFeature.WarpGroupMma, "8.0", "sm_90a")]
    public void TheHead_SaysTheLeastThatIsNeeded(PtxFeature feature, string version, string target)
    {
        var k = new PtxBuilder(_hopper, "k", 32);
        k.Require(PtxFeature.CacheHints);
        k.Require(feature);

        string least = string.CompareOrdinal(version, "7.4") > 0 ? version : "7.4";
        Assert.StartsWith($".version {least}\n.target {target}\n", k.Build().Text, StringComparison.Ordinal);
    }

    [Fact]
    public void WhatTheTargetLacks_IsRefusedByName()
    {
        var e = Assert.Throws<PtxTargetException>(() => new PtxBuilder(_ampere, "k", 32).Require(PtxFeature.Float8Mma));
        Assert.Equal("Float8Mma needs PTX 8.4 and sm_89; the target is sm_80, PTX 8.4.", e.Message);
        Assert.Throws<PtxTargetException>(() => new PtxBuilder(new PtxTarget(90, 82), "k", 32).Require(PtxFeature.Float8Mma));
        Assert.Throws<PtxTargetException>(() => new PtxBuilder(new PtxTarget(90, 84), "k", 32).Require(PtxFeature.WarpGroupMma));
        Assert.Throws<PtxTargetException>(() => new PtxBuilder(new PtxTarget(100, 90, ArchitectureSpecific: true), "k", 32).Require(PtxFeature.WarpGroupMma));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PtxBuilder(_ampere, "k", 48));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PtxBuilder(_ampere, "k", 1056));
    }

    [Fact]
    public void BeforeHopper_NothingWaitsForThePreviousKernel()
    {
        Assert.DoesNotContain("griddepcontrol", Text(k => k.WaitForPreviousKernel()), StringComparison.Ordinal);

        var k = new PtxBuilder(_hopper, "k", 32);
        k.WaitForPreviousKernel();
        k.LetNextKernelStart();
        Assert.EndsWith("    griddepcontrol.wait;\n    griddepcontrol.launch_dependents;\n    ret;\n}\n", k.Build().Text, StringComparison.Ordinal);
    }

    [Fact]
    public void Constants_AreFolded_AndPowersOfTwoAreShifts()
    {
        U32 six = (U32)2 * 3, four = six - 2, one = four / 4;
        Assert.Equal(("6", "4", "1"), (six.Operand.Text, four.Operand.Text, one.Operand.Text));

        AssertLines(
            k =>
            {
                U32 x = k.Thread;
                _ = x * 1;
                _ = x + 0;
                _ = x - 0;
                _ = x << 0;
                _ = x * 8;
                _ = 8 * x;
                _ = x / 16;
                _ = x % 16;
                _ = x * 6;
                _ = x / 6;
            },
            "shl.b32 %r1, %r0, 3;", "shl.b32 %r2, %r0, 3;", "shr.u32 %r3, %r0, 4;", "and.b32 %r4, %r0, 15;", "mul.lo.u32 %r5, %r0, 6;", "div.u32 %r6, %r0, 6;");
    }

    [Fact]
    public void Operators_EmitTheirTypesInstruction()
    {
        AssertLines(
            k =>
            {
                (U32 u, F32 f, U64 d) = (k.Thread, k.Variable<F32>(), k.Variable<U64>());
                _ = u < 3;
                _ = u.AsS32 < 3;
                _ = u.AsS32 >> 1;
                _ = f < 0.5f;
                _ = f.IsNaN;
                _ = -f;
                _ = d <= 5ul;
                _ = d >> u;
                _ = k.Select(f.Is(0f), u, 7);
            },
            "setp.lt.u32 %p0, %r0, 3;", "setp.lt.s32 %p1, %r0, 3;", "shr.s32 %r1, %r0, 1;", "setp.lt.f32 %p2, %f0, 0f3F000000;", "setp.nan.f32 %p3, %f0, %f0;", "neg.f32 %f1, %f0;",
            "setp.le.u64 %p4, %d0, 5;", "shr.u64 %d1, %d0, %r0;", "setp.eq.f32 %p5, %f0, 0f00000000;", "selp.b32 %r2, %r0, 7, %p5;");
        Assert.Throws<InvalidOperationException>(() => (F32)1f + 2f);
    }

    [Fact]
    public void Branches_HaveTheirEnd()
    {
        AssertLines(
            k =>
            {
                Pred p = k.Thread.Is(0);
                using (k.If(p, uniform: true))
                    k.Barrier();
                k.If(p, () => k.Comment("then"), () => k.Comment("else"));
            },
            "setp.eq.u32 %p0, %r0, 0;",
            "@!%p0 bra.uni endif_0;", "    bar.sync 0;", "endif_0:",
            "@!%p0 bra else_1;", "    // then", "    bra endif_2;", "else_1:", "    // else", "endif_2:");
    }

    [Fact]
    public void Loops_TestBeforeTheirFirstRound()
    {
        AssertLines(
            k =>
            {
                using (k.For(k.Thread, 100, 32, out U32 i))
                    k.Comment($"round {i.Operand}");
            },
            "mov.b32 %r1, %r0;", "setp.ge.u32 %p0, %r1, 100;", "@%p0 bra done_1;", "loop_0:", "    // round %r1",
            "    add.u32 %r2, %r1, 32;", "    mov.b32 %r1, %r2;", "    setp.lt.u32 %p1, %r1, 100;", "    @%p1 bra loop_0;", "done_1:");
        AssertLines(
            k =>
            {
                using (k.While(() => k.Thread < 5))
                    k.Comment("body");
            },
            "loop_0:", "    setp.lt.u32 %p0, %r0, 5;", "    @!%p0 bra done_1;", "    // body", "    bra loop_0;", "done_1:");
    }

    [Fact]
    public void GuardedLoads_LeaveZeros()
    {
        AssertLines(
            k => k.LoadVector<U32>(new Global(k.Variable<U64>()), 2, CacheHint.ReadOnly, k.Thread < 3),
            "setp.lt.u32 %p0, %r0, 3;", "mov.b32 %r1, 0;", "mov.b32 %r2, 0;", "@%p0 ld.global.nc.v2.b32 {%r1, %r2}, [%d0];");
    }

    [Fact]
    public void ValuesOf64Bits_AreShuffledInHalves()
    {
        AssertLines(
            k => k.ShuffleXor(k.Variable<U64>(), 4), "mov.b64 {%r0, %r1}, %d0;",
            "shfl.sync.bfly.b32 %r2, %r0, 4, 31, 0xffffffff;", "shfl.sync.bfly.b32 %r3, %r1, 4, 31, 0xffffffff;", "mov.b64 %d1, {%r2, %r3};");
    }

    [Fact]
    public void AConstantThatTheTypeLacks_IsRefused()
    {
        var k = new PtxBuilder(_ampere, "k", 32);
        _ = k.Constant(ElementType.F16, 0.25f);
        Assert.Throws<ArgumentOutOfRangeException>(() => k.Constant(ElementType.F16, 0.1f));
        Assert.Throws<ArgumentOutOfRangeException>(() => k.Constant(ElementType.BF16, 257));
    }

    private static string Text(Action<PtxBuilder> emit)
    {
        var k = new PtxBuilder(_ampere, "k", 32);
        emit(k);
        return k.Build().Text;
    }

    private static string Text<T>(Func<PtxBuilder, T> emit) => Text(k => { emit(k); });

    /// <summary>Compares the body, but for what reads special registers at its top.</summary>
    private static void AssertLines(Action<PtxBuilder> emit, params string[] expected)
    {
        string[] body = Text(emit).Split('\n').SkipWhile(line => line != "{").Skip(1).Where(line => line.Length > 0 && !line.Contains(".reg ", StringComparison.Ordinal) && !line.Contains("mov.u32", StringComparison.Ordinal)).ToArray();
        Assert.Equal([.. expected, "ret;", "}"], body.Select(line => line.StartsWith("    ", StringComparison.Ordinal) ? line[4..] : line));
    }

    private static void AssertLines<T>(Func<PtxBuilder, T> emit, params string[] expected) => AssertLines(k => { emit(k); }, expected);
}
