using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Lanes that part meet again, however the text is nested.</summary>
public sealed class DivergenceTests
{
    [Fact]
    public void NestedBranches_GiveEachLaneItsOwnPath_AndAllMeetAgain()
    {
        uint[] lanes = [.. Enumerable.Range(0, 32).Select(i => (uint)i)];
        uint[][] results = Machine.Words("""
            mov.u32 %r101, 0;
            and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0; @%p1 bra EVEN;
            add.u32 %r101, %r101, 100;
            and.b32 %r2, %r1, 2; setp.eq.u32 %p2, %r2, 0; @!%p2 bra JOIN;
            add.u32 %r101, %r101, 1000;
            bra JOIN;
            EVEN:
            add.u32 %r101, %r101, 1;
            setp.lt.u32 %p3, %r1, 8; @%p3 bra JOIN;
            add.u32 %r101, %r101, 10;
            JOIN:
            activemask.b32 %r102;
            """, [lanes], 2);
        for (int i = 0; i < 32; i++)
        {
            Assert.Equal((uint)(i % 2 == 1 ? ((i & 2) == 0 ? 1100 : 100) : i < 8 ? 1 : 11), results[0][i]);
            Assert.Equal(uint.MaxValue, results[1][i]);
        }
    }

    [Fact]
    public void Loop_WithAnExitOfItsOwnForEachLane_CountsRight_AndMeetsAfterwards()
    {
        uint[] times = [.. Enumerable.Range(0, 32).Select(i => (uint)((i * 7) % 13))];
        uint[][] results = Machine.Words("""
            mov.u32 %r101, 0;
            setp.eq.u32 %p1, %r1, 0; @%p1 bra DONE;
            LOOP:
            add.u32 %r101, %r101, 1;
            and.b32 %r3, %r101, 1; setp.eq.u32 %p3, %r3, 1; @%p3 bra ODD;
            add.u32 %r101, %r101, 0;
            ODD:
            setp.lt.u32 %p2, %r101, %r1; @%p2 bra LOOP;
            DONE:
            activemask.b32 %r102;
            """, [times], 2);
        Assert.Equal(times, results[0]);
        Assert.All(results[1], m => Assert.Equal(uint.MaxValue, m));
    }

    [Fact]
    public void Return_OfSomeLanes_LeavesTheOthers()
    {
        using Machine machine = new();
        using DeviceBuffer to = machine.Device.Allocate(128);
        machine.Stream.Fill(to.Pointer, 0, 128);
        machine.Launch(Machine.Text("""
            mul.wide.u32 %rd1, %tx, 4; add.u64 %rd1, %out, %rd1;
            setp.lt.u32 %p1, %tx, 5;
            @%p1 ret;
            setp.gt.u32 %p2, %tx, 20;
            @%p2 bra HIGH;
            activemask.b32 %r1; st.global.u32 [%rd1], %r1; ret;
            HIGH: activemask.b32 %r1; st.global.u32 [%rd1], %r1;
            """, "out"), 1, 32, 0, Argument.Of(to.Pointer));
        uint[] masks = machine.Read<uint>(to);
        for (int i = 0; i < 32; i++)
            Assert.Equal(i < 5 ? 0u : i > 20 ? 0xffe00000u : 0x001fffe0u, masks[i]);
    }

    /// <summary>Random programs of nested ifs and loops, run by the lanes together and in C# one by one.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    public void RandomNests_ComputeWhatEachLaneAloneWould(int seed)
    {
        Random random = new(seed);
        for (int round = 0; round < 20; round++)
        {
            int labels = 0;
            (string text, Func<uint, uint, uint> run) = Nest(random, 4, ref labels);
            uint[] inputs = [.. Enumerable.Range(0, 32).Select(_ => (uint)random.Next())];
            uint[][] results = Machine.Words("mov.u32 %r101, 7;\n" + text + "\nactivemask.b32 %r102;", [inputs], 2);
            for (int i = 0; i < 32; i++)
            {
                Assert.True(run(inputs[i], 7) == results[0][i], $"seed {seed}, round {round}, lane {i}: {results[0][i]}\n{text}");
                Assert.Equal(uint.MaxValue, results[1][i]);
            }
        }
    }

    private static (string Text, Func<uint, uint, uint> Run) Nest(Random random, int depth, ref int labels)
    {
        int label = labels++, bit = random.Next(31), step = random.Next(1000);
        if (depth == 0)
            return ($"mad.lo.u32 %r101, %r101, 3, {step};", (_, a) => unchecked((a * 3) + (uint)step));
        (string text, Func<uint, uint, uint> run) = Nest(random, depth - 1, ref labels);
        (string other, Func<uint, uint, uint> runOther) = Nest(random, depth - 1, ref labels);
        string test = $"shr.u32 %r50, %r1, {bit}; and.b32 %r50, %r50, 1; setp.ne.u32 %p1, %r50, 0;\n";
        switch (random.Next(3))
        {
            case 0:
                return ($"{test}@!%p1 bra ELSE{label};\n{text}\nbra END{label};\nELSE{label}:\n{other}\nEND{label}:",
                    (x, a) => (x >> bit & 1) != 0 ? run(x, a) : runOther(x, a));
            case 1:
                return ($"{test}@!%p1 bra END{label};\n{text}\nEND{label}:\n{other}", (x, a) => runOther(x, (x >> bit & 1) != 0 ? run(x, a) : a));
            default:
                string counter = $"%r{60 + depth}";
                return ($"shr.u32 {counter}, %r1, {bit}; and.b32 {counter}, {counter}, 3;\nHEAD{label}: setp.eq.u32 %p2, {counter}, 0;\n@%p2 bra END{label};\n{text}\n" +
                    $"sub.u32 {counter}, {counter}, 1;\nbra HEAD{label};\nEND{label}:\n{other}", (x, a) =>
                {
                    for (uint n = x >> bit & 3; n > 0; n--)
                        a = run(x, a);
                    return runOther(x, a);
                });
        }
    }
}
