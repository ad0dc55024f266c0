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

    /// <summary>16 bytes hold 32 indices (as <see cref="Nibbles"/>) into the levels of IQ4_NL; gives level + 128.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> NonLinearLevels(byte* bytes)
    {
        // -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113, each plus 128.
        Vector128<byte> levels = Vector128.Create((byte)1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241);
        Vector256<byte> indices = Nibbles(bytes);
        return Vector256.Create(Vector128.ShuffleNative(levels, indices.GetLower()), Vector128.ShuffleNative(levels, indices.GetUpper()));
    }

    /// <summary>The eight bytes as floats, times <paramref name="scale"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreScaled(Vector128<sbyte> bytes, float scale, float* destination)
    {
        Vector128<short> words = Vector128.WidenLower(bytes);
        Vector256<int> integers = Avx2.IsSupported
            ? Avx2.ConvertToVector256Int32(bytes)
            : Vector256.Create(Vector128.WidenLower(words), Vector128.WidenUpper(words));
        (Vector256.ConvertToSingle(integers) * scale).Store(destination);
    }

    /// <inheritdoc cref="StoreScaled(Vector128{sbyte}, float, float*)"/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreScaled(ulong bytes, float scale, float* destination) =>
        StoreScaled(Vector128.CreateScalar(bytes).AsSByte(), scale, destination);

    /// <summary>A binary16 as a float.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Half(byte* bytes) => (float)Unsafe.ReadUnaligned<Half>(bytes);

    /// <summary>The binary16 at the start of each of <paramref name="count"/> blocks, as floats.</summary>
    /// <param name="bytes">The first.</param>
    /// <param name="stride">Bytes from one to the next.</param>
    /// <param name="count">How many.</param>
    /// <param name="destination">Room for the count rounded up to 8.</param>
    /// <remarks>.NET has no intrinsic for vcvtph2ps: the halves are collected first and then widened eight at a time with integer arithmetic.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Halves(byte* bytes, int stride, int count, float* destination)
    {
        int* raw = (int*)destination;
        for (int i = 0; i < count; i++)
            raw[i] = Unsafe.ReadUnaligned<ushort>(bytes + ((long)i * stride));
        for (int i = 0; i < count; i += 8)
            Widen(Vector256.Load(raw + i)).Store(destination + i);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Widen(Vector256<int> halves)
    {
        // Exponent and fraction moved to their places are the value times 2^-112, subnormals included; the product is exact.
        Vector256<int> magnitude = halves & Vector256.Create(0x7FFF);
        Vector256<float> value = (magnitude << 13).AsSingle() * Vector256.Create(BitConverter.Int32BitsToSingle((127 + 112) << 23));
        Vector256<int> special = Vector256.GreaterThan(magnitude, Vector256.Create(0x7BFF)) & Vector256.Create(0x7F800000);
        return (value.AsInt32() | special | ((halves ^ magnitude) << 16)).AsSingle();
    }
}
