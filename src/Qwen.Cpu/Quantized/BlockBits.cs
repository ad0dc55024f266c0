using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>The bit patterns that several block layouts share.</summary>
internal static unsafe class BlockBits
{
    /// <summary>16 bytes hold 32 codes: low nibbles first, then high nibbles.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Nibbles(byte* bytes)
    {
        Vector128<byte> packed = Vector128.Load(bytes);
        return Vector256.Create(packed, (packed.AsUInt16() >> 4).AsByte()) & Vector256.Create((byte)0x0F);
    }

    /// <summary>The bits <c>[shift, shift + width)</c> of each of 32 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Field(byte* bytes, int shift, int width) =>
        (Vector256.Load(bytes).AsUInt16() >> shift).AsByte() & Vector256.Create((byte)((1 << width) - 1));

    /// <summary>Bit j of <paramref name="bits"/> as 0x10 in byte j: the fifth bit of 32 codes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> FifthBits(uint bits)
    {
        Vector256<byte> spread = Vector256.Shuffle(Vector256.Create(bits).AsByte(), Vector256.Create(
            (byte)0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 18, 18, 18, 18, 18, 18, 18, 18, 19, 19, 19, 19, 19, 19, 19, 19));
        Vector256<byte> bit = Vector256.Create(0x8040201008040201UL).AsByte();
        return Vector256.Equals(spread & bit, bit) & Vector256.Create((byte)0x10);
    }

    /// <summary><see cref="Nibbles"/> of two blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> NibblePair(byte* bytes, int stride)
    {
        if (!Avx512F.IsSupported)
            return Lanes.Join(Nibbles(bytes), Nibbles(bytes + stride));
        Vector512<byte> packed = Lanes.Join(Avx2.BroadcastVector128ToVector256(bytes), Avx2.BroadcastVector128ToVector256(bytes + stride));
        return Avx512F.ShiftRightLogicalVariable(packed.AsUInt64(), Vector512.Create(0UL, 0, 4, 4, 0, 0, 4, 4)).AsByte() & Vector512.Create((byte)0x0F);
    }

    /// <summary>From each of 32 bytes, the <paramref name="width"/> bits from <paramref name="shift"/> on; then those from shift + <paramref name="step"/> on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> FieldPair(byte* bytes, int shift, int step, int width)
    {
        if (!Avx512F.IsSupported)
            return Lanes.Join(Field(bytes, shift, width), Field(bytes, shift + step, width));
        ulong first = (ulong)shift, second = (ulong)(shift + step);
        Vector512<ulong> shifts = Vector512.Create(first, first, first, first, second, second, second, second);
        Vector256<ulong> packed = Vector256.Load((ulong*)bytes); // not BroadcastVector256ToVector512: .NET 10 encodes its displacement wrongly
        return Avx512F.ShiftRightLogicalVariable(Lanes.Join(packed, packed), shifts).AsByte() & Vector512.Create((byte)((1 << width) - 1));
    }

    /// <summary><see cref="FifthBits"/> of two blocks.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> FifthBitPair(byte* bits, int stride)
    {
        uint first = Unsafe.ReadUnaligned<uint>(bits), second = Unsafe.ReadUnaligned<uint>(bits + stride);
        if (!Avx512BW.IsSupported)
            return Lanes.Join(FifthBits(first), FifthBits(second));
        Vector512<byte> spread = Avx512BW.Shuffle(
            Lanes.Join(Vector256.Create(first), Vector256.Create(second)).AsByte(),
            Vector512.Create(0UL, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303, 0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303).AsByte());
        Vector512<byte> bit = Vector512.Create(0x8040201008040201UL).AsByte();
        return Vector512.Equals(spread & bit, bit) & Vector512.Create((byte)0x10);
    }

    /// <summary>16 bytes hold 32 indices (as <see cref="Nibbles"/>) into the levels of IQ4_NL; gives level + 128.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> NonLinearLevels(byte* bytes)
    {
        // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, each plus 128.
        Vector128<byte> levels = Vector128.Create((byte)1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241);
        Vector256<byte> indices = Nibbles(bytes);
        if (Avx2.IsSupported)
            return Avx2.Shuffle(Vector256.Create(levels, levels), indices);
        return Vector256.Create(Vector128.ShuffleNative(levels, indices.GetLower()), Vector128.ShuffleNative(levels, indices.GetUpper()));
    }

    /// <summary>Eight nibbles, lowest first, a byte each.</summary>
    public static ulong SpreadNibbles(uint nibbles)
    {
        ulong x = (nibbles | ((ulong)nibbles << 16)) & 0x0000FFFF_0000FFFF;
        x = (x | (x << 8)) & 0x00FF00FF_00FF00FF;
        return (x | (x << 4)) & 0x0F0F0F0F_0F0F0F0F;
    }

    /// <summary>Eight fields of two bits, lowest first, a byte each.</summary>
    public static ulong SpreadPairs(uint pairs)
    {
        ulong x = (pairs | ((ulong)pairs << 24)) & 0x000000FF_000000FF;
        x = (x | (x << 12)) & 0x000F000F_000F000F;
        return (x | (x << 6)) & 0x03030303_03030303;
    }

    /// <summary>The heads of two super-blocks of Q4_K or Q5_K: F16 d and dmin, and 8 + 8 integers of 6 bits in 12 bytes.</summary>
    /// <remarks>Bytes 0-3: scales 0-3; 4-7: minima 0-3; in their top bits, those of 4-7. Bytes 8-11: the low nibbles of scales and of minima 4-7.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void SixBitScales(byte* blocks, int stride, out Vector512<float> scales, out Vector512<float> biases)
    {
        Vector256<uint> heads = Vector256.Create(Vector128.Load((uint*)blocks), Vector128.Load((uint*)(blocks + stride)));
        Vector256<uint> first = Vector256.Shuffle(heads, Vector256.Create(1u, 1, 2, 2, 5, 5, 6, 6));
        Vector256<uint> last = Vector256.Shuffle(heads, Vector256.Create(3u, 3, 3, 3, 7, 7, 7, 7));
        Vector256<uint> integers = (first & Vector256.Create(0x00000000_3F3F3F3FUL).AsUInt32())
            | ((first >> 2) & Vector256.Create(0x30303030_00000000UL).AsUInt32())
            | (last & Vector256.Create(0x0F0F0F0F_00000000UL, 0, 0x0F0F0F0F_00000000UL, 0).AsUInt32())
            | ((last >> 4) & Vector256.Create(0, 0x0F0F0F0F_00000000UL, 0, 0x0F0F0F0F_00000000UL).AsUInt32());
        Vector256<sbyte> sorted = Vector256.Shuffle(integers.AsUInt64(), Vector256.Create(0UL, 2, 1, 3)).AsSByte(); // 16 scales, 16 minima

        Vector128<uint> halves = Vector128.Create(heads.GetElement(0), heads.GetElement(4), 0, 0);
        Vector128<float> d = Widen(Vector128.WidenLower(halves.AsUInt16()).AsInt32()); // d, dmin of the first; d, dmin of the second
        scales = ToSingle(sorted.GetLower()) * Lanes.Join(Vector256.Create(d[0]), Vector256.Create(d[2]));
        biases = ToSingle(sorted.GetUpper()) * Lanes.Join(Vector256.Create(-d[1]), Vector256.Create(-d[3]));
    }

    /// <summary>A binary16 as a float.</summary>
    /// <remarks>(float)Half takes some thirty instructions in software, and a super-block needs one or two.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Single(byte* bytes) => Widen(Vector128.CreateScalarUnsafe((int)Unsafe.ReadUnaligned<ushort>(bytes))).ToScalar();

    /// <summary>The binary16 at the start of each of 16 blocks, as floats.</summary>
    /// <remarks>.NET 10 has no intrinsic for vcvtph2ps: the halves are widened with integer arithmetic.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Halves(byte* bytes, int stride)
    {
        Vector256<ushort> halves = Vector256.Create(EightHalves(bytes, stride), EightHalves(bytes + (8 * stride), stride));
        if (Avx512BW.IsSupported && Vector256.LessThanAll((halves & Vector256.Create((ushort)0x7C00)) - Vector256.Create((ushort)0x0400), Vector256.Create((ushort)0x7800)))
        {
            // All are normal, as good as always: no more to do than to move bits and rebias the exponent.
            Vector512<int> signed = Avx512F.ConvertToVector512Int32(halves.AsInt16()) << 13;
            return ((signed & Vector512.Create(unchecked((int)0x8FFFE000))) + Vector512.Create(112 << 23)).AsSingle();
        }

        (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(halves);
        return Widen(Lanes.Join(low, high).AsInt32());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<ushort> EightHalves(byte* bytes, int stride)
    {
        // Eight blocks of 18 bytes have their scales in 128: one permutation takes all.
        if (Avx512BW.IsSupported && stride == 18)
        {
            Vector512<ushort> indices = Vector512.Create(0x001B_0012_0009_0000UL, 0x003F_0036_002D_0024UL, 0, 0, 0, 0, 0, 0).AsUInt16();
            return Avx512BW.PermuteVar32x16x2(Vector512.Load((ushort*)bytes), indices, Vector512.Load((ushort*)(bytes + 64))).GetLower().GetLower();
        }

        return Vector128.Create(
            *(ushort*)bytes, *(ushort*)(bytes + stride), *(ushort*)(bytes + (2 * stride)), *(ushort*)(bytes + (3 * stride)),
            *(ushort*)(bytes + (4 * stride)), *(ushort*)(bytes + (5 * stride)), *(ushort*)(bytes + (6 * stride)), *(ushort*)(bytes + (7 * stride)));
    }

    /// <summary>Binary16 bit patterns as floats.</summary>
    /// <remarks>
    /// Exponent and fraction move to their places and the exponent is rebiased. A subnormal gets the exponent of 2^-14 and loses it by an exact
    /// subtraction: a product with 2^112 would do for all, but costs a hundred cycles where an operand is subnormal, and small scales often are.
    /// Infinities and NaNs get all ones for the exponent.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Widen(Vector512<int> halves)
    {
        Vector512<int> magnitude = halves & Vector512.Create(0x7FFF), shifted = magnitude << 13;
        Vector512<int> subnormal = ((shifted | Vector512.Create(113 << 23)).AsSingle() - Vector512.Create(6.103515625e-05f)).AsInt32();
        Vector512<int> normal = shifted + Vector512.Create(112 << 23);
        Vector512<int> special = Vector512.GreaterThan(magnitude, Vector512.Create(0x7BFF)) & Vector512.Create(0x7F800000);
        Vector512<int> value = Vector512.ConditionalSelect(Vector512.LessThan(magnitude, Vector512.Create(0x0400)), subnormal, normal);
        return (value | special | ((halves ^ magnitude) << 16)).AsSingle();
    }

    /// <inheritdoc cref="Widen(Vector512{int})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Widen(Vector128<int> halves)
    {
        Vector128<int> magnitude = halves & Vector128.Create(0x7FFF), shifted = magnitude << 13;
        Vector128<int> subnormal = ((shifted | Vector128.Create(113 << 23)).AsSingle() - Vector128.Create(6.103515625e-05f)).AsInt32();
        Vector128<int> normal = shifted + Vector128.Create(112 << 23);
        Vector128<int> special = Vector128.GreaterThan(magnitude, Vector128.Create(0x7BFF)) & Vector128.Create(0x7F800000);
        Vector128<int> value = Vector128.ConditionalSelect(Vector128.LessThan(magnitude, Vector128.Create(0x0400)), subnormal, normal);
        return (value | special | ((halves ^ magnitude) << 16)).AsSingle();
    }

    /// <summary>Sixteen bytes as floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> ToSingle(Vector128<sbyte> bytes)
    {
        if (Avx512F.IsSupported)
            return Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(bytes));
        (Vector128<short> low, Vector128<short> high) = Vector128.Widen(bytes);
        (Vector128<int> a, Vector128<int> b) = Vector128.Widen(low);
        (Vector128<int> c, Vector128<int> d) = Vector128.Widen(high);
        return Vector512.ConvertToSingle(Lanes.Join(Vector256.Create(a, b), Vector256.Create(c, d)));
    }
}
