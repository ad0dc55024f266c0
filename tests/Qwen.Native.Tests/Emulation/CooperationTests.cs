using Qwen.Emulation;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Lanes, warps and blocks that work together: shuffles, votes, atomics, asynchronous copies, barriers, spinning.</summary>
public sealed class CooperationTests
{
    [Theory]
    [InlineData("bfly", 5, 31)]
    [InlineData("down", 3, 31)]
    [InlineData("up", 2, 0)]
    [InlineData("idx", 9, 31)]
    [InlineData("bfly", 4, 0x181f)] // groups of 8
    [InlineData("down", 3, 0x181f)]
    [InlineData("idx", 3, 0x181f)]
    [InlineData("up", 3, 0x1800)]
    public void Shuffle_ReadsTheLaneOfItsMode(string mode, int by, int clamp)
    {
        uint[] words = [.. Enumerable.Range(0, 32).Select(i => (uint)(100 + i))];
        uint[][] results = Machine.Words($"shfl.sync.{mode}.b32 %r101|%p1, %r1, {by}, {clamp}, -1; selp.u32 %r102, 1, 0, %p1;", [words], 2);
        int width = clamp >= 0x1800 ? 8 : 32;
        for (int lane = 0; lane < 32; lane++)
        {
            int start = lane / width * width;
            int from = mode switch
            {
                "bfly" => lane ^ by,
                "down" => lane + by,
                "up" => lane - by,
                _ => start + by,
            };
            bool inside = from >= start && from < start + width;
            if (mode == "bfly" && from < start)
                inside = true; // only lanes above a group are out of it
            Assert.Equal(inside ? 100u + (uint)from : words[lane], results[0][lane]);
            Assert.Equal(inside ? 1u : 0, results[1][lane]);
        }
    }

    [Fact]
    public void Votes_Matches_AndElections()
    {
        uint[] words = [.. Enumerable.Range(0, 32).Select(i => (uint)(i % 3))];
        uint[][] results = Machine.Words("""
            setp.eq.u32 %p1, %r1, 0;
            vote.sync.ballot.b32 %r101, %p1, -1;
            vote.sync.any.pred %p2, %p1, -1; selp.u32 %r102, 1, 0, %p2;
            vote.sync.all.pred %p2, %p1, -1; selp.u32 %r103, 1, 0, %p2;
            match.any.sync.b32 %r104, %r1, -1;
            elect.sync %r105|%p3, -1; selp.u32 %r106, 1, 0, %p3;
            redux.sync.max.u32 %r107, %r1, -1;
            """, [words], 7);
        uint Same(uint value) => (uint)Enumerable.Range(0, 32).Where(i => words[i] == value).Aggregate(0L, (m, i) => m | (1L << i));
        for (int lane = 0; lane < 32; lane++)
        {
            Assert.Equal([Same(0), 1u, 0u, Same(words[lane]), 0u, lane == 0 ? 1u : 0, 2u], results.Select(r => r[lane]));
        }
    }

    [Fact]
    public void AWarpThatOnlyArrivedAtABarrier_IsNotLetPastAnotherByIt()
    {
        using Machine machine = new();
        DeviceBuffer to = machine.Buffer(sizeof(uint));
        machine.Launch(Machine.Text("""
            setp.ge.u32 %p1, %tx, 32; @%p1 bra WRITER;
            bar.arrive 1, 64; bar.sync 2, 64; ld.shared.u32 %r1, [s]; st.global.u32 [%out], %r1;
            ret;
            WRITER: bar.sync 1, 64; st.shared.u32 [s], 7; bar.sync 2, 64;
            ret;
            """, "out", module: ".shared .align 4 .b8 s[4];"), 1, 64, 0, Argument.Of(to.Pointer));
        Assert.Equal([7u], machine.Read<uint>(to));
    }

    [Fact]
    public void Atomics_OfAllBlocks_Add_InTheSameOrderEveryTime()
    {
        string text = Machine.Text("""
            atom.global.add.u32 %r1, [%out], 1;
            cvt.rn.f32.u32 %f1, %tx; add.f32 %f1, %f1, 0f3dcccccd; red.global.add.f32 [%out+4], %f1;
            red.global.max.u32 [%out+8], %tx;
            atom.global.cas.b32 %r2, [%out+12], 0, %bx;
            atom.global.inc.u32 %r3, [%out+16], 6;
            mov.b32 %r4, 0x3c003c00; red.global.add.noftz.f16x2 [%out+20], %r4;
            cvt.u64.u32 %rd1, %tx; red.global.add.u64 [%out+24], %rd1;
            ret;
            """, "out");
        uint[]? first = null;
        for (int i = 0; i < 3; i++)
        {
            using Machine machine = new();
            DeviceBuffer result = machine.Buffer<uint>(new uint[8]);
            machine.Launch(text, 20, 64, 0, Argument.Of(result.Pointer));
            uint[] words = machine.Read<uint>(result);
            Assert.Equal(1280u, words[0]);
            Assert.Equal(63u, words[2]);
            Assert.Equal(1u, words[3]);
            Assert.Equal(1280u % 7, words[4]);
            Assert.Equal((Half)1280, BitConverter.UInt16BitsToHalf((ushort)words[5]));
            Assert.Equal(20u * (63 * 64 / 2), words[6]);
            Assert.InRange(BitConverter.UInt32BitsToSingle(words[1]), 20 * 2016, (20 * 2016) + 129);
            first ??= words;
            Assert.Equal(first, words);
        }
    }

    /// <summary>Block i waits until block i + 1 has passed: only a fair scheduler gets through, and the last block must be resident with the first.</summary>
    [Fact]
    public void Blocks_ThatSpinForEachOther_AllGetTheirTurn()
    {
        using Machine machine = new();
        DeviceBuffer flags = machine.Buffer<uint>(new uint[33]);
        machine.Launch(Machine.Text("""
            mul.wide.u32 %rd1, %bx, 4; add.u64 %rd1, %out, %rd1;
            setp.ne.u32 %p2, %tx, 0; @%p2 bra WAITED;
            setp.eq.u32 %p1, %bx, 31; @%p1 bra GO;
            SPIN: ld.acquire.gpu.global.u32 %r1, [%rd1+4]; setp.eq.u32 %p3, %r1, 0; @%p3 bra SPIN;
            GO: ld.global.u32 %r2, [%rd1+4]; add.u32 %r2, %r2, 1; membar.gl; st.release.gpu.global.u32 [%rd1], %r2;
            WAITED: bar.sync 0;
            ret;
            """, "out"), 32, 64, 0, Argument.Of(flags.Pointer));
        Assert.Equal(Enumerable.Range(0, 33).Select(i => (uint)(32 - i)), machine.Read<uint>(flags));
    }

    /// <summary>Three stages of cp.async with zero-filled tails, as a pipelined product loads its tiles.</summary>
    [Fact]
    public void CopyPipeline_BringsEveryTile_AndZeroesTails()
    {
        using Machine machine = new();
        const int Tiles = 7, Words = (Tiles * 64 * 4) - 100;
        uint[] data = [.. Enumerable.Range(1, Words).Select(i => (uint)i)];
        DeviceBuffer from = machine.Buffer<uint>(data), to = machine.Buffer(64 * 4);
        const string Fetch = """
            mad.lo.u32 %r5, %r4, 1024, %r6; sub.s32 %r7, %n, %r5; max.s32 %r7, %r7, 0; min.s32 %r7, %r7, 16;
            min.u32 %r8, %r5, %r9; cvt.u64.u32 %rd2, %r8; add.u64 %rd2, %in, %rd2;
            rem.u32 %r10, %r4, 3; mad.lo.u32 %r10, %r10, 1024, %r11;
            cp.async.cg.shared.global.L2::128B [%r10], [%rd2], 16, %r7;
            """;
        machine.Launch(Machine.Text($$"""
            mov.u32 %r11, s; shl.b32 %r6, %tx, 4; add.u32 %r11, %r11, %r6; mov.u32 %r9, {{(Words * 4) - 16}};
            xor.b32 %r12, %r6, 512;
            mov.u32 %r4, 0; {{Fetch}} cp.async.commit_group;
            mov.u32 %r4, 1; {{Fetch}} cp.async.commit_group;
            mov.u32 %r20, 0; mov.u32 %r21, 0;
            LOOP:
            cp.async.wait_group 1;
            bar.sync 0;
            add.u32 %r4, %r20, 2; setp.lt.u32 %p1, %r4, {{Tiles}}; @!%p1 bra NONE; {{Fetch.Replace("\n", " ", StringComparison.Ordinal)}}
            NONE: cp.async.commit_group;
            rem.u32 %r22, %r20, 3; mov.u32 %r24, s; mad.lo.u32 %r22, %r22, 1024, %r24; add.u32 %r22, %r22, %r12;
            ld.shared.v4.u32 {%r30, %r31, %r32, %r33}, [%r22];
            add.u32 %r30, %r30, %r31; add.u32 %r32, %r32, %r33; add.u32 %r30, %r30, %r32; add.u32 %r21, %r21, %r30;
            add.u32 %r20, %r20, 1; setp.lt.u32 %p2, %r20, {{Tiles}}; @%p2 bra LOOP;
            cp.async.wait_all;
            mul.wide.u32 %rd3, %tx, 4; add.u64 %rd3, %out, %rd3; st.global.u32 [%rd3], %r21;
            ret;
            """, "in out n", module: ".shared .align 16 .b8 s[3072];"), 1, 64, 0, Argument.Of(from.Pointer), Argument.Of(to.Pointer), Argument.Of(Words * 4));
        uint[] sums = machine.Read<uint>(to);
        for (int thread = 0; thread < 64; thread++)
        {
            int at = (thread ^ 32) * 4;
            long expected = Enumerable.Range(0, Tiles).SelectMany(t => Enumerable.Range(0, 4).Select(i => (t * 256) + at + i)).Where(i => i < Words).Sum(i => (long)data[i]);
            Assert.Equal((uint)expected, sums[thread]);
        }
    }

    [Fact]
    public void BulkCopy_IsThere_WhenItsBarrierSaysSo()
    {
        using Machine machine = new();
        DeviceBuffer from = machine.Buffer<uint>([.. Enumerable.Range(0, 128).Select(i => (uint)i)]), to = machine.Buffer(512);
        const string Issue = """
            setp.ne.u32 %p1, %tx, 0; mov.u32 %r1, bar; mov.u32 %r2, dsm;
            @%p1 bra READY;
            mbarrier.init.shared::cta.b64 [%r1], 1; fence.mbarrier_init.release.cluster; fence.proxy.async;
            READY: bar.sync 0;
            @%p1 bra WAIT;
            mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 512;
            cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%in], 512, [%r1];
            """;
        const string Rest = """
            shl.b32 %r3, %tx, 2; add.u32 %r3, %r2, %r3; ld.shared.u32 %r4, [%r3];
            mul.wide.u32 %rd1, %tx, 4; add.u64 %rd1, %out, %rd1; st.global.u32 [%rd1], %r4; ret;
            """;
        const string Module = ".extern .shared .align 128 .b8 dsm[]; .shared .align 8 .b64 bar;";
        ulong[] arguments = [Argument.Of(from.Pointer), Argument.Of(to.Pointer)];
        machine.Launch(Machine.Text(Issue + "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0; @!%p2 bra WAIT;" + Rest, "in out", module: Module), 1, 128, 512, arguments);
        Assert.Equal(Enumerable.Range(0, 128).Select(i => (uint)i), machine.Read<uint>(to));
        Assert.Equal(FaultKind.PendingCopy, Assert.Throws<DeviceFaultException>(
            () => machine.Launch(Machine.Text(Issue + "WAIT:" + Rest, "in out", module: Module), 1, 32, 512, arguments)).Kind);
    }

    [Fact]
    public void NamedBarriers_OrderProducersAndConsumers()
    {
        using Machine machine = new();
        DeviceBuffer to = machine.Buffer(128);
        machine.Launch(Machine.Text("""
            and.b32 %r1, %tx, 31; shl.b32 %r2, %r1, 2; mov.u32 %r3, s; add.u32 %r2, %r2, %r3;
            setp.ge.u32 %p1, %tx, 32; @%p1 bra CONSUME;
            mul.lo.u32 %r4, %tx, 3; st.shared.u32 [%r2], %r4; bar.arrive 1, 64; ret;
            CONSUME: bar.sync 1, 64; ld.shared.u32 %r5, [%r2];
            mul.wide.u32 %rd1, %r1, 4; add.u64 %rd1, %out, %rd1; st.global.u32 [%rd1], %r5; ret;
            """, "out", module: ".shared .align 4 .b8 s[128];"), 1, 64, 0, Argument.Of(to.Pointer));
        Assert.Equal(Enumerable.Range(0, 32).Select(i => (uint)(3 * i)), machine.Read<uint>(to));
    }
}
