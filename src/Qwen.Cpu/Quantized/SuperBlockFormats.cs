using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

// The layouts with super-blocks of 256 columns, whose sub-blocks have small integer scales. Group g of a super-block is its g-th 32 columns.

/// <summary>16 bytes of 4-bit scales (low) and minima (high); 64 bytes of 2-bit codes; F16 d, dmin.</summary>
internal readonly unsafe struct Q2_K : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 84;
    public static int SubBlock => 16;
    public static int Offset => 0;
    public static int MaxCode => 3;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) =>
        BlockBits.Field(blocks + ((long)(group >> 3) * BlockBytes) + 16 + ((group & 4) * 8), 2 * (group & 3), 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) =>
        BlockBits.FieldPair(blocks + ((long)(pair >> 2) * BlockBytes) + 16 + ((pair & 2) * 16), 4 * (pair & 1), 2, 2);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        Vector128<byte> packed = Vector128.Load(blocks), low = Vector128.Create((byte)0x0F);
        scales = BlockBits.ToSingle((packed & low).AsSByte()) * BlockBits.Single(blocks + 80);
        biases = BlockBits.ToSingle(((packed.AsUInt16() >> 4).AsByte() & low).AsSByte()) * -BlockBits.Single(blocks + 82);
    }
}

/// <summary>32 bytes of third bits; 64 bytes of low 2 bits; 12 bytes of 6-bit scales less 32; F16 d. value = d * scale * (code - 4).</summary>
internal readonly unsafe struct Q3_K : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 110;
    public static int SubBlock => 16;
    public static int Offset => 4;
    public static int MaxCode => 7;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        byte* block = blocks + ((long)(group >> 3) * BlockBytes);
        return BlockBits.Field(block + 32 + ((group & 4) * 8), 2 * (group & 3), 2) | (BlockBits.Field(block, group & 7, 1).AsUInt16() << 2).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair)
    {
        byte* block = blocks + ((long)(pair >> 2) * BlockBytes);
        return BlockBits.FieldPair(block + 32 + ((pair & 2) * 16), 4 * (pair & 1), 2, 2)
            | (BlockBits.FieldPair(block, 2 * (pair & 3), 1, 1).AsUInt16() << 2).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        // Bytes 0-7 hold the low nibbles of scales 0-7 and, above them, of 8-15; bytes 8-11 hold the upper two bits of four scales each.
        ulong nibbles = Unsafe.ReadUnaligned<ulong>(blocks + 96);
        ulong upper = Unsafe.ReadUnaligned<uint>(blocks + 104);
        upper |= upper << 30; // scales 4-7 find theirs two bits higher in the same four bytes
        ulong first = (nibbles & 0x0F0F0F0F_0F0F0F0F) | ((upper << 4) & 0x30303030_30303030);
        ulong second = ((nibbles >> 4) & 0x0F0F0F0F_0F0F0F0F) | (upper & 0x30303030_30303030);
        scales = BlockBits.ToSingle(Vector128.Create(first, second).AsSByte() - Vector128.Create((sbyte)32)) * BlockBits.Single(blocks + 108);
        biases = default;
    }
}

/// <summary>F16 d, dmin; 12 bytes of 6-bit scales and minima; 128 bytes of nibbles.</summary>
internal readonly unsafe struct Q4_K : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 144;
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 15;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) =>
        BlockBits.Field(blocks + ((long)(group >> 3) * BlockBytes) + 16 + ((group & 6) * 16), 4 * (group & 1), 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) =>
        BlockBits.FieldPair(blocks + ((long)(pair >> 2) * BlockBytes) + 16 + ((pair & 3) * 32), 0, 4, 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) =>
        BlockBits.SixBitScales(blocks, BlockBytes, out scales, out biases);
}

/// <summary>As Q4_K, with 32 bytes of fifth bits before the nibbles.</summary>
internal readonly unsafe struct Q5_K : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 176;
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 31;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        byte* block = blocks + ((long)(group >> 3) * BlockBytes);
        return BlockBits.Field(block + 48 + ((group & 6) * 16), 4 * (group & 1), 4) | (BlockBits.Field(block + 16, group & 7, 1).AsUInt16() << 4).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair)
    {
        byte* block = blocks + ((long)(pair >> 2) * BlockBytes);
        return BlockBits.FieldPair(block + 48 + ((pair & 3) * 32), 0, 4, 4)
            | (BlockBits.FieldPair(block + 16, 2 * (pair & 3), 1, 1).AsUInt16() << 4).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) =>
        BlockBits.SixBitScales(blocks, BlockBytes, out scales, out biases);
}

/// <summary>128 bytes of low nibbles; 64 bytes of upper 2 bits; 16 signed scales; F16 d. value = d * scale * (code - 32).</summary>
internal readonly unsafe struct Q6_K : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 210;
    public static int SubBlock => 16;
    public static int Offset => 32;
    public static int MaxCode => 63;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        byte* block = blocks + ((long)(group >> 3) * BlockBytes);
        int half = (group >> 2) & 1;
        return BlockBits.Field(block + (half * 64) + ((group & 1) * 32), 2 * (group & 2), 4)
            | (BlockBits.Field(block + 128 + (half * 32), 2 * (group & 3), 2).AsUInt16() << 4).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair)
    {
        byte* block = blocks + ((long)(pair >> 2) * BlockBytes);
        int half = (pair >> 1) & 1;
        Vector512<byte> low = (Vector512.Load(block + (half * 64)).AsUInt16() >> (4 * (pair & 1))).AsByte() & Vector512.Create((byte)0x0F);
        return low | (BlockBits.FieldPair(block + 128 + (half * 32), 4 * (pair & 1), 2, 2).AsUInt16() << 4).AsByte();
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = BlockBits.ToSingle(Vector128.Load(blocks + 192).AsSByte()) * BlockBits.Single(blocks + 208);
        biases = default;
    }
}

/// <summary>F32 scale; 256 signed bytes; sums that are not used here.</summary>
internal readonly unsafe struct Q8_K : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 292;
    public static int SubBlock => 32;
    public static int Offset => 128;
    public static int MaxCode => 255;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) =>
        Vector256.Load(blocks + ((long)(group >> 3) * BlockBytes) + 4 + ((group & 7) * 32)) ^ Vector256.Create((byte)0x80);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        scales = Lanes.Join(Vector256.Create(Unsafe.ReadUnaligned<float>(blocks)), Vector256.Create(Unsafe.ReadUnaligned<float>(blocks + BlockBytes)));
        biases = default;
    }
}

/// <summary>F16 d; 6-bit scales less 32 in 2 + 4 bytes; 128 bytes of nibbles that index the levels of IQ4_NL.</summary>
internal readonly unsafe struct IQ4_XS : IQuantizedFormat
{
    public static int BlockColumns => 256;
    public static int BlockBytes => 136;
    public static int SubBlock => 32;
    public static int Offset => 128;
    public static int MaxCode => 241;
    public static bool HasBias => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) =>
        BlockBits.NonLinearLevels(blocks + ((long)(group >> 3) * BlockBytes) + 8 + ((group & 7) * 16));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        Vector128<byte> packed = Vector128.Create(PackedScales(blocks), PackedScales(blocks + BlockBytes)).AsByte();
        Vector256<float> first = Vector256.Create(BlockBits.Single(blocks)), second = Vector256.Create(BlockBits.Single(blocks + BlockBytes));
        scales = BlockBits.ToSingle(packed.AsSByte() - Vector128.Create((sbyte)32)) * Lanes.Join(first, second);
        biases = default;
    }

    /// <summary>Eight scales: their low nibbles from four bytes, their upper two bits from the two bytes before.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong PackedScales(byte* block) =>
        BlockBits.SpreadNibbles(Unsafe.ReadUnaligned<uint>(block + 4)) | (BlockBits.SpreadPairs(Unsafe.ReadUnaligned<ushort>(block + 2)) << 4);
}
