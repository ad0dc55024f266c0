using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

// The engine's own layouts, to which AWQ and GPTQ are repacked: a block is a group of columns with F16 scale, int16 zero and its codes;
// value = scale * (code - zero). A scale has 11 significant bits and a zero at most 9, so scale * zero is exact in F32.

/// <summary>Columns that share a scale and a zero.</summary>
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

/// <summary>4-bit codes: byte i of a run of 64 columns (of 32 in a group of 32) holds column i and, above it, the column half a run on.</summary>
internal readonly unsafe struct Int4<TGroup> : IQuantizedFormat
    where TGroup : struct, IGroupSize
{
    public static int BlockColumns => TGroup.Columns;
    public static int BlockBytes => GroupHead.Bytes + (TGroup.Columns / 2);
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 15;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => TGroup.Columns == 32
        ? BlockBits.Nibbles(blocks + ((long)group * BlockBytes) + GroupHead.Bytes)
        : BlockBits.Field(Run(blocks, group >> 1), (group & 1) * 4, 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => TGroup.Columns == 32
        ? BlockBits.NibblePair(blocks + ((long)pair * 2 * BlockBytes) + GroupHead.Bytes, BlockBytes)
        : BlockBits.FieldPair(Run(blocks, pair), 0, 4, 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) =>
        GroupHead.Scales<TGroup>(blocks, BlockBytes, out scales, out biases);

    /// <summary>The 32 bytes of the 64 columns from 64 * <paramref name="run"/> on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Run(byte* blocks, int run)
    {
        int runs = TGroup.Columns / 64;
        return blocks + ((long)((uint)run / runs) * BlockBytes) + GroupHead.Bytes + ((uint)run % runs * 32);
    }
}

/// <summary>8-bit codes in column order.</summary>
internal readonly unsafe struct Int8<TGroup> : IQuantizedFormat
    where TGroup : struct, IGroupSize
{
    public static int BlockColumns => TGroup.Columns;
    public static int BlockBytes => GroupHead.Bytes + TGroup.Columns;
    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 255;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        int groups = TGroup.Columns / 32;
        return Vector256.Load(blocks + ((long)((uint)group / groups) * BlockBytes) + GroupHead.Bytes + ((uint)group % groups * 32));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) =>
        GroupHead.Scales<TGroup>(blocks, BlockBytes, out scales, out biases);
}

/// <summary>The first bytes of a group: F16 scale, int16 zero.</summary>
internal static unsafe class GroupHead
{
    public const int Bytes = 4;

    /// <summary>The scales and biases, -(scale * zero), of 16 sub-blocks of 32 columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales<TGroup>(byte* blocks, int blockBytes, out Vector512<float> scales, out Vector512<float> biases)
        where TGroup : struct, IGroupSize
    {
        Vector512<int> heads = TGroup.Columns switch
        {
            32 => Lanes.Join(Eight(blocks, blockBytes), Eight(blocks + (8 * blockBytes), blockBytes)),
            64 => Repeat(Eight(blocks, blockBytes), Vector256.Create(0, 0, 1, 1, 2, 2, 3, 3), Vector256.Create(4, 4, 5, 5, 6, 6, 7, 7)),
            _ => Repeat(Four(blocks, blockBytes).ToVector256Unsafe(), Vector256.Create(0, 0, 0, 0, 1, 1, 1, 1), Vector256.Create(2, 2, 2, 2, 3, 3, 3, 3)),
        };
        scales = BlockBits.WidenHalves(heads & Vector512.Create(0xFFFF));
        biases = -(scales * Vector512.ConvertToSingle(heads >> 16));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<int> Repeat(Vector256<int> heads, Vector256<int> lower, Vector256<int> upper) =>
        Lanes.Join(Vector256.Shuffle(heads, lower), Vector256.Shuffle(heads, upper));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<int> Eight(byte* blocks, int blockBytes) =>
        Vector256.Create(Four(blocks, blockBytes), Four(blocks + (4 * blockBytes), blockBytes));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Four(byte* blocks, int blockBytes) => Vector128.Create(
        *(int*)blocks, *(int*)(blocks + blockBytes), *(int*)(blocks + (2 * blockBytes)), *(int*)(blocks + (3 * blockBytes)));
}
