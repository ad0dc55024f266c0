using Qwen.Emulation;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Every fault, planted, is seen, and told with its place.</summary>
public sealed class FaultTests
{
    [Fact]
    public void Store_BeyondTheBuffer_IsOutOfBounds()
    {
        DeviceFaultException fault = Machine.Fault("mul.wide.u32 %rd1, %tx, 4;\nadd.u64 %rd1, %out, %rd1;\nst.global.u32 [%rd1], %tx;\nret;", outBytes: 100);
        Assert.Equal(FaultKind.OutOfBounds, fault.Kind);
        Assert.Equal("st.global.u32 [%rd1], %tx", fault.Text);
        Assert.Equal(new Dim3(25, 0, 0), fault.Thread);
        Assert.NotNull(fault.Address);
        Assert.Contains("100 bytes", fault.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_FromFreedMemory_IsUseAfterFree()
    {
        using Machine machine = new();
        DeviceBuffer gone = machine.Device.Allocate(256);
        ulong address = gone.Pointer.Address;
        gone.Dispose();
        Assert.Equal(FaultKind.UseAfterFree, Assert.Throws<DeviceFaultException>(
            () => machine.Launch(Machine.Text("ld.global.u32 %r1, [%in];\nret;", "in"), 1, 1, 0, address)).Kind);
    }

    [Theory]
    [InlineData("st.global.u32 [%out+2], %tx;", FaultKind.Misaligned)]
    [InlineData("st.global.v4.u32 [%out+8], {%tx, %tx, %tx, %tx};", FaultKind.Misaligned)]
    [InlineData("st.global.v2.u32 [%out+4], {%tx, %tx};", FaultKind.Misaligned)]
    [InlineData("ld.global.u32 %r1, [%out];", FaultKind.UnwrittenMemory)]
    [InlineData("st.global.u16 [%out], %h1;", FaultKind.UnwrittenRegister)]
    [InlineData("add.u32 %r1, %r2, 1;", FaultKind.UnwrittenRegister)]
    [InlineData("@%p1 bra L; L:", FaultKind.UnwrittenRegister)]
    [InlineData("selp.u32 %r1, 1, 2, %p3;", FaultKind.UnwrittenRegister)]
    [InlineData("st.global.u32 [%out], %tx;", FaultKind.Race)]
    [InlineData("ld.shared.u32 %r1, [s];", FaultKind.UnwrittenMemory)]
    [InlineData("st.shared.u32 [s+1024], 1;", FaultKind.OutOfBounds)]
    [InlineData("st.shared.u32 [s+1], 1;", FaultKind.Misaligned)]
    [InlineData("st.shared.u32 [s], %tx;", FaultKind.Race)]
    [InlineData("setp.lt.u32 %p1, %tx, 16; @%p1 bar.sync 0;", FaultKind.DivergentBarrier)]
    [InlineData("setp.lt.u32 %p1, %tx, 16; @%p1 shfl.sync.bfly.b32 %r1, %tx, 16, 31, -1;", FaultKind.InactiveLane)]
    [InlineData("setp.lt.u32 %p1, %tx, 16; @%p1 shfl.sync.bfly.b32 %r1, %tx, 16, 31, 0xffff;", FaultKind.InactiveLane)]
    [InlineData("setp.lt.u32 %p1, %tx, 16; @%p1 vote.sync.ballot.b32 %r1, %p1, -1;", FaultKind.InactiveLane)]
    [InlineData("L: bra L;", FaultKind.Overlong)]
    [InlineData("st.global.u32 [c], 1;", FaultKind.ReadOnly)]
    [InlineData("setp.lt.u32 %p1, %tx, 3; @%p1 bra.uni L; L:", FaultKind.Misuse)]
    [InlineData("trap;", FaultKind.Misuse)]
    [InlineData("bar.sync 0, 33;", FaultKind.Misuse)]
    [InlineData("mov.u32 %r1, s; mul.lo.u32 %r2, %tx, 4; add.u32 %r1, %r1, %r2; cp.async.ca.shared.global [%r1], [c], 4; ld.shared.u32 %r3, [%r1];", FaultKind.PendingCopy)]
    [InlineData("mov.u32 %r1, s; mul.lo.u32 %r2, %tx, 4; add.u32 %r1, %r1, %r2; cp.async.ca.shared.global [%r1], [c], 4; cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r3, [%r1];", FaultKind.PendingCopy)]
    [InlineData("mov.u32 %r1, s; mul.lo.u32 %r2, %tx, 4; add.u32 %r1, %r1, %r2; cp.async.ca.shared.global [%r1], [c], 4;", FaultKind.PendingCopy)]
    [InlineData("mbarrier.try_wait.parity.shared::cta.b64 %p1, [s], 0;", FaultKind.Misuse)]
    public void EveryFault_IsSeen(string body, FaultKind kind)
    {
        DeviceFaultException fault = Machine.Fault(body + "\nret;", module: ".shared .align 16 .b8 s[1024]; .const .align 16 .b8 c[64];");
        Assert.Equal(kind, fault.Kind);
    }

    [Theory]
    [InlineData("st.shared.u32 [%r1], %tx; setp.ge.u32 %p1, %tx, 32; @%p1 ld.shared.u32 %r2, [%r3];")] // read after write
    [InlineData("st.shared.u32 [%r1], %tx; bar.sync 0; ld.shared.u32 %r2, [%r3]; st.shared.u32 [%r1], %tx;")] // write after read
    [InlineData("st.shared.u32 [%r1], %tx; setp.lt.u32 %p1, %tx, 32; @%p1 st.shared.u32 [%r3], %tx;")] // write after write
    public void SharedRaces_BetweenWarps_AreSeen_UntilABarrierIsThere(string body)
    {
        const string Prologue = "mov.u32 %r9, s; mad.lo.u32 %r1, %tx, 4, %r9; xor.b32 %r3, %tx, 32; mad.lo.u32 %r3, %r3, 4, %r9;\n";
        const string Module = ".shared .align 16 .b8 s[1024];";
        Assert.Equal(FaultKind.Race, Machine.Fault(Prologue + body + "\nret;", threads: 64, module: Module).Kind);
        using Machine machine = new();
        string ordered = Prologue + body.Replace(";", "; bar.sync 0;", StringComparison.Ordinal).Replace("bar.sync 0; bar.sync 0;", "bar.sync 0;", StringComparison.Ordinal);
        machine.Launch(Machine.Text(ordered + "\nret;", "", module: Module), 1, 64, 0);
    }

    [Fact]
    public void WhatSeveralWarpsRead_MayBeWritten_BehindABarrier()
    {
        const string Module = ".shared .align 16 .b8 s[1024];";
        const string Round = "bar.sync 0; ld.shared.u32 %r2, [s]; bar.sync 0; setp.eq.u32 %p1, %tx, 32; @%p1 st.shared.u32 [s], %tx;\n"; // segments of warps differ from the second round on
        using Machine machine = new();
        machine.Launch(Machine.Text("setp.eq.u32 %p1, %tx, 0; @%p1 st.shared.u32 [s], %tx;\n" + Round + Round + Round + "ret;", "", module: Module), 1, 96, 0);
    }

    [Fact]
    public void CopiedBytes_AreOtherWarps_OnlyAfterABarrier()
    {
        const string Module = ".shared .align 16 .b8 s[1024]; .global .align 16 .b8 g[1024];";
        const string Copy = """
            mov.u32 %r9, s; mad.lo.u32 %r1, %tx, 16, %r9; xor.b32 %r3, %tx, 32; mad.lo.u32 %r3, %r3, 16, %r9;
            mov.u64 %rd1, g; cvt.u64.u32 %rd2, %tx; shl.b64 %rd2, %rd2, 4; add.u64 %rd1, %rd1, %rd2;
            cp.async.cg.shared.global [%r1], [%rd1], 16;
            cp.async.commit_group;
            cp.async.wait_group 0;
            """;
        Assert.Equal(FaultKind.Race, Machine.Fault(Copy + "setp.ge.u32 %p1, %tx, 32; @%p1 ld.shared.u32 %r4, [%r3];\nret;", threads: 64, module: Module).Kind);
        using Machine machine = new();
        machine.Launch(Machine.Text(Copy + "bar.sync 0;\nld.shared.u32 %r4, [%r3];\nret;", "", module: Module), 1, 64, 0);
    }

    [Fact]
    public void Barrier_ThatAWarpNeverReaches_IsDivergent()
    {
        DeviceFaultException fault = Machine.Fault("setp.ge.u32 %p1, %tx, 32; @%p1 bra DONE; bar.sync 0;\nDONE: ret;", threads: 64);
        Assert.Equal(FaultKind.DivergentBarrier, fault.Kind);
        Assert.Equal(FaultKind.Deadlock, Machine.Fault("setp.ge.u32 %p1, %tx, 32; @%p1 bra OTHER; bar.sync 0, 64; ret;\nOTHER: bar.sync 1, 64; ret;", threads: 64).Kind);
    }

    [Fact]
    public void OverlappingKernel_ThatDoesNotWait_IsSeen()
    {
        using Machine machine = new();
        DeviceBuffer data = machine.Buffer(128);
        const string Address = "mul.wide.u32 %rd1, %tx, 4; add.u64 %rd1, %out, %rd1;";
        machine.Launch(Machine.Text(Address + "st.global.u32 [%rd1], 1; ret;", "out"), 1, 32, 0, Argument.Of(data.Pointer));
        DeviceFaultException read = Assert.Throws<DeviceFaultException>(() => machine.Launch(
            Machine.Text(Address + "ld.global.u32 %r1, [%rd1]; ret;", "out"), 1, 32, 0, overlap: true, [Argument.Of(data.Pointer)]));
        Assert.Equal(FaultKind.MissingGridWait, read.Kind);
        DeviceFaultException write = Assert.Throws<DeviceFaultException>(() => machine.Launch(
            Machine.Text(Address + "st.global.u32 [%rd1], 2; ret;", "out"), 1, 32, 0, overlap: true, [Argument.Of(data.Pointer)]));
        Assert.Equal(FaultKind.MissingGridWait, write.Kind);

        // The launch between may have started, and let another start, before the first was done.
        DeviceBuffer other = machine.Buffer(128);
        machine.Launch(Machine.Text("griddepcontrol.launch_dependents; griddepcontrol.wait;" + Address + "st.global.u32 [%rd1], 1; ret;", "out"), 1, 32, 0, overlap: true, [Argument.Of(other.Pointer)]);
        DeviceFaultException late = Assert.Throws<DeviceFaultException>(() => machine.Launch(
            Machine.Text(Address + "ld.global.u32 %r1, [%rd1]; ret;", "out"), 1, 32, 0, overlap: true, [Argument.Of(data.Pointer)]));
        Assert.Equal(FaultKind.MissingGridWait, late.Kind);

        // What the previous launch did not write, such as weights, may be read at once.
        DeviceBuffer weights = machine.Buffer<uint>(new uint[32]);
        machine.Launch(Machine.Text(Address + "ld.global.u32 %r1, [%rd1]; ret;", "out"), 1, 32, 0, overlap: true, [Argument.Of(weights.Pointer)]);
        machine.Launch(Machine.Text(Address + "griddepcontrol.wait; ld.global.u32 %r1, [%rd1]; st.global.u32 [%rd1], %r1; ret;", "out"), 1, 32, 0, overlap: true, [Argument.Of(data.Pointer)]);
    }

    [Fact]
    public unsafe void HostCopies_AreChecked()
    {
        using Machine machine = new();
        DeviceBuffer buffer = machine.Buffer(16);
        ulong* host = stackalloc ulong[4];
        Assert.Contains("OutOfBounds", Assert.Throws<DeviceException>(() => machine.Stream.CopyToDevice(buffer.Pointer, host, 17)).Message, StringComparison.Ordinal);
        Assert.Contains("UnwrittenMemory", Assert.Throws<DeviceException>(() => machine.Stream.CopyToHost(host, buffer.Pointer, 16)).Message, StringComparison.Ordinal);
        Assert.Contains("overlap", Assert.Throws<DeviceException>(() => machine.Stream.Copy(buffer.Pointer + 4, buffer.Pointer, 8)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Leaks_FailTheDispose()
    {
        EmulatedDevice device = new();
        DeviceBuffer kept = device.Allocate(16);
        IDeviceStream stream = device.CreateStream();
        Assert.Contains("1 buffers still in use, 1 streams", Assert.Throws<InvalidOperationException>(device.Dispose).Message, StringComparison.Ordinal);
        stream.Dispose();
        kept.Dispose();
    }

    [Fact]
    public unsafe void PinnedMemory_WrittenOutOfBounds_FailsTheDispose()
    {
        EmulatedDevice device = new();
        PinnedBuffer pinned = device.AllocatePinned(64);
        ((byte*)pinned.Pointer)[64] = 1;
        pinned.Dispose();
        Assert.Contains("out of its bounds", Assert.Throws<InvalidOperationException>(device.Dispose).Message, StringComparison.Ordinal);
    }
}
