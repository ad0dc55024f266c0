using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

// The layouts with blocks of 32 columns: a binary16 scale (and bias), then the codes. Q4_0, Q5_0, Q8_0 and IQ4_NL are ScaledBlock of their codes,
// Q4_1 and Q5_1 are BiasedBlock.

/// <summary>How 32 codes are packed.</summary>
internal unsafe interface IBlockCodes
{
    /// <summary>Bytes of 32 codes.</summary>
    static abstract int Bytes { get; }

    /// <summary>The code of zero in a block without a bias.</summary>
    static abstract int Zero { get; }

    /// <summary>The largest code.</summary>
    static abstract int MaxCode { get; }

    /// <summary>The 32 codes at <paramref name="packed"/>.</summary>
    static abstract Vector256<byte> Unpack(byte* packed);

    /// <summary>Those at <paramref name="packed"/> and those <paramref name="stride"/> bytes further.</summary>
    static abstract Vector512<byte> UnpackPair(byte* packed, int stride);
}

/// <summary>16 bytes of nibbles.</summary>
internal readonly unsafe struct NibbleCodes : IBlockCodes
{
    public static int Bytes => 16;
    public static int Zero => 8;
    public static int MaxCode => 15;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Unpack(byte* packed) => BlockBits.Nibbles(packed);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> UnpackPair(byte* packed, int stride) => BlockBits.NibblePair(packed, stride);
}

/// <summary>32 fifth bits, then 16 bytes of nibbles.</summary>
internal readonly unsafe struct FiveBitCodes : IBlockCodes
{
    public static int Bytes => 20;
    public static int Zero => 16;
    public static int MaxCode => 31;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Unpack(byte* packed) => BlockBits.Nibbles(packed + 4) | BlockBits.FifthBits(Unsafe.ReadUnaligned<uint>(packed));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> UnpackPair(byte* packed, int stride) => BlockBits.NibblePair(packed + 4, stride) | BlockBits.FifthBitPair(packed, stride);
}

/// <summary>32 signed bytes; the code is byte + 128: the sign bit flipped.</summary>
internal readonly unsafe struct SignedByteCodes : IBlockCodes
{
    public static int Bytes => 32;
    public static int Zero => 128;
    public static int MaxCode => 255;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Unpack(byte* packed) => Vector256.Load(packed) ^ Vector256.Create((byte)0x80);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> UnpackPair(byte* packed, int stride) => Lanes.Join(Unpack(packed), Unpack(packed + stride));
}

/// <summary>16 bytes of nibbles that index the 16 levels; the code is level + 128.</summary>
internal readonly unsafe struct NonLinearCodes : IBlockCodes
{
    public static int Bytes => 16;
    public static int Zero => 128;
    public static int MaxCode => 241;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Unpack(byte* packed) => BlockBits.NonLinearLevels(packed);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> UnpackPair(byte* packed, int stride) => Lanes.Join(Unpack(packed), Unpack(packed + stride));
}

/// <summary>F16 scale, codes; value = scale * (code - zero).</summary>
internal readonly unsafe struct ScaledBlock<TCodes> : IQuantizedFormat
    where TCodes : struct, IBlockCodes
{
    private const int HeadBytes = 2;

    public static int BlockColumns => 32;

    public static int BlockBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => HeadBytes + TCodes.Bytes;
    }

    public static int SubBlock => 32;
    public static int Offset => TCodes.Zero;
    public static int MaxCode => TCodes.MaxCode;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => TCodes.Unpack(blocks + ((long)group * BlockBytes) + HeadBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => TCodes.UnpackPair(blocks + ((long)pair * 2 * BlockBytes) + HeadBytes, BlockBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = default;
    }
}

/// <summary>F16 scale and bias, codes; value = scale * code + bias.</summary>
internal readonly unsafe struct BiasedBlock<TCodes> : IQuantizedFormat
    where TCodes : struct, IBlockCodes
{
    private const int HeadBytes = 4;

    public static int BlockColumns => 32;

    public static int BlockBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => HeadBytes + TCodes.Bytes;
    }

    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => TCodes.MaxCode;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => TCodes.Unpack(blocks + ((long)group * BlockBytes) + HeadBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => TCodes.UnpackPair(blocks + ((long)pair * 2 * BlockBytes) + HeadBytes, BlockBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = BlockBits.Halves(blocks + 2, BlockBytes);
    }
}
