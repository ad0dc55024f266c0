using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

// The layouts with blocks of 32 columns: a binary16 scale (and bias), then the codes.

/// <summary>F16 scale; 16 bytes of nibbles; value = scale * (code - 8).</summary>
internal readonly unsafe struct Q4_0 : IQuantizedFormat
{
    public static int BlockColumns => 32;
    public static int BlockBytes => 18;
    public static int SubBlock => 32;
    public static int Offset => 8;
    public static int MaxCode => 15;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => BlockBits.Nibbles(blocks + ((long)group * BlockBytes) + 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => BlockBits.NibblePair(blocks + ((long)pair * 2 * BlockBytes) + 2, BlockBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = default;
    }
}

/// <summary>F16 scale and bias; 16 bytes of nibbles; value = scale * code + bias.</summary>
internal readonly unsafe struct Q4_1 : IQuantizedFormat
{
    public static int BlockColumns => 32;
    public static int BlockBytes => 20;
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 15;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => BlockBits.Nibbles(blocks + ((long)group * BlockBytes) + 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => BlockBits.NibblePair(blocks + ((long)pair * 2 * BlockBytes) + 4, BlockBytes);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = BlockBits.Halves(blocks + 2, BlockBytes);
    }
}

/// <summary>F16 scale; 32 fifth bits; 16 bytes of nibbles; value = scale * (code - 16).</summary>
internal readonly unsafe struct Q5_0 : IQuantizedFormat
{
    public static int BlockColumns => 32;
    public static int BlockBytes => 22;
    public static int SubBlock => 32;
    public static int Offset => 16;
    public static int MaxCode => 31;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        byte* block = blocks + ((long)group * BlockBytes);
        return BlockBits.Nibbles(block + 6) | BlockBits.FifthBits(Unsafe.ReadUnaligned<uint>(block + 2));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair)
    {
        byte* block = blocks + ((long)pair * 2 * BlockBytes);
        return BlockBits.NibblePair(block + 6, BlockBytes) | BlockBits.FifthBitPair(block + 2, BlockBytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = default;
    }
}

/// <summary>F16 scale and bias; 32 fifth bits; 16 bytes of nibbles; value = scale * code + bias.</summary>
internal readonly unsafe struct Q5_1 : IQuantizedFormat
{
    public static int BlockColumns => 32;
    public static int BlockBytes => 24;
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 31;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        byte* block = blocks + ((long)group * BlockBytes);
        return BlockBits.Nibbles(block + 8) | BlockBits.FifthBits(Unsafe.ReadUnaligned<uint>(block + 4));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair)
    {
        byte* block = blocks + ((long)pair * 2 * BlockBytes);
        return BlockBits.NibblePair(block + 8, BlockBytes) | BlockBits.FifthBitPair(block + 4, BlockBytes);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = BlockBits.Halves(blocks + 2, BlockBytes);
    }
}

/// <summary>F16 scale; 32 signed bytes; value = scale * byte, and the code is byte + 128: the sign bit flipped.</summary>
internal readonly unsafe struct Q8_0 : IQuantizedFormat
{
    public static int BlockColumns => 32;
    public static int BlockBytes => 34;
    public static int SubBlock => 32;
    public static int Offset => 128;
    public static int MaxCode => 255;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) =>
        Vector256.Load(blocks + ((long)group * BlockBytes) + 2) ^ Vector256.Create((byte)0x80);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = default;
    }
}

/// <summary>F16 scale; 16 bytes of nibbles that index the 16 levels; value = scale * level, and the code is level + 128.</summary>
internal readonly unsafe struct IQ4_NL : IQuantizedFormat
{
    public static int BlockColumns => 32;
    public static int BlockBytes => 18;
    public static int SubBlock => 32;
    public static int Offset => 128;
    public static int MaxCode => 241;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => BlockBits.NonLinearLevels(blocks + ((long)group * BlockBytes) + 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.Halves(blocks, BlockBytes);
        biases = default;
    }
}
