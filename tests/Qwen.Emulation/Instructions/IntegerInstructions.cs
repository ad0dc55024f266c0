using System.Numerics;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>Integer arithmetic, shifts and bit fields (PTX ISA, "Integer Arithmetic Instructions", "Logic and Shift Instructions").</summary>
internal static class IntegerInstructions
{
    public static Instruction Add(Decoder d, PtxType type) => Binary(d, type, (a, b, _) => a + b, (a, b, _) => a + b, (a, b) => unchecked(a + b));

    public static Instruction Subtract(Decoder d, PtxType type) => Binary(d, type, (a, b, _) => a - b, (a, b, _) => a - b, (a, b) => unchecked(a - b));

    public static Instruction Minimum(Decoder d, PtxType type) => type.IsSigned
        ? Binary(d, type, (a, b, _) => Vector512.Min(a.AsInt32(), b.AsInt32()).AsUInt32(), (a, b, _) => Vector512.Min(a.AsInt64(), b.AsInt64()).AsUInt64(), Math.Min)
        : Binary(d, type, (a, b, _) => Vector512.Min(a, b), (a, b, _) => Vector512.Min(a, b), (a, b) => (long)Math.Min((ulong)a, (ulong)b));

    public static Instruction Maximum(Decoder d, PtxType type) => type.IsSigned
        ? Binary(d, type, (a, b, _) => Vector512.Max(a.AsInt32(), b.AsInt32()).AsUInt32(), (a, b, _) => Vector512.Max(a.AsInt64(), b.AsInt64()).AsUInt64(), Math.Max)
        : Binary(d, type, (a, b, _) => Vector512.Max(a, b), (a, b, _) => Vector512.Max(a, b), (a, b) => (long)Math.Max((ulong)a, (ulong)b));

    public static Instruction Absolute(Decoder d, PtxType type) => Unary(d, type, (a, _, _) => Vector512.Abs(a.AsInt32()).AsUInt32(), a => a < 0 ? unchecked(-a) : a);

    public static Instruction Negate(Decoder d, PtxType type) => Unary(d, type, (a, _, _) => Vector512<uint>.Zero - a, a => unchecked(-a));

    public static Instruction Multiply(Decoder d, PtxType type)
    {
        string? part = d.TakeAny("lo", "hi", "wide");
        d.Expect(3);
        if (part == "wide")
            return Wide(d, type, (a, b, _) => a * b, (a, b, _) => unchecked(a * b), 3);
        if (part == "hi")
            return PerLaneOf(d, type, 2, (a, b, _, _) => High(a, b, type));
        return part == "lo" ? Binary(d, type, (a, b, _) => a * b, (a, b, _) => a * b, (a, b) => unchecked(a * b)) : throw d.Error("the product needs .lo, .hi or .wide.");
    }

    public static Instruction MultiplyAdd(Decoder d, PtxType type)
    {
        string? part = d.TakeAny("lo", "hi", "wide");
        d.Expect(4);
        if (part == "wide")
            return Wide(d, type, (a, b, c) => (a * b) + c, (a, b, c) => unchecked((a * b) + c), 4);
        if (part == "hi")
            return PerLaneOf(d, type, 3, (a, b, c, _) => unchecked(High(a, b, type) + c));
        if (part != "lo")
            throw d.Error("the product needs .lo, .hi or .wide.");
        return type.Bits switch
        {
            32 => new Elementwise<uint>(d.Write(0, type), d.Read(1, type), d.Read(2, type), d.Read(3, type), (a, b, c) => (a * b) + c),
            64 => new Elementwise<ulong>(d.Write(0, type), d.Read(1, type), d.Read(2, type), d.Read(3, type), (a, b, c) => (a * b) + c),
            _ => PerLaneOf(d, type, 3, (a, b, c, _) => unchecked((a * b) + c)),
        };
    }

    public static Instruction Divide(Decoder d)
    {
        // Division by zero has no defined result; all ones is what the machine gives.
        PtxType type = d.TakeType();
        return PerLaneOf(d, type, 2, (a, b, _, _) => b == 0 ? ulong.MaxValue
            : type.IsSigned ? (ulong)((long)b == -1 ? unchecked(-(long)a) : (long)a / (long)b) : a / b);
    }

    public static Instruction Remainder(Decoder d)
    {
        PtxType type = d.TakeType();
        return PerLaneOf(d, type, 2, (a, b, _, _) => b == 0 ? a : type.IsSigned ? (ulong)((long)b == -1 ? 0 : (long)a % (long)b) : a % b);
    }

    public static Instruction Sad(Decoder d)
    {
        PtxType type = d.TakeType();
        return PerLaneOf(d, type, 3, (a, b, c, _) => unchecked(c + (type.IsSigned ? (ulong)Math.Abs((long)a - (long)b) : a > b ? a - b : b - a)));
    }

    /// <summary><c>shl</c>, <c>shr</c>: counts beyond the width give zeros, or signs.</summary>
    public static Instruction Shift(Decoder d, bool left)
    {
        PtxType type = d.TakeType();
        d.Expect(3);
        Target to = d.Write(0, type);
        Source a = d.Read(1, type);
        Source by = d.Read(2, PtxType.B32);
        if (type.Bits != 32)
        {
            return new PerLane(to, [a, by], (x, n, _, _) => left ? (n > 63 ? 0 : x << (int)n)
                : type.IsSigned ? (ulong)(Signed(x, type.Bits) >> (int)Math.Min(n, 63)) : n > 63 ? 0 : x >> (int)n);
        }

        if (d.At(2) is NumberOperand number)
        {
            int count = (int)Math.Min(number.Bits, 32);
            if (type.IsSigned)
                count = Math.Min(count, 31);
            return new Elementwise<uint>(to, a, d.Layout.Zero, d.Layout.Zero, count == 32 ? (_, _, _) => Vector512<uint>.Zero
                : left ? (x, _, _) => Vector512.ShiftLeft(x, count)
                : type.IsSigned ? (x, _, _) => Vector512.ShiftRightArithmetic(x.AsInt32(), count).AsUInt32() : (x, _, _) => Vector512.ShiftRightLogical(x, count));
        }

        if (Avx512F.IsSupported)
        {
            return new Elementwise<uint>(to, a, by, d.Layout.Zero, left ? (x, n, _) => Avx512F.ShiftLeftLogicalVariable(x, n)
                : type.IsSigned ? (x, n, _) => Avx512F.ShiftRightArithmeticVariable(x.AsInt32(), n).AsUInt32() : (x, n, _) => Avx512F.ShiftRightLogicalVariable(x, n));
        }

        return new PerLane(to, [a, by], (x, n, _, _) => left ? (n > 31 ? 0 : x << (int)n)
            : type.IsSigned ? (ulong)((int)x >> (int)Math.Min(n, 31)) : n > 31 ? 0 : x >> (int)n);
    }

    public static Instruction FunnelShift(Decoder d)
    {
        bool left = d.TakeAny("l", "r") is { } side ? side == "l" : throw d.Error("a funnel shift goes .l or .r.");
        bool clamp = d.TakeAny("clamp", "wrap") is { } mode ? mode == "clamp" : throw d.Error("a funnel shift is .clamp or .wrap.");
        d.TakeType();
        d.Expect(4);
        return new PerLane(d.Write(0, PtxType.B32), [d.Read(1, PtxType.B32), d.Read(2, PtxType.B32), d.Read(3, PtxType.B32)], (a, b, c, _) =>
        {
            int n = (int)(clamp ? Math.Min(c, 32) : c & 31);
            ulong both = (b << 32) | a;
            return left ? (uint)(n == 32 ? a : both << n >> 32) : (uint)(n == 32 ? b : both >> n);
        });
    }

    public static Instruction ExtractField(Decoder d)
    {
        PtxType type = d.TakeType();
        d.Expect(4);
        return new PerLane(d.Write(0, type), [d.Read(1, type), d.Read(2, PtxType.B32), d.Read(3, PtxType.B32)], (a, b, c, _) =>
        {
            int from = (int)(b & 0xff), length = (int)(c & 0xff), top = type.Bits - 1;
            bool sign = type.IsSigned && length > 0 && (a >> Math.Min(from + length - 1, top) & 1) != 0;
            ulong result = sign ? ulong.MaxValue : 0;
            for (int i = 0; i < type.Bits; i++)
            {
                if (i < length && from + i <= top)
                    result = (result & ~(1UL << i)) | ((a >> (from + i) & 1) << i);
            }

            return result;
        });
    }

    public static Instruction InsertField(Decoder d)
    {
        PtxType type = d.TakeType();
        d.Expect(5);
        return new PerLane(d.Write(0, type), [d.Read(1, type), d.Read(2, type), d.Read(3, PtxType.B32), d.Read(4, PtxType.B32)], (a, b, c, length) =>
        {
            int from = (int)(c & 0xff), count = Math.Min((int)(length & 0xff), type.Bits - from);
            ulong mask = count <= 0 ? 0 : (count == 64 ? ulong.MaxValue : (1UL << count) - 1) << from;
            return count <= 0 ? b : (b & ~mask) | (a << from & mask);
        });
    }

    public static Instruction Bits(Decoder d, Func<ulong, PtxType, ulong> op, bool narrow)
    {
        PtxType type = d.TakeType();
        d.Expect(2);
        return new PerLane(d.Write(0, narrow ? PtxType.B32 : type), [d.Read(1, type)], (a, _, _, _) => op(a, type));
    }

    public static ulong FindHighest(ulong a, PtxType type, bool shiftAmount)
    {
        long value = Signed(a, type.Bits);
        ulong bits = type.IsSigned && value < 0 ? (ulong)~value & Mask(type.Bits) : a;
        return bits == 0 ? 0xffffffff : shiftAmount ? (ulong)(type.Bits - 1 - BitOperations.Log2(bits)) : (ulong)BitOperations.Log2(bits);
    }

    public static ulong Reverse(ulong a, PtxType type)
    {
        ulong result = 0;
        for (int i = 0; i < type.Bits; i++)
            result |= (a >> i & 1) << (type.Bits - 1 - i);
        return result;
    }

    public static Instruction DotProduct4(Decoder d)
    {
        PtxType[] types = d.TakeTypes();
        d.Expect(4);
        if (types.Length != 2)
            throw d.Error("the instruction needs two types.");
        return new PerLane(d.Write(0, PtxType.B32), [d.Read(1, PtxType.B32), d.Read(2, PtxType.B32), d.Read(3, PtxType.B32)], (a, b, c, _) =>
        {
            long sum = (int)c;
            for (int i = 0; i < 32; i += 8)
                sum += Byte(a >> i, types[0]) * Byte(b >> i, types[1]);
            return unchecked((uint)sum);
        });

        static long Byte(ulong value, PtxType type) => type.IsSigned ? (sbyte)value : (byte)value;
    }

    /// <summary><c>prmt</c>: any four of eight bytes. A nibble of the selector names a byte; its top bit repeats the byte's sign instead.</summary>
    public static Instruction Permute(Decoder d)
    {
        d.Take("b32");
        d.Expect(4);
        Target to = d.Write(0, PtxType.B32);
        Source a = d.Read(1, PtxType.B32), b = d.Read(2, PtxType.B32);
        if (d.At(3) is NumberOperand { Float: null } number && (number.Bits & 0x8888) == 0)
        {
            int selector = (int)number.Bits;
            return new Elementwise<uint>(to, a, b, d.Layout.Zero, (x, y, _) =>
            {
                Vector512<uint> result = Vector512<uint>.Zero;
                for (int i = 0; i < 4; i++)
                {
                    int from = selector >> (4 * i) & 7;
                    Vector512<uint> value = Vector512.ShiftRightLogical(from < 4 ? x : y, 8 * (from & 3)) & Vector512.Create(0xffu);
                    result |= Vector512.ShiftLeft(value, 8 * i);
                }

                return result;
            });
        }

        return new PerLane(to, [a, b, d.Read(3, PtxType.B32)], (x, y, s, _) =>
        {
            ulong both = x | (y << 32), result = 0;
            for (int i = 0; i < 4; i++)
            {
                ulong choice = s >> (4 * i) & 15, value = both >> (int)(8 * (choice & 7)) & 0xff;
                if ((choice & 8) != 0)
                    value = (value & 0x80) != 0 ? 0xffu : 0;
                result |= value << (8 * i);
            }

            return result;
        });
    }

    /// <summary><c>lop3</c>: any logic of three operands, by its truth table.</summary>
    public static Instruction Logic3(Decoder d)
    {
        d.Take("b32");
        d.Expect(5);
        int table = d.Number(4) is <= 255 and var found ? (int)found : throw d.Error("the table has 8 bits.");
        return new Elementwise<uint>(d.Write(0, PtxType.B32), d.Read(1, PtxType.B32), d.Read(2, PtxType.B32), d.Read(3, PtxType.B32), table switch
        {
            0xea => (a, b, c) => (a & b) | c,
            0x6a => (a, b, c) => (a & b) ^ c,
            0x96 => (a, b, c) => a ^ b ^ c,
            0xf8 => (a, b, c) => a | (b & c),
            0xfe => (a, b, c) => a | b | c,
            0x80 => (a, b, c) => a & b & c,
            _ => (a, b, c) =>
            {
                Vector512<uint> result = Vector512<uint>.Zero;
                for (int i = 0; i < 8; i++)
                {
                    if ((table >> i & 1) != 0)
                        result |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
                }

                return result;
            },
        });
    }

    public static Instruction Logic(Decoder d, VectorOp<uint> op, LaneOp lane, Func<uint, uint, uint> predicates)
    {
        PtxType type = d.TakeType();
        if (type.Kind == TypeKind.Predicate)
        {
            d.Expect(3);
            return new PredicateLogic(d.WritePredicate(d.At(0)), d.ReadPredicate(1), d.ReadPredicate(2), predicates);
        }

        d.Expect(3);
        return type.Bits == 32
            ? new Elementwise<uint>(d.Write(0, type), d.Read(1, type), d.Read(2, type), d.Layout.Zero, op)
            : new PerLane(d.Write(0, type), [d.Read(1, type), d.Read(2, type)], lane);
    }

    public static Instruction Not(Decoder d)
    {
        PtxType type = d.TakeType();
        d.Expect(2);
        if (type.Kind == TypeKind.Predicate)
            return new PredicateLogic(d.WritePredicate(d.At(0)), d.ReadPredicate(1), new(-1, false), (a, _) => ~a);
        return type.Bits == 32
            ? new Elementwise<uint>(d.Write(0, type), d.Read(1, type), d.Layout.Zero, d.Layout.Zero, (a, _, _) => ~a)
            : new PerLane(d.Write(0, type), [d.Read(1, type)], (a, _, _, _) => ~a);
    }

    public static long Signed(ulong value, int bits) => bits == 64 ? (long)value : unchecked((long)(value << (64 - bits)) >> (64 - bits));

    public static ulong Mask(int bits) => bits == 64 ? ulong.MaxValue : (1UL << bits) - 1;

    private static ulong High(ulong a, ulong b, PtxType type)
    {
        if (type.Bits == 64)
            return type.IsSigned ? (ulong)Math.BigMul((long)a, (long)b, out _) : Math.BigMul(a, b, out _);
        return type.IsSigned ? (ulong)((long)a * (long)b >> type.Bits) : a * b >> type.Bits;
    }

    /// <summary>Lane by lane, with sources sign-extended where the type is signed.</summary>
    private static PerLane PerLaneOf(Decoder d, PtxType type, int sources, LaneOp op)
    {
        d.Expect(sources + 1);
        Source[] from = [.. Enumerable.Range(1, sources).Select(i => d.Read(i, type))];
        ulong Extend(ulong value) => type.IsSigned ? (ulong)Signed(value, type.Bits) : value;
        return new(d.Write(0, type), from, (a, b, c, e) => op(Extend(a), Extend(b), Extend(c), e));
    }

    private static Instruction Binary(Decoder d, PtxType type, VectorOp<uint> words, VectorOp<ulong> longs, Func<long, long, long> lane)
    {
        d.Expect(3);
        return type.Bits switch
        {
            32 => new Elementwise<uint>(d.Write(0, type), d.Read(1, type), d.Read(2, type), d.Layout.Zero, words),
            64 => new Elementwise<ulong>(d.Write(0, type), d.Read(1, type), d.Read(2, type), d.Layout.Zero, longs),
            _ => PerLaneOf(d, type, 2, (a, b, _, _) => (ulong)lane((long)a, (long)b)),
        };
    }

    private static Instruction Unary(Decoder d, PtxType type, VectorOp<uint> words, Func<long, long> lane)
    {
        d.Expect(2);
        return type.Bits == 32
            ? new Elementwise<uint>(d.Write(0, type), d.Read(1, type), d.Layout.Zero, d.Layout.Zero, words)
            : PerLaneOf(d, type, 1, (a, _, _, _) => (ulong)lane((long)a));
    }

    private static Instruction Wide(Decoder d, PtxType type, VectorOp<ulong> op, Func<ulong, ulong, ulong, ulong> lane, int operands)
    {
        PtxType wide = type.Bits switch
        {
            32 => new(type.Kind, 64, (type.IsSigned ? "s" : "u") + "64"),
            16 => new(type.Kind, 32, (type.IsSigned ? "s" : "u") + "32"),
            _ => throw d.Error("a wide product is of 16-bit or 32-bit numbers."),
        };
        Source c = operands == 4 ? d.Read(3, wide) : d.Layout.Zero;
        if (type.Bits == 32)
            return new Widening(d.Write(0, wide), d.Read(1, type), d.Read(2, type), c, type.IsSigned, op);
        ulong Extend(ulong value) => type.IsSigned ? (ulong)Signed(value, 16) : value;
        return new PerLane(d.Write(0, wide), [d.Read(1, type), d.Read(2, type), c], (x, y, z, _) => lane(Extend(x), Extend(y), z));
    }
}
