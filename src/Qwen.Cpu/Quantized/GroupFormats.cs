using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>Columns that share a scale and a zero point.</summary>
internal interface IGroupSize
{
    static abstract int Columns { get; }
}

internal readonly struct Group32 : IGroupSize
{
    public static int Columns => 32;
}

internal readonly struct Group64 : IGroupSize
{
    public static int Columns => 64;
}

internal readonly struct Group128 : IGroupSize
{
    public static int Columns => 128;
}

/// <summary>The engine's own blocks for AWQ and GPTQ: F16 scale, int16 zero, codes; value = scale * code - scale * zero, exact in F32.</summary>
internal static unsafe class GroupBlocks
{
    public const int HeaderBytes = 4;

    /// <summary>The scales and biases of 16 sub-blocks of 32 columns.</summary>
    public static void Scales(byte* blocks, int groupColumns, int blockBytes, out Vector512<float> scales, out Vector512<float> biases)
    {
        float* scale = stackalloc float[Lanes.Count], bias = stackalloc float[Lanes.Count];
        for (int i = 0; i < Lanes.Count; i++)
        {
            byte* block = blocks + (i * 32 / groupColumns * blockBytes);
            scale[i] = BlockBits.Single(block);
            bias[i] = -(scale[i] * Unsafe.ReadUnaligned<short>(block + 2));
        }

        scales = Vector512.Load(scale);
        biases = Vector512.Load(bias);
    }
}

/// <summary>4-bit codes; byte i of a run of 64 columns (32 in the smallest block) holds column i and, above it, column i + half.</summary>
internal readonly unsafe struct Int4<TGroup> : IQuantizedFormat
    where TGroup : struct, IGroupSize
{
    public static int BlockColumns => TGroup.Columns;
    public static int BlockBytes => GroupBlocks.HeaderBytes + (TGroup.Columns / 2);
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 15;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        int perBlock = TGroup.Columns / 32, inBlock = group % perBlock;
        byte* codes = blocks + ((long)(group / perBlock) * BlockBytes) + GroupBlocks.HeaderBytes;
        return perBlock == 1 ? BlockBits.Nibbles(codes) : BlockBits.Field(codes + (inBlock / 2 * 32), inBlock % 2 * 4, 4);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) => GroupBlocks.Scales(blocks, TGroup.Columns, BlockBytes, out scales, out biases);
}

/// <summary>8-bit codes in column order.</summary>
internal readonly unsafe struct Int8<TGroup> : IQuantizedFormat
    where TGroup : struct, IGroupSize
{
    public static int BlockColumns => TGroup.Columns;
    public static int BlockBytes => GroupBlocks.HeaderBytes + TGroup.Columns;
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 255;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        int perBlock = TGroup.Columns / 32;
        return Vector256.Load(blocks + ((long)(group / perBlock) * BlockBytes) + GroupBlocks.HeaderBytes + (group % perBlock * 32));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) => GroupBlocks.Scales(blocks, TGroup.Columns, BlockBytes, out scales, out biases);
}
