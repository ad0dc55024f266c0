using Qwen.Emulation;
using Qwen.Emulation.Numbers;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>mma and ldmatrix by their lane layouts, against plain products of matrices.</summary>
public sealed class MatrixInstructionTests
{
    /// <summary>Fragments are filled here element by element from the layouts of the PTX ISA ("Matrix fragments for mma"), not by the emulator's formula.</summary>
    [Theory]
    [InlineData("m16n8k16", "f32.bf16.bf16.f32", 16)]
    [InlineData("m16n8k8", "f32.bf16.bf16.f32", 16)]
    [InlineData("m16n8k16", "f32.f16.f16.f32", 16)]
    [InlineData("m16n8k8", "f32.f16.f16.f32", 16)]
    [InlineData("m16n8k32", "f32.e4m3.e4m3.f32", 8)]
    [InlineData("m16n8k32", "f32.e4m3.e5m2.f32", 8)]
    [InlineData("m16n8k32", "s32.s8.s8.s32", 8)]
    [InlineData("m16n8k32", "s32.u8.s8.s32", 8)]
    [InlineData("m16n8k16", "s32.s8.s8.s32", 8)]
    public void Mma_IsTheProduct(string shape, string types, int bits)
    {
        Random random = new(shape.Length + types.Length);
        int depth = int.Parse(shape.AsSpan(6)), each = 32 / bits;
        string[] type = types.Split('.');
        double[,] a = new double[16, depth], b = new double[depth, 8], c = new double[16, 8];
        int countA = 16 * depth / 32 / each, countB = 8 * depth / 32 / each;
        uint[][] words = [.. Enumerable.Range(0, countA + countB + 4).Select(_ => new uint[32])];
        for (int lane = 0; lane < 32; lane++)
        {
            int group = lane / 4, inGroup = lane % 4;
            for (int r = 0; r < countA; r++)
            {
                for (int i = 0; i < each; i++)
                {
                    int row = r % 2 == 0 ? group : group + 8;
                    int column = (inGroup * each) + i + (r < 2 ? 0 : 4 * each);
                    words[r][lane] |= Code(random, type[1], out a[row, column]) << (bits * i);
                }
            }

            for (int r = 0; r < countB; r++)
            {
                for (int i = 0; i < each; i++)
                {
                    int row = (inGroup * each) + i + (r == 0 ? 0 : 4 * each);
                    words[countA + r][lane] |= Code(random, type[2], out b[row, group]) << (bits * i);
                }
            }

            for (int r = 0; r < 4; r++)
            {
                int value = random.Next(-50, 50);
                c[r < 2 ? group : group + 8, (inGroup * 2) + (r % 2)] = value;
                words[countA + countB + r][lane] = type[0] == "s32" ? (uint)value : BitConverter.SingleToUInt32Bits(value);
            }
        }

        string registers(int from, int count) => "{" + string.Join(", ", Enumerable.Range(from, count).Select(i => $"%r{i}")) + "}";
        uint[][] results = Machine.Words($"mma.sync.aligned.{shape}.row.col.{types} {registers(101, 4)}, {registers(1, countA)}, {registers(1 + countA, countB)}, {registers(1 + countA + countB, 4)};", words, 4);
        for (int lane = 0; lane < 32; lane++)
        {
            for (int r = 0; r < 4; r++)
            {
                int row = (lane / 4) + (r < 2 ? 0 : 8), column = (lane % 4 * 2) + (r % 2);
                double expected = c[row, column], size = Math.Abs(expected);
                for (int k = 0; k < depth; k++)
                {
                    expected += a[row, k] * b[k, column];
                    size += Math.Abs(a[row, k] * b[k, column]);
                }

                double got = type[0] == "s32" ? (int)results[r][lane] : BitConverter.UInt32BitsToSingle(results[r][lane]);
                Assert.InRange(got, expected - (size * 1e-5), expected + (size * 1e-5));
            }
        }
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(4, false)]
    [InlineData(4, true)]
    public void Ldmatrix_GivesRowsOrColumns(int count, bool transposed)
    {
        string registers = string.Join(", ", Enumerable.Range(101, count).Select(i => $"%r{i}"));
        uint[] words = [.. Enumerable.Range(0, 32).Select(i => (uint)i)];
        uint[][] results = Machine.Words($$"""
            .shared .align 16 .b8 s[512];
            mov.u32 %r10, s; shl.b32 %r11, %tx, 4; add.u32 %r10, %r10, %r11;
            shl.b32 %r12, %tx, 3;
            mov.u32 %r13, 0;
            LOOP: shl.b32 %r14, %r13, 1; add.u32 %r15, %r10, %r14; add.u32 %r16, %r12, %r13; st.shared.u16 [%r15], %r16;
            add.u32 %r13, %r13, 1; setp.lt.u32 %p1, %r13, 8; @%p1 bra LOOP;
            ldmatrix.sync.aligned.m8n8.x{{count}}{{(transposed ? ".trans" : "")}}.shared.b16 { {{registers}} }, [%r10];
            """, [words], count);
        for (int j = 0; j < count; j++)
        {
            for (int lane = 0; lane < 32; lane++)
            {
                int line = lane / 4, at = lane % 4 * 2;
                uint Element(int row, int column) => (uint)((((8 * j) + row) * 8) + column);
                uint expected = transposed ? Element(at, line) | (Element(at + 1, line) << 16) : Element(line, at) | (Element(line, at + 1) << 16);
                Assert.Equal(expected, results[j][lane]);
            }
        }
    }

    /// <summary>stmatrix is ldmatrix the other way round, and movmatrix transposes.</summary>
    [Fact]
    public void Stmatrix_AndMovmatrix_InvertLdmatrix()
    {
        uint[] words = [.. Enumerable.Range(0, 32).Select(i => (uint)((2 * i) | (((2 * i) + 1) << 16)))];
        uint[][] results = Machine.Words("""
            .shared .align 16 .b8 s[128];
            mov.u32 %r10, s; and.b32 %r11, %tx, 7; shl.b32 %r11, %r11, 4; add.u32 %r10, %r10, %r11;
            stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r10], {%r1};
            bar.warp.sync -1;
            ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r101}, [%r10];
            movmatrix.sync.aligned.m8n8.trans.b16 %r102, %r101;
            """, [words], 2);
        Assert.Equal(words, results[1]);
        Assert.Equal((uint)(0 | (8 << 16)), results[0][0]);
    }

    /// <summary>Rows of 128 bytes: without the swizzle every row begins in the same bank.</summary>
    [Theory]
    [InlineData(false, 28)]
    [InlineData(true, 0)]
    public void BankConflicts_AreCounted(bool swizzled, long conflicts)
    {
        using Machine machine = new();
        machine.Launch(Machine.Text($"""
            .shared .align 128 .b8 s[4096];
            mov.u32 %r1, s; shl.b32 %r2, %tx, 7; add.u32 %r1, %r1, %r2;
            and.b32 %r3, %tx, 7; shl.b32 %r3, %r3, 4; {(swizzled ? "add.u32 %r1, %r1, %r3;" : "")}
            st.shared.v4.u32 [%r1], {"{%tx, %tx, %tx, %tx}"};
            ret;
            """, ""), 1, 32, 0);
        Assert.Equal(4, machine.Device.Statistics.SharedWavefronts);
        Assert.Equal(conflicts, machine.Device.Statistics.SharedBankConflicts);
    }

    private static uint Code(Random random, string type, out double value)
    {
        uint code = (uint)random.Next(256);
        switch (type)
        {
            case "s8":
                value = (sbyte)code;
                return code;
            case "u8":
                value = code;
                return code;
            case "e4m3" or "e5m2":
                code &= 0xbf;
                value = (type == "e4m3" ? Float8.E4M3 : Float8.E5M2).Values[(int)code];
                return code;
            case "f16":
                value = (double)(Half)((random.NextDouble() - 0.5) * 8);
                return BitConverter.HalfToUInt16Bits((Half)value);
            default:
                uint bits = BitConverter.SingleToUInt32Bits((float)((random.NextDouble() - 0.5) * 8)) >> 16;
                value = BitConverter.UInt32BitsToSingle(bits << 16);
                return bits;
        }
    }
}
