using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>The bit patterns that several block layouts share.</summary>
internal static unsafe class BlockBits
{
    private const float TwoTo112 = 5.192296858534828e33f;

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

    /// <summary>16 bytes hold 32 indices (as <see cref="Nibbles"/>) into the levels of IQ4_NL; gives level + 128.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> NonLinearLevels(byte* bytes)
    {
        // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, each plus 128.
        Vector128<byte> levels = Vector128.Create((byte)1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241);
        Vector256<byte> indices = Nibbles(bytes);
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

    /// <summary>Sixteen bytes as floats, times <paramref name="scale"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreScaled(Vector128<sbyte> bytes, float scale, float* destination) =>
        (ToSingle(bytes) * scale).Store(destination);

    /// <summary>The first eight bytes as floats, times <paramref name="scale"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreScaledLower(Vector128<sbyte> bytes, float scale, float* destination) =>
        (ToSingle(bytes).GetLower() * scale).Store(destination);

    /// <summary>Eight bytes times a scale, and eight bytes times a bias, as floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreScaled(ulong scaleBytes, float scale, float* scales, ulong biasBytes, float bias, float* biases)
    {
        Vector512<float> both = ToSingle(Vector128.Create(scaleBytes, biasBytes).AsSByte()) * Lanes.Join(Vector256.Create(scale), Vector256.Create(bias));
        both.GetLower().Store(scales);
        both.GetUpper().Store(biases);
    }

    /// <summary>A binary16 as a float.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Half(byte* bytes) => Widen(Vector128.CreateScalarUnsafe((int)Unsafe.ReadUnaligned<ushort>(bytes))).ToScalar();

    /// <summary>The binary16 at the start of each of <paramref name="count"/> blocks, as floats.</summary>
    /// <param name="bytes">The first.</param>
    /// <param name="stride">Bytes from one to the next.</param>
    /// <param name="count">How many.</param>
    /// <param name="destination">Room for the count.</param>
    /// <remarks>.NET 10 has no intrinsic for vcvtph2ps: 16 halves are collected and widened with integer arithmetic.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Halves(byte* bytes, int stride, int count, float* destination)
    {
        if (count < 16)
        {
            for (int i = 0; i < count; i++)
                destination[i] = Half(bytes + ((long)i * stride));
            return;
        }

        // The last sixteen may overlap those before: no half past the blocks is read.
        for (int i = 0; i < count; i += 16)
        {
            int first = Math.Min(i, count - 16);
            byte* block = bytes + ((long)first * stride);
            (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Create(EightHalves(block, stride), EightHalves(block + (8 * stride), stride)));
            Widen(Lanes.Join(low, high).AsInt32()).Store(destination + first);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<ushort> EightHalves(byte* bytes, int stride) => Vector128.Create(
        *(ushort*)bytes, *(ushort*)(bytes + stride), *(ushort*)(bytes + (2 * stride)), *(ushort*)(bytes + (3 * stride)),
        *(ushort*)(bytes + (4 * stride)), *(ushort*)(bytes + (5 * stride)), *(ushort*)(bytes + (6 * stride)), *(ushort*)(bytes + (7 * stride)));

    /// <remarks>
    /// Exponent and fraction moved to their places are the value times 2^-112, subnormals included; the product is exact.
    /// Infinities and NaNs then get all ones for the exponent.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Widen(Vector512<int> halves)
    {
        Vector512<int> magnitude = halves & Vector512.Create(0x7FFF);
        Vector512<float> value = (magnitude << 13).AsSingle() * Vector512.Create(TwoTo112);
        Vector512<int> special = Vector512.GreaterThan(magnitude, Vector512.Create(0x7BFF)) & Vector512.Create(0x7F800000);
        return (value.AsInt32() | special | ((halves ^ magnitude) << 16)).AsSingle();
    }

    /// <inheritdoc cref="Widen(Vector512{int})"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Widen(Vector128<int> halves)
    {
        Vector128<int> magnitude = halves & Vector128.Create(0x7FFF);
        Vector128<float> value = (magnitude << 13).AsSingle() * Vector128.Create(TwoTo112);
        Vector128<int> special = Vector128.GreaterThan(magnitude, Vector128.Create(0x7BFF)) & Vector128.Create(0x7F800000);
        return (value.AsInt32() | special | ((halves ^ magnitude) << 16)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> ToSingle(Vector128<sbyte> bytes)
    {
        if (Avx512F.IsSupported)
            return Vector512.ConvertToSingle(Avx512F.ConvertToVector512Int32(bytes));
        (Vector128<short> low, Vector128<short> high) = Vector128.Widen(bytes);
        (Vector128<int> a, Vector128<int> b) = Vector128.Widen(low);
        (Vector128<int> c, Vector128<int> d) = Vector128.Widen(high);
        return Vector512.ConvertToSingle(Lanes.Join(Vector256.Create(a, b), Vector256.Create(c, d)));
    }
}
