using Qwen.Native.Device;

namespace Qwen.Native.Ptx;

/// <content>Arithmetic that has no operator.</content>
public sealed partial class PtxBuilder
{
    /// <summary>a * b + c, rounded once.</summary>
    public F32 Fma(F32 a, F32 b, F32 c) => Instruction<F32>("fma.rn.f32", a.Operand, b.Operand, c.Operand);

    /// <summary>sum += a * b, rounded once, in place.</summary>
    public void FmaInto(F32 sum, F32 a, F32 b) => Into("fma.rn.f32", sum.Operand, a.Operand, b.Operand, sum.Operand);

    /// <summary>sum += a, in place.</summary>
    public void AddInto(F32 sum, F32 a) => Into("add.rn.f32", sum.Operand, sum.Operand, a.Operand);

    /// <summary>sum += a, in place.</summary>
    public void AddInto(U32 sum, U32 a) => Into("add.u32", sum.Operand, sum.Operand, a.Operand);

    /// <summary>sum += a, in place.</summary>
    public void AddInto(U64 sum, U64 a) => Into("add.u64", sum.Operand, sum.Operand, a.Operand);

    /// <summary>value *= factor, in place.</summary>
    public void MultiplyInto(F32 value, F32 factor) => Into("mul.rn.f32", value.Operand, value.Operand, factor.Operand);

    /// <summary>The larger; of a number and NaN, the number.</summary>
    public F32 Max(F32 a, F32 b) => Instruction<F32>("max.f32", a.Operand, b.Operand);

    /// <summary>The larger; NaN if either is.</summary>
    public F32 MaxOrNaN(F32 a, F32 b) => Instruction<F32>("max.NaN.f32", a.Operand, b.Operand);

    /// <summary>The smaller; of a number and NaN, the number.</summary>
    public F32 Min(F32 a, F32 b) => Instruction<F32>("min.f32", a.Operand, b.Operand);

    /// <summary>The larger, unsigned.</summary>
    public U32 Max(U32 a, U32 b) => Instruction<U32>("max.u32", a.Operand, b.Operand);

    /// <summary>The smaller, unsigned.</summary>
    public U32 Min(U32 a, U32 b) => Instruction<U32>("min.u32", a.Operand, b.Operand);

    /// <summary>The larger, unsigned.</summary>
    public U64 Max(U64 a, U64 b) => Instruction<U64>("max.u64", a.Operand, b.Operand);

    /// <summary>The larger.</summary>
    public S32 Max(S32 a, S32 b) => Instruction<S32>("max.s32", a.Operand, b.Operand);

    /// <summary>The smaller.</summary>
    public S32 Min(S32 a, S32 b) => Instruction<S32>("min.s32", a.Operand, b.Operand);

    /// <summary>|a|.</summary>
    public F32 Abs(F32 a) => Instruction<F32>("abs.f32", a.Operand);

    /// <summary>2^a, to about 2 units in the last place; subnormal results are zero.</summary>
    public F32 Exp2(F32 a) => Instruction<F32>("ex2.approx.ftz.f32", a.Operand);

    /// <summary>log2 a, approximately.</summary>
    public F32 Log2(F32 a) => Instruction<F32>("lg2.approx.ftz.f32", a.Operand);

    /// <summary>1 / sqrt(a), approximately (2^-22.9).</summary>
    public F32 ReciprocalSquareRoot(F32 a) => Instruction<F32>("rsqrt.approx.ftz.f32", a.Operand);

    /// <summary>1 / a, approximately (1 unit in the last place).</summary>
    public F32 Reciprocal(F32 a) => Instruction<F32>("rcp.approx.ftz.f32", a.Operand);

    /// <summary>a / b, approximately (2 units in the last place).</summary>
    public F32 Divide(F32 a, F32 b) => Instruction<F32>("div.approx.ftz.f32", a.Operand, b.Operand);

    /// <summary>a / b, rounded correctly; slow.</summary>
    public F32 DivideExactly(F32 a, F32 b) => Instruction<F32>("div.rn.f32", a.Operand, b.Operand);

    /// <summary>condition ? a : b.</summary>
    public T Select<T>(Pred condition, T a, T b)
        where T : struct, IRegister<T> => Instruction<T>($"selp.{T.Type}", a.Operand, b.Operand, condition.Operand);

    /// <summary>a * b + c, low halves.</summary>
    public U32 MultiplyAdd(U32 a, U32 b, U32 c) => Instruction<U32>("mad.lo.u32", a.Operand, b.Operand, c.Operand);

    /// <summary>The upper half of a * b.</summary>
    public U32 MultiplyHigh(U32 a, U32 b) => Instruction<U32>("mul.hi.u32", a.Operand, b.Operand);

    /// <summary>The upper half of a * b.</summary>
    public U64 MultiplyHigh(U64 a, U64 b) => Instruction<U64>("mul.hi.u64", a.Operand, b.Operand);

    /// <summary>a * b in 64 bits.</summary>
    public U64 MultiplyWide(U32 a, U32 b) => Instruction<U64>("mul.wide.u32", a.Operand, b.Operand);

    /// <summary>Any bitwise function of three words: bit (a&lt;&lt;2 | b&lt;&lt;1 | c) of <paramref name="table"/>. (a &amp; b) | c is 0xEA.</summary>
    public U32 Lop3(U32 a, U32 b, U32 c, byte table) => Instruction<U32>("lop3.b32", a.Operand, b.Operand, c.Operand, Operand.Constant((uint)table));

    /// <summary>Four bytes picked from the eight of b:a by the nibbles of a selector.</summary>
    public U32 Permute(U32 a, U32 b, U32 selector) => Instruction<U32>("prmt.b32", a.Operand, b.Operand, selector.Operand);

    /// <summary>Some bits of a word, zero-extended.</summary>
    public U32 BitField(U32 a, U32 from, U32 bits) => Instruction<U32>("bfe.u32", a.Operand, from.Operand, bits.Operand);

    /// <summary>Some bits of a word, sign-extended.</summary>
    public S32 SignedBitField(U32 a, U32 from, U32 bits) => Instruction<S32>("bfe.s32", a.Operand, from.Operand, bits.Operand);

    /// <summary>Bits that are set.</summary>
    public U32 PopulationCount(U32 a) => Instruction<U32>("popc.b32", a.Operand);

    /// <summary>a * b + c of two 16-bit floats each, rounded once.</summary>
    public Half2 Fma(Half2 a, Half2 b, Half2 c) => new(Instruction<U32>($"fma.rn.{Name(a.Kind)}x2", a.Operand, b.Operand, c.Operand).Operand, a.Kind);

    /// <summary>sum += a * b of two 16-bit floats each, in place.</summary>
    public void FmaInto(Half2 sum, Half2 a, Half2 b) => Into($"fma.rn.{Name(sum.Kind)}x2", sum.Operand, a.Operand, b.Operand, sum.Operand);

    /// <summary>The larger of each.</summary>
    public Half2 Max(Half2 a, Half2 b) => new(Instruction<U32>($"max.{Name(a.Kind)}x2", a.Operand, b.Operand).Operand, a.Kind);

    /// <summary>Twice the same 16-bit float, as a constant. Exact, or an error.</summary>
    public Half2 Constant(ElementType kind, float value)
    {
        uint bits = kind == ElementType.F16 ? BitConverter.HalfToUInt16Bits((Half)value) : BitConverter.SingleToUInt32Bits(value) >> 16;
        float back = kind == ElementType.F16 ? (float)BitConverter.UInt16BitsToHalf((ushort)bits) : BitConverter.UInt32BitsToSingle(bits << 16);
        ArgumentOutOfRangeException.ThrowIfNotEqual(back, value);
        return new Half2(Variable<U32>(bits | (bits << 16)).Operand, kind);
    }

    /// <summary>A word as a number of 64 bits.</summary>
    public U64 Widen(U32 a) => Instruction<U64>("cvt.u64.u32", a.Operand);

    /// <summary>The lower half.</summary>
    public U32 Narrow(U64 a) => Instruction<U32>("cvt.u32.u64", a.Operand);

    /// <summary>The halves of 64 bits.</summary>
    public (U32 Low, U32 High) Split(U64 a)
    {
        (U32 low, U32 high) = (Variable<U32>(), Variable<U32>());
        Line($"mov.b64 {{{low.Operand}, {high.Operand}}}, {a.Operand};");
        return (low, high);
    }

    /// <summary>64 bits of two halves.</summary>
    public U64 Join(U32 low, U32 high)
    {
        U64 joined = Variable<U64>();
        Line($"mov.b64 {joined.Operand}, {{{low.Operand}, {high.Operand}}};");
        return joined;
    }

    /// <summary>The whole part of a float that is not negative; saturates.</summary>
    public U64 TruncateToU64(F32 a) => Instruction<U64>("cvt.rzi.u64.f32", a.Operand);

    /// <summary>The float nearest to a number.</summary>
    public F32 ToFloat(U32 a) => Instruction<F32>("cvt.rn.f32.u32", a.Operand);

    /// <summary>The float nearest to a number.</summary>
    public F32 ToFloat(S32 a) => Instruction<F32>("cvt.rn.f32.s32", a.Operand);

    /// <summary>The float nearest to a number.</summary>
    public F32 ToFloat(U64 a) => Instruction<F32>("cvt.rn.f32.u64", a.Operand);

    /// <summary>The number nearest to a float, halves to even; saturates.</summary>
    public S32 RoundToInt(F32 a) => Instruction<S32>("cvt.rni.s32.f32", a.Operand);

    /// <summary>A float's bits as a float: free but for the move between kinds of registers.</summary>
    public F32 AsFloat(U32 bits) => Instruction<F32>("mov.b32", bits.Operand);

    /// <summary>f16, bf16.</summary>
    internal static string Name(ElementType type) => type switch
    {
        ElementType.F32 => "f32",
        ElementType.F16 => "f16",
        ElementType.BF16 => "bf16",
        ElementType.E4M3 => "e4m3",
        ElementType.E5M2 => "e5m2",
        ElementType.S8 => "s8",
        ElementType.S32 => "s32",
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
    };
}
