using System.Numerics;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Integer instructions against C#, over random words and edges.</summary>
public sealed class IntegerInstructionTests
{
    private static readonly uint[] _edges = [0, 1, 2, 31, 32, 33, 0x7fffffff, 0x80000000, 0x80000001, 0xffffffff, 0xffff, 0x8000, 0x80, 0xff];

    private static readonly Dictionary<string, Func<uint, uint, uint, uint>> _operations = new()
    {
        ["add.u32 %r101, %r1, %r2;"] = (a, b, _) => a + b,
        ["sub.s32 %r101, %r1, %r2;"] = (a, b, _) => a - b,
        ["mul.lo.u32 %r101, %r1, %r2;"] = (a, b, _) => a * b,
        ["mul.hi.u32 %r101, %r1, %r2;"] = (a, b, _) => (uint)((ulong)a * b >> 32),
        ["mul.hi.s32 %r101, %r1, %r2;"] = (a, b, _) => (uint)((long)(int)a * (int)b >> 32),
        ["mad.lo.s32 %r101, %r1, %r2, %r3;"] = (a, b, c) => (a * b) + c,
        ["mad.hi.u32 %r101, %r1, %r2, %r3;"] = (a, b, c) => (uint)((ulong)a * b >> 32) + c,
        ["mul.wide.u32 %rd9, %r1, %r2; shr.u64 %rd9, %rd9, 17; cvt.u32.u64 %r101, %rd9;"] = (a, b, _) => (uint)((ulong)a * b >> 17),
        ["mul.wide.s32 %rd9, %r1, %r2; shr.s64 %rd9, %rd9, 40; cvt.u32.u64 %r101, %rd9;"] = (a, b, _) => (uint)((long)(int)a * (int)b >> 40),
        ["cvt.u64.u32 %rd8, %r3; mad.wide.u32 %rd9, %r1, %r2, %rd8; shr.u64 %rd9, %rd9, 13; cvt.u32.u64 %r101, %rd9;"] = (a, b, c) => (uint)((((ulong)a * b) + c) >> 13),
        ["div.u32 %r101, %r1, %r2;"] = (a, b, _) => b == 0 ? uint.MaxValue : a / b,
        ["div.s32 %r101, %r1, %r2;"] = (a, b, _) => b == 0 ? uint.MaxValue : b == uint.MaxValue ? 0 - a : (uint)((int)a / (int)b),
        ["rem.u32 %r101, %r1, %r2;"] = (a, b, _) => b == 0 ? a : a % b,
        ["rem.s32 %r101, %r1, %r2;"] = (a, b, _) => b == 0 ? a : b == uint.MaxValue ? 0 : (uint)((int)a % (int)b),
        ["sad.u32 %r101, %r1, %r2, %r3;"] = (a, b, c) => c + (a > b ? a - b : b - a),
        ["min.s32 %r101, %r1, %r2;"] = (a, b, _) => (uint)Math.Min((int)a, (int)b),
        ["max.u32 %r101, %r1, %r2;"] = (a, b, _) => Math.Max(a, b),
        ["abs.s32 %r101, %r1;"] = (a, _, _) => (int)a < 0 ? 0 - a : a,
        ["neg.s32 %r101, %r1;"] = (a, _, _) => 0 - a,
        ["shl.b32 %r101, %r1, %r2;"] = (a, b, _) => b > 31 ? 0 : a << (int)b,
        ["shr.u32 %r101, %r1, %r2;"] = (a, b, _) => b > 31 ? 0 : a >> (int)b,
        ["shr.s32 %r101, %r1, %r2;"] = (a, b, _) => (uint)((int)a >> (int)Math.Min(b, 31)),
        ["shl.b32 %r101, %r1, 32;"] = (_, _, _) => 0,
        ["shr.s32 %r101, %r1, 40;"] = (a, _, _) => (uint)((int)a >> 31),
        ["shf.l.wrap.b32 %r101, %r1, %r2, %r3;"] = (a, b, c) => (uint)((((ulong)b << 32) | a) << (int)(c & 31) >> 32),
        ["shf.r.clamp.b32 %r101, %r1, %r2, %r3;"] = (a, b, c) => c >= 32 ? b : (uint)((((ulong)b << 32) | a) >> (int)c),
        ["and.b32 %r101, %r1, %r2;"] = (a, b, _) => a & b,
        ["or.b32 %r101, %r1, %r2;"] = (a, b, _) => a | b,
        ["xor.b32 %r101, %r1, %r2;"] = (a, b, _) => a ^ b,
        ["not.b32 %r101, %r1;"] = (a, _, _) => ~a,
        ["popc.b32 %r101, %r1;"] = (a, _, _) => (uint)BitOperations.PopCount(a),
        ["clz.b32 %r101, %r1;"] = (a, _, _) => (uint)BitOperations.LeadingZeroCount(a),
        ["brev.b32 %r101, %r1;"] = (a, _, _) => Convert.ToUInt32(new string([.. Convert.ToString(a, 2).PadLeft(32, '0').Reverse()]), 2),
        ["bfind.u32 %r101, %r1;"] = (a, _, _) => a == 0 ? uint.MaxValue : (uint)BitOperations.Log2(a),
        ["bfind.shiftamt.s32 %r101, %r1;"] = (a, _, _) => ((int)a < 0 ? ~a : a) is var v && v == 0 ? uint.MaxValue : 31 - (uint)BitOperations.Log2(v),
        ["and.b32 %r4, %r2, 31; and.b32 %r5, %r3, 31; bfe.u32 %r101, %r1, %r4, %r5;"] = (a, b, c) => (uint)((a >> (int)(b & 31)) & ((1UL << (int)(c & 31)) - 1)),
        ["bfe.s32 %r101, %r1, 4, 8;"] = (a, _, _) => (uint)(sbyte)(a >> 4),
        ["bfi.b32 %r101, %r1, %r2, 5, 9;"] = (a, b, _) => (b & ~(0x1ffu << 5)) | ((a & 0x1ff) << 5),
        ["lop3.b32 %r101, %r1, %r2, %r3, 0xea;"] = (a, b, c) => (a & b) | c,
        ["lop3.b32 %r101, %r1, %r2, %r3, 0x96;"] = (a, b, c) => a ^ b ^ c,
        ["lop3.b32 %r101, %r1, %r2, %r3, 0xe8;"] = (a, b, c) => (a & b) | (a & c) | (b & c),
        ["lop3.b32 %r101, %r1, %r2, %r3, 0x2c;"] = (a, b, c) => (~a & b) | (a & ~b & c & 0) | (a & ~b & c),
        ["prmt.b32 %r101, %r1, %r2, 0x5140;"] = (a, b, _) => (a & 0xff) | ((b & 0xff) << 8) | ((a & 0xff00) << 8) | ((b & 0xff00) << 16),
        ["prmt.b32 %r101, %r1, %r2, 0x9ba8;"] = (a, _, _) => (uint)((Sign(a, 0) & 0xff) | (Sign(a, 2) & 0xff00) | (Sign(a, 3) & 0xff0000) | (Sign(a, 1) & 0xff000000)),
        ["dp4a.s32.s32 %r101, %r1, %r2, %r3;"] = (a, b, c) => c + (uint)Enumerable.Range(0, 4).Sum(i => (sbyte)(a >> (8 * i)) * (sbyte)(b >> (8 * i))),
        ["dp4a.u32.s32 %r101, %r1, %r2, %r3;"] = (a, b, c) => c + (uint)Enumerable.Range(0, 4).Sum(i => (byte)(a >> (8 * i)) * (sbyte)(b >> (8 * i))),
        ["setp.lt.s32 %p1, %r1, %r2; selp.u32 %r101, %r2, %r3, %p1;"] = (a, b, c) => (int)a < (int)b ? b : c,
        ["setp.hs.u32 %p1|%p2, %r1, %r2; selp.u32 %r4, 1, 0, %p1; selp.u32 %r5, 2, 0, %p2; or.b32 %r101, %r4, %r5;"] = (a, b, _) => a >= b ? 1u : 2u,
        ["setp.ne.u32 %p3, %r3, 0; setp.eq.and.u32 %p1, %r1, %r2, !%p3; selp.u32 %r101, 1, 0, %p1;"] = (a, b, c) => a == b && c == 0 ? 1u : 0,
        ["slct.u32.s32 %r101, %r1, %r2, %r3;"] = (a, b, c) => (int)c >= 0 ? a : b,
        ["add.cc.u32 %r4, %r1, %r2; addc.u32 %r101, %r3, 0;"] = (a, b, c) => c + (uint)(((ulong)a + b) >> 32),
        ["sub.cc.u32 %r4, %r1, %r2; subc.u32 %r101, %r3, 5;"] = (a, b, c) => c - 5 - (a < b ? 1u : 0),
        ["cvt.u16.u32 %h1, %r1; cvt.s16.s32 %h2, %r2; max.s16 %h3, %h1, %h2; cvt.s32.s16 %r101, %h3;"] = (a, b, _) => (uint)Math.Max((short)a, (short)b),
        ["cvt.u16.u32 %h1, %r1; cvt.u16.u32 %h2, %r2; mul.wide.u16 %r101, %h1, %h2;"] = (a, b, _) => (uint)(ushort)a * (ushort)b,
        ["cvt.s32.s8 %r101, %r1;"] = (a, _, _) => (uint)(sbyte)a,
        ["cvt.sat.s8.s32 %r101, %r1;"] = (a, _, _) => (uint)Math.Clamp((int)a, -128, 127),
        ["cvt.sat.u8.s32 %r101, %r1;"] = (a, _, _) => (uint)Math.Clamp((int)a, 0, 255),
        ["mov.b64 %rd9, {%r1, %r2}; shl.b64 %rd9, %rd9, 7; mov.b64 {%r4, %r101}, %rd9;"] = (a, b, _) => (b << 7) | (a >> 25),
        ["mov.b32 {%h1, %h2}, %r1; mov.b32 %r101, {%h2, %h1};"] = (a, _, _) => (a << 16) | (a >> 16),
        ["redux.sync.add.s32 %r101, %tx, -1;"] = (_, _, _) => 496,
    };

    public static TheoryData<string> Bodies => [.. _operations.Keys];

    [Theory]
    [MemberData(nameof(Bodies))]
    public void Instruction_ComputesWhatItsDefinitionSays(string body)
    {
        Random random = new(7);
        for (int round = 0; round < 4; round++)
        {
            uint[][] inputs = [.. Enumerable.Range(0, 3).Select(_ => Enumerable.Range(0, 32).Select(_ => Word(random)).ToArray())];
            uint[] results = Machine.Words(body, inputs)[0];
            for (int lane = 0; lane < 32; lane++)
            {
                uint expected = unchecked(_operations[body](inputs[0][lane], inputs[1][lane], inputs[2][lane]));
                Assert.True(expected == results[lane], $"{body}: 0x{inputs[0][lane]:x}, 0x{inputs[1][lane]:x}, 0x{inputs[2][lane]:x} gave 0x{results[lane]:x} instead of 0x{expected:x}");
            }
        }
    }

    private static uint Word(Random random) => random.Next(3) switch
    {
        0 => _edges[random.Next(_edges.Length)],
        1 => (uint)random.Next(64),
        _ => (uint)random.NextInt64(1L << 32),
    };

    private static uint Sign(uint a, int at) => (a >> (8 * at) & 0x80) != 0 ? uint.MaxValue : 0;
}
