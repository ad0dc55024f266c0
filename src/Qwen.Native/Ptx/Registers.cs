#pragma warning disable CA2225 // operators read as the arithmetic they emit; named twins would be noise

using System.Numerics;
using Qwen.Native.Device;

namespace Qwen.Native.Ptx;

/// <summary>A predicate.</summary>
/// <param name="Operand">Its name.</param>
public readonly record struct Pred(Operand Operand) : IRegister<Pred>
{
    /// <inheritdoc/>
    public static string Type => "pred";

    /// <inheritdoc/>
    public static int Bytes => 0;

    /// <inheritdoc/>
    public static string Prefix => "%p";

    /// <inheritdoc/>
    public static Pred From(Operand operand) => new(operand);

    /// <summary>Both.</summary>
    public static Pred operator &(Pred a, Pred b) => PtxBuilder.Emit<Pred>("and.pred", a.Operand, b.Operand);

    /// <summary>Either.</summary>
    public static Pred operator |(Pred a, Pred b) => PtxBuilder.Emit<Pred>("or.pred", a.Operand, b.Operand);

    /// <summary>One of the two.</summary>
    public static Pred operator ^(Pred a, Pred b) => PtxBuilder.Emit<Pred>("xor.pred", a.Operand, b.Operand);

    /// <summary>Not.</summary>
    public static Pred operator !(Pred a) => PtxBuilder.Emit<Pred>("not.pred", a.Operand);
}

/// <summary>Sixteen bits.</summary>
/// <param name="Operand">Its name.</param>
public readonly record struct B16(Operand Operand) : IRegister<B16>
{
    /// <inheritdoc/>
    public static string Type => "b16";

    /// <inheritdoc/>
    public static int Bytes => 2;

    /// <inheritdoc/>
    public static string Prefix => "%h";

    /// <inheritdoc/>
    public static B16 From(Operand operand) => new(operand);

    /// <summary>A constant.</summary>
    public static implicit operator B16(ushort value) => new(Operand.Constant((uint)value));
}

/// <summary>An unsigned number of 32 bits; also any 32 bits.</summary>
/// <param name="Operand">Its name, or a constant.</param>
public readonly record struct U32(Operand Operand) : IRegister<U32>
{
    /// <inheritdoc/>
    public static string Type => "b32";

    /// <inheritdoc/>
    public static int Bytes => 4;

    /// <inheritdoc/>
    public static string Prefix => "%r";

    /// <inheritdoc/>
    public static U32 From(Operand operand) => new(operand);

    /// <summary>The same bits as a signed number: free.</summary>
    public S32 AsS32 => new(Operand);

    /// <summary>The same bits as two 16-bit floats: free.</summary>
    public Half2 AsHalf2(ElementType kind) => new(Operand, kind);

    /// <summary>A constant.</summary>
    public static implicit operator U32(uint value) => new(Operand.Constant(value));

    /// <summary>A constant.</summary>
    public static implicit operator U32(int value) => new(Operand.Constant(unchecked((uint)value)));

    /// <summary>Sum.</summary>
    public static U32 operator +(U32 a, U32 b) =>
        a.IsConstant(0) ? b : b.IsConstant(0) ? a : Both(a, b) ? (uint)(a.Operand.Bits + b.Operand.Bits) : PtxBuilder.Emit<U32>("add.u32", a.Operand, b.Operand);

    /// <summary>Difference.</summary>
    public static U32 operator -(U32 a, U32 b) =>
        b.IsConstant(0) ? a : Both(a, b) ? unchecked((uint)(a.Operand.Bits - b.Operand.Bits)) : PtxBuilder.Emit<U32>("sub.u32", a.Operand, b.Operand);

    /// <summary>Product, low half. A power of two becomes a shift.</summary>
    public static U32 operator *(U32 a, U32 b)
    {
        if (Both(a, b))
            return unchecked((uint)(a.Operand.Bits * b.Operand.Bits));
        if (a.Operand.IsConstant)
            (a, b) = (b, a);
        if (b.IsConstant(1))
            return a;
        return b.Shift is { } shift ? a << shift : PtxBuilder.Emit<U32>("mul.lo.u32", a.Operand, b.Operand);
    }

    /// <summary>Quotient. By a power of two it is a shift.</summary>
    public static U32 operator /(U32 a, U32 b) =>
        Both(a, b) ? (uint)(a.Operand.Bits / b.Operand.Bits) : b.Shift is { } shift ? a >> shift : PtxBuilder.Emit<U32>("div.u32", a.Operand, b.Operand);

    /// <summary>Remainder. By a power of two it is a mask.</summary>
    public static U32 operator %(U32 a, U32 b) =>
        Both(a, b) ? (uint)(a.Operand.Bits % b.Operand.Bits) : b.Shift is not null ? a & (uint)(b.Operand.Bits - 1) : PtxBuilder.Emit<U32>("rem.u32", a.Operand, b.Operand);

    /// <summary>Shift to the left.</summary>
    public static U32 operator <<(U32 a, int bits) => bits == 0 ? a : PtxBuilder.Emit<U32>("shl.b32", a.Operand, Operand.Constant(bits));

    /// <summary>Shift to the right, zeros in.</summary>
    public static U32 operator >>(U32 a, int bits) => bits == 0 ? a : a.Operand.IsConstant ? (uint)a.Operand.Bits >> bits : PtxBuilder.Emit<U32>("shr.u32", a.Operand, Operand.Constant(bits));

    /// <summary>Shift to the left.</summary>
    public static U32 operator <<(U32 a, U32 bits) => PtxBuilder.Emit<U32>("shl.b32", a.Operand, bits.Operand);

    /// <summary>Shift to the right, zeros in.</summary>
    public static U32 operator >>(U32 a, U32 bits) => PtxBuilder.Emit<U32>("shr.u32", a.Operand, bits.Operand);

    /// <summary>And.</summary>
    public static U32 operator &(U32 a, U32 b) => PtxBuilder.Emit<U32>("and.b32", a.Operand, b.Operand);

    /// <summary>Or.</summary>
    public static U32 operator |(U32 a, U32 b) => PtxBuilder.Emit<U32>("or.b32", a.Operand, b.Operand);

    /// <summary>Exclusive or.</summary>
    public static U32 operator ^(U32 a, U32 b) => PtxBuilder.Emit<U32>("xor.b32", a.Operand, b.Operand);

    /// <summary>Not.</summary>
    public static U32 operator ~(U32 a) => PtxBuilder.Emit<U32>("not.b32", a.Operand);

    /// <summary>Less, unsigned.</summary>
    public static Pred operator <(U32 a, U32 b) => PtxBuilder.Emit<Pred>("setp.lt.u32", a.Operand, b.Operand);

    /// <summary>Greater, unsigned.</summary>
    public static Pred operator >(U32 a, U32 b) => PtxBuilder.Emit<Pred>("setp.gt.u32", a.Operand, b.Operand);

    /// <summary>Less or equal, unsigned.</summary>
    public static Pred operator <=(U32 a, U32 b) => PtxBuilder.Emit<Pred>("setp.le.u32", a.Operand, b.Operand);

    /// <summary>Greater or equal, unsigned.</summary>
    public static Pred operator >=(U32 a, U32 b) => PtxBuilder.Emit<Pred>("setp.ge.u32", a.Operand, b.Operand);

    /// <summary>Equal. (The operator == compares the names of registers, as records do.)</summary>
    public Pred Is(U32 other) => PtxBuilder.Emit<Pred>("setp.eq.u32", Operand, other.Operand);

    /// <summary>Not equal.</summary>
    public Pred IsNot(U32 other) => PtxBuilder.Emit<Pred>("setp.ne.u32", Operand, other.Operand);

    private bool IsConstant(uint value) => Operand.IsConstant && Operand.Bits == value;

    private int? Shift => Operand.IsConstant && BitOperations.IsPow2(Operand.Bits) ? BitOperations.TrailingZeroCount(Operand.Bits) : null;

    private static bool Both(U32 a, U32 b) => a.Operand.IsConstant && b.Operand.IsConstant;
}

/// <summary>A signed number of 32 bits.</summary>
/// <param name="Operand">Its name, or a constant.</param>
public readonly record struct S32(Operand Operand) : IRegister<S32>
{
    /// <inheritdoc/>
    public static string Type => "s32";

    /// <inheritdoc/>
    public static int Bytes => 4;

    /// <inheritdoc/>
    public static string Prefix => "%r";

    /// <inheritdoc/>
    public static S32 From(Operand operand) => new(operand);

    /// <summary>The same bits as an unsigned number: free.</summary>
    public U32 AsU32 => new(Operand);

    /// <summary>A constant.</summary>
    public static implicit operator S32(int value) => new(Operand.Constant(value));

    /// <summary>Sum.</summary>
    public static S32 operator +(S32 a, S32 b) => PtxBuilder.Emit<S32>("add.s32", a.Operand, b.Operand);

    /// <summary>Difference.</summary>
    public static S32 operator -(S32 a, S32 b) => PtxBuilder.Emit<S32>("sub.s32", a.Operand, b.Operand);

    /// <summary>Product, low half.</summary>
    public static S32 operator *(S32 a, S32 b) => PtxBuilder.Emit<S32>("mul.lo.s32", a.Operand, b.Operand);

    /// <summary>Shift to the right, the sign in.</summary>
    public static S32 operator >>(S32 a, int bits) => PtxBuilder.Emit<S32>("shr.s32", a.Operand, Operand.Constant(bits));

    /// <summary>Less.</summary>
    public static Pred operator <(S32 a, S32 b) => PtxBuilder.Emit<Pred>("setp.lt.s32", a.Operand, b.Operand);

    /// <summary>Greater.</summary>
    public static Pred operator >(S32 a, S32 b) => PtxBuilder.Emit<Pred>("setp.gt.s32", a.Operand, b.Operand);

    /// <summary>Less or equal.</summary>
    public static Pred operator <=(S32 a, S32 b) => PtxBuilder.Emit<Pred>("setp.le.s32", a.Operand, b.Operand);

    /// <summary>Greater or equal.</summary>
    public static Pred operator >=(S32 a, S32 b) => PtxBuilder.Emit<Pred>("setp.ge.s32", a.Operand, b.Operand);
}

/// <summary>A float.</summary>
/// <param name="Operand">Its name, or a constant.</param>
public readonly record struct F32(Operand Operand) : IRegister<F32>
{
    /// <inheritdoc/>
    public static string Type => "f32";

    /// <inheritdoc/>
    public static int Bytes => 4;

    /// <inheritdoc/>
    public static string Prefix => "%f";

    /// <inheritdoc/>
    public static F32 From(Operand operand) => new(operand);

    /// <summary>Its bits.</summary>
    public U32 AsU32 => PtxBuilder.Emit<U32>("mov.b32", Operand);

    /// <summary>A constant.</summary>
    public static implicit operator F32(float value) => new(Operand.Constant(value));

    /// <summary>Sum.</summary>
    public static F32 operator +(F32 a, F32 b) => PtxBuilder.Emit<F32>("add.rn.f32", a.Operand, b.Operand);

    /// <summary>Difference.</summary>
    public static F32 operator -(F32 a, F32 b) => PtxBuilder.Emit<F32>("sub.rn.f32", a.Operand, b.Operand);

    /// <summary>Product.</summary>
    public static F32 operator *(F32 a, F32 b) => PtxBuilder.Emit<F32>("mul.rn.f32", a.Operand, b.Operand);

    /// <summary>Negated.</summary>
    public static F32 operator -(F32 a) => PtxBuilder.Emit<F32>("neg.f32", a.Operand);

    /// <summary>Less.</summary>
    public static Pred operator <(F32 a, F32 b) => PtxBuilder.Emit<Pred>("setp.lt.f32", a.Operand, b.Operand);

    /// <summary>Greater.</summary>
    public static Pred operator >(F32 a, F32 b) => PtxBuilder.Emit<Pred>("setp.gt.f32", a.Operand, b.Operand);

    /// <summary>Less or equal.</summary>
    public static Pred operator <=(F32 a, F32 b) => PtxBuilder.Emit<Pred>("setp.le.f32", a.Operand, b.Operand);

    /// <summary>Greater or equal.</summary>
    public static Pred operator >=(F32 a, F32 b) => PtxBuilder.Emit<Pred>("setp.ge.f32", a.Operand, b.Operand);

    /// <summary>Equal.</summary>
    public Pred Is(F32 other) => PtxBuilder.Emit<Pred>("setp.eq.f32", Operand, other.Operand);

    /// <summary>Not a number.</summary>
    public Pred IsNaN => PtxBuilder.Emit<Pred>("setp.nan.f32", Operand, Operand);
}

/// <summary>Two 16-bit floats, the first in the low half.</summary>
/// <param name="Operand">Its name.</param>
/// <param name="Kind">F16 or BF16.</param>
public readonly record struct Half2(Operand Operand, ElementType Kind)
{
    /// <summary>Its bits: free.</summary>
    public U32 AsU32 => new(Operand);

    /// <summary>Sum. Of BF16 it is a fused multiply-add, which sm_80 has, with the same result.</summary>
    public static Half2 operator +(Half2 a, Half2 b) => a.Kind == ElementType.F16 ? Emit("add.f16x2", a, b) : Fused(a, Twice(a, 0x3f80), b);

    /// <summary>Difference; of BF16 as the sum.</summary>
    public static Half2 operator -(Half2 a, Half2 b) => a.Kind == ElementType.F16 ? Emit("sub.f16x2", a, b) : Fused(b, Twice(a, 0xbf80), a);

    /// <summary>Product. Of BF16 it is a fused multiply-add of minus zero, which changes nothing.</summary>
    public static Half2 operator *(Half2 a, Half2 b) => a.Kind == ElementType.F16 ? Emit("mul.f16x2", a, b) : Fused(a, b, Twice(a, 0x8000));

    private static Half2 Emit(string operation, Half2 a, Half2 b) => new(PtxBuilder.Emit<U32>(operation, a.Operand, Same(a, b).Operand).Operand, a.Kind);

    private static Half2 Fused(Half2 a, Half2 b, Half2 c) => new(PtxBuilder.Emit<U32>("fma.rn.bf16x2", a.Operand, Same(a, b).Operand, Same(a, c).Operand).Operand, a.Kind);

    private static Half2 Twice(Half2 like, uint bits) => new(like.Operand.Builder!.Variable<U32>(bits | (bits << 16)).Operand, like.Kind); // fma takes no constant

    private static Half2 Same(Half2 a, Half2 b) => a.Kind == b.Kind ? b : throw new InvalidOperationException($"{a.Kind} meets {b.Kind}.");
}

/// <summary>An unsigned number of 64 bits; also any 64 bits.</summary>
/// <param name="Operand">Its name, or a constant.</param>
public readonly record struct U64(Operand Operand) : IRegister<U64>
{
    /// <inheritdoc/>
    public static string Type => "b64";

    /// <inheritdoc/>
    public static int Bytes => 8;

    /// <inheritdoc/>
    public static string Prefix => "%d";

    /// <inheritdoc/>
    public static U64 From(Operand operand) => new(operand);

    /// <summary>A constant.</summary>
    public static implicit operator U64(ulong value) => new(Operand.Constant(value));

    /// <summary>Sum.</summary>
    public static U64 operator +(U64 a, U64 b) => PtxBuilder.Emit<U64>("add.u64", a.Operand, b.Operand);

    /// <summary>Difference.</summary>
    public static U64 operator -(U64 a, U64 b) => PtxBuilder.Emit<U64>("sub.u64", a.Operand, b.Operand);

    /// <summary>Product, low half.</summary>
    public static U64 operator *(U64 a, U64 b) => PtxBuilder.Emit<U64>("mul.lo.u64", a.Operand, b.Operand);

    /// <summary>Shift to the left.</summary>
    public static U64 operator <<(U64 a, int bits) => PtxBuilder.Emit<U64>("shl.b64", a.Operand, Operand.Constant(bits));

    /// <summary>Shift to the right, zeros in.</summary>
    public static U64 operator >>(U64 a, int bits) => PtxBuilder.Emit<U64>("shr.u64", a.Operand, Operand.Constant(bits));

    /// <summary>Shift to the right, zeros in.</summary>
    public static U64 operator >>(U64 a, U32 bits) => PtxBuilder.Emit<U64>("shr.u64", a.Operand, bits.Operand);

    /// <summary>And.</summary>
    public static U64 operator &(U64 a, U64 b) => PtxBuilder.Emit<U64>("and.b64", a.Operand, b.Operand);

    /// <summary>Or.</summary>
    public static U64 operator |(U64 a, U64 b) => PtxBuilder.Emit<U64>("or.b64", a.Operand, b.Operand);

    /// <summary>Exclusive or.</summary>
    public static U64 operator ^(U64 a, U64 b) => PtxBuilder.Emit<U64>("xor.b64", a.Operand, b.Operand);

    /// <summary>Not.</summary>
    public static U64 operator ~(U64 a) => PtxBuilder.Emit<U64>("not.b64", a.Operand);

    /// <summary>Less, unsigned.</summary>
    public static Pred operator <(U64 a, U64 b) => PtxBuilder.Emit<Pred>("setp.lt.u64", a.Operand, b.Operand);

    /// <summary>Greater, unsigned.</summary>
    public static Pred operator >(U64 a, U64 b) => PtxBuilder.Emit<Pred>("setp.gt.u64", a.Operand, b.Operand);

    /// <summary>Less or equal, unsigned.</summary>
    public static Pred operator <=(U64 a, U64 b) => PtxBuilder.Emit<Pred>("setp.le.u64", a.Operand, b.Operand);

    /// <summary>Greater or equal, unsigned.</summary>
    public static Pred operator >=(U64 a, U64 b) => PtxBuilder.Emit<Pred>("setp.ge.u64", a.Operand, b.Operand);

    /// <summary>Equal.</summary>
    public Pred Is(U64 other) => PtxBuilder.Emit<Pred>("setp.eq.u64", Operand, other.Operand);
}

/// <summary>An address in global memory, and a constant number of bytes past it that costs nothing.</summary>
/// <param name="Base">The register.</param>
/// <param name="Offset">Bytes past it.</param>
public readonly record struct Global(U64 Base, int Offset = 0)
{
    /// <summary>Further on by a constant: free.</summary>
    public static Global operator +(Global a, int bytes) => a with { Offset = a.Offset + bytes };

    /// <summary>Further on.</summary>
    public static Global operator +(Global a, U64 bytes) => new(a.Base + bytes, a.Offset);

    /// <summary>Further on by <paramref name="index"/> times <paramref name="bytes"/> (one mad.wide).</summary>
    public Global At(U32 index, int bytes) => new(PtxBuilder.Emit<U64>("mad.wide.u32", index.Operand, Operand.Constant(bytes), Base.Operand), Offset);

    /// <summary>Further on by <paramref name="index"/> times <paramref name="bytes"/>, both known only at run time.</summary>
    public Global At(U32 index, U32 bytes) => new(PtxBuilder.Emit<U64>("mad.wide.u32", index.Operand, bytes.Operand, Base.Operand), Offset);

    /// <inheritdoc/>
    public override string ToString() => Offset == 0 ? $"[{Base.Operand}]" : $"[{Base.Operand}+{Offset}]";
}

/// <summary>An address in shared memory, and a constant number of bytes past it that costs nothing.</summary>
/// <param name="Base">The register.</param>
/// <param name="Offset">Bytes past it.</param>
public readonly record struct Shared(U32 Base, int Offset = 0)
{
    /// <summary>Further on by a constant: free.</summary>
    public static Shared operator +(Shared a, int bytes) => a with { Offset = a.Offset + bytes };

    /// <summary>Further on.</summary>
    public static Shared operator +(Shared a, U32 bytes) => new(a.Base + bytes, a.Offset);

    /// <summary>Further on by <paramref name="index"/> times <paramref name="bytes"/>.</summary>
    public Shared At(U32 index, int bytes) => this + (index * bytes);

    /// <inheritdoc/>
    public override string ToString() => Offset == 0 ? $"[{Base.Operand}]" : $"[{Base.Operand}+{Offset}]";
}
