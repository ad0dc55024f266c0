using Qwen.Emulation;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>wgmma, with matrices laid out by hand.</summary>
public sealed class WarpgroupInstructionTests
{
    private const string Registers = "{%f1, %f2, %f3, %f4}";
    private const string FromShared = $"wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {Registers}, %rd11, %rd12, 0, 1, 1, 0, 0;";
    private const string Done = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;";

    // A of 64 rows at 0 and B of 8 columns at 2048, in chunks of 8 steps of depth: no swizzle, rows 16 bytes apart, the second chunks behind all first ones. Ones.
    private const string Fill = """
        mov.u32 %r1, s; shl.b32 %r2, %tx, 4; add.u32 %r1, %r1, %r2; mov.u32 %r3, 0x3c003c00;
        st.shared.v4.u32 [%r1], {%r3, %r3, %r3, %r3}; st.shared.v4.u32 [%r1+2048], {%r3, %r3, %r3, %r3};
        """;

    private const string Describe = "mov.u64 %rd11, 0x0000000800400000; mov.u64 %rd12, 0x0000000800080080;";
    private const string Ready = $"{Fill} fence.proxy.async; bar.sync 0; {Describe} wgmma.fence.sync.aligned; ";

    [Fact]
    public void OnesTimesOnes_AreTheDepth()
    {
        using Machine machine = new();
        DeviceBuffer to = machine.Buffer(128 * sizeof(float));
        machine.Launch(Text($"{Ready} {FromShared} {Done} add.f32 %f5, %f1, %f4; shl.b32 %r5, %tx, 2; cvt.u64.u32 %rd1, %r5; add.u64 %rd1, %rd1, %out; st.global.f32 [%rd1], %f5;"), 1, 128, 0, Argument.Of(to.Pointer));
        Assert.All(machine.Read<float>(to), sum => Assert.Equal(32, sum));
    }

    [Theory]
    [InlineData($"{Fill} bar.sync 0; {Describe} wgmma.fence.sync.aligned; {FromShared} {Done}", FaultKind.MissingProxyFence)]
    [InlineData($"{Fill} bar.sync 0; fence.proxy.async; {Fill} bar.sync 0; {Describe} wgmma.fence.sync.aligned; {FromShared} {Done}", FaultKind.MissingProxyFence)]
    [InlineData($"{Fill} fence.proxy.async; {Describe} wgmma.fence.sync.aligned; {FromShared} {Done}", FaultKind.UnwrittenMemory)] // before the barrier
    [InlineData($"{Ready} {FromShared} add.f32 %f5, %f1, %f2;", FaultKind.PendingProduct)]
    [InlineData($"{Ready} {FromShared} wgmma.wait_group.sync.aligned 0; add.f32 %f5, %f1, %f2;", FaultKind.PendingProduct)] // not committed
    [InlineData($"{Ready} {FromShared} wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 1; add.f32 %f5, %f1, %f2;", FaultKind.PendingProduct)]
    [InlineData($"{Ready} {FromShared} mov.f32 %f2, 0f00000000; {Done}", FaultKind.PendingProduct)]
    [InlineData($"{Ready} {FromShared}", FaultKind.PendingProduct)]
    [InlineData($"{Ready} wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {Registers}, %rd11, %rd12, 1, 1, 1, 0, 0; {Done}", FaultKind.UnwrittenRegister)] // adds to nothing
    [InlineData($"{Fill} fence.proxy.async; bar.sync 0; {Describe} {FromShared} {Done}", FaultKind.Misuse)] // no fence
    [InlineData($"{Ready} mov.f32 %f2, 0f3F800000; {FromShared} {Done}", FaultKind.Misuse)] // written behind the fence
    [InlineData($"{Ready} setp.lt.u32 %p1, %tx, 96; @%p1 {FromShared} {Done}", FaultKind.Misuse)] // three warps
    [InlineData($"{Ready} setp.lt.u32 %p1, %tx, 16; @%p1 {FromShared} {Done}", FaultKind.InactiveLane)]
    [InlineData($"{Ready} mov.u64 %rd12, 0x4000004000080100; {FromShared} {Done}", FaultKind.UnwrittenMemory)] // behind B
    [InlineData($"{Ready} mov.u64 %rd12, 0x4000004000080088; {FromShared} {Done}", FaultKind.Misaligned)] // begins in the second row of the pattern
    [InlineData($"{Ready} mov.u64 %rd12, 0x0010000800080080; {FromShared} {Done}", FaultKind.Misuse)] // a reserved bit
    [InlineData($"{Ready} mov.u64 %rd12, 0x0000000800080800; {FromShared} {Done}", FaultKind.OutOfBounds)]
    [InlineData($"{Ready} cvt.u64.u32 %rd1, %tx; add.u64 %rd12, %rd12, %rd1; {FromShared} {Done}", FaultKind.Misuse)] // each lane another
    [InlineData($"{Ready} shr.u32 %r4, %tx, 5; cvt.u64.u32 %rd1, %r4; add.u64 %rd11, %rd11, %rd1; {FromShared} {Done}", FaultKind.Misuse)] // each warp another
    [InlineData($"{Ready} {FromShared} {Fill} {Done}", FaultKind.MissingProxyFence)] // overwritten meanwhile
    [InlineData($"{Ready} mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r12, 0; mov.u32 %r13, 0; wgmma.fence.sync.aligned; wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {Registers}, {{%r10, %r11, %r12, %r13}}, %rd12, 0, 1, 1, 0; mov.u32 %r11, 7; {Done}", FaultKind.PendingProduct)]
    public void EveryMisuse_IsSeen(string body, FaultKind kind)
    {
        using Machine machine = new();
        DeviceBuffer to = machine.Buffer(4096);
        DeviceFaultException fault = Assert.Throws<DeviceFaultException>(() => machine.Launch(Text(body), 1, 128, 0, Argument.Of(to.Pointer)));
        Assert.Equal(kind, fault.Kind);
    }

    [Theory]
    [InlineData(104, 200, null)] // 384 threads begin with 168 each
    [InlineData(112, 200, FaultKind.Deadlock)]
    [InlineData(176, 176, FaultKind.Misuse)]
    public void RegistersOfABlock_AreNoMoreThanItBeginsWith(int less, int more, FaultKind? kind)
    {
        using Machine machine = new();
        string text = Machine.Text(
            $"setp.lt.u32 %p1, %tx, 128; @%p1 bra LESS;\nsetmaxnreg.inc.sync.aligned.u32 {more};\nret;\nLESS: setmaxnreg.dec.sync.aligned.u32 {less};\nret;", "out", "sm_90a");
        text = text.Replace("k(.param .u64 p_out)", "k(.param .u64 p_out) .maxntid 384, 1, 1 .minnctapersm 1", StringComparison.Ordinal);
        void Launch() => machine.Launch(text, 1, 384, 0, 0);
        if (kind is null)
            Launch();
        else
            Assert.Equal(kind, Assert.Throws<DeviceFaultException>(Launch).Kind);
    }

    [Fact]
    public void OtherTargetsAndBlocks_HaveNoProducts()
    {
        using Machine machine = new();
        DeviceBuffer to = machine.Buffer(4096);
        string text = Text($"{Ready} {FromShared} {Done}");
        Assert.Contains("sm_90a", Assert.Throws<PtxException>(() => machine.Launch(text.Replace("sm_90a", "sm_90", StringComparison.Ordinal), 1, 128, 0, Argument.Of(to.Pointer))).Message, StringComparison.Ordinal);
        Assert.Equal(FaultKind.Misuse, Assert.Throws<DeviceFaultException>(() => machine.Launch(text, 1, 96, 0, Argument.Of(to.Pointer))).Kind);
    }

    private static string Text(string body) => Machine.Text(body + "\nret;", "out", "sm_90a", ".shared .align 1024 .b8 s[8192];");
}
