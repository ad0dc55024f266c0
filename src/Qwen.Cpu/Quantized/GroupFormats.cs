using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

// The engine's own layouts for group-quantized checkpoints. A block is a group: F16 scale, int16 zero, codes; value = scale * (code - zero).

/// <summary>How many columns share a scale and a zero.</summary>
internal interface IGroup
{
    /// <summary>32, 64 or 128.</summary>
    static abstract int Columns { get; }
}

/// <summary>Groups of 32.</summary>
internal readonly struct GroupOf32 : IGroup
{
    public static int Columns => 32;
}

/// <summary>Groups of 64.</summary>
internal readonly struct GroupOf64 : IGroup
{
    public static int Columns => 64;
}

/// <summary>Groups of 128.</summary>
internal readonly struct GroupOf128 : IGroup
{
    public static int Columns => 128;
}

/// <summary>4-bit codes: in runs of 64 columns, first low nibbles, then high ones; in a group of 32, a run of 32.</summary>
internal readonly unsafe struct Int4<TGroup> : IQuantizedFormat
    where TGroup : struct, IGroup
{
    public static int BlockColumns => TGroup.Columns;

    public static int BlockBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => GroupHead.Bytes + (TGroup.Columns / 2);
    }

    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 15;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => TGroup.Columns == 32
        ? BlockBits.Nibbles(blocks + ((long)group * BlockBytes) + GroupHead.Bytes)
        : BlockBits.Field(Run(blocks, group >> 1), 4 * (group & 1), 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => TGroup.Columns == 32
        ? BlockBits.NibblePair(blocks + ((long)pair * 2 * BlockBytes) + GroupHead.Bytes, BlockBytes)
        : BlockBits.FieldPair(Run(blocks, pair), 0, 4, 4);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) =>
        GroupHead.Scales<TGroup>(blocks, BlockBytes, out scales, out biases);

    /// <summary>The 32 bytes of the run-th 64 columns.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static byte* Run(byte* blocks, int run) =>
        blocks + (run * 64 / TGroup.Columns * BlockBytes) + GroupHead.Bytes + (run * 64 % TGroup.Columns / 2);
}

/// <summary>Unsigned 8-bit codes in column order.</summary>
internal readonly unsafe struct Int8<TGroup> : IQuantizedFormat
    where TGroup : struct, IGroup
{
    public static int BlockColumns => TGroup.Columns;

    public static int BlockBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => GroupHead.Bytes + TGroup.Columns;
    }

    public static int SubBlock => 32;
    public static int Offset => 0;
    public static int MaxCode => 255;
    public static bool HasBias => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group)
    {
        return Vector256.Load(blocks + (group * 32 / TGroup.Columns * BlockBytes) + GroupHead.Bytes + (group * 32 % TGroup.Columns));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Lanes.Join(Codes(blocks, 2 * pair), Codes(blocks, (2 * pair) + 1));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases) =>
        GroupHead.Scales<TGroup>(blocks, BlockBytes, out scales, out biases);
}

/// <summary>The first four bytes of a group: binary16 scale, int16 zero.</summary>
internal static unsafe class GroupHead
{
    /// <summary>Bytes before the codes.</summary>
    public const int Bytes = 4;

    /// <summary>The scales, and the biases -(scale * zero), of the 16 sub-blocks of 32 columns that begin at <paramref name="blocks"/>.</summary>
    /// <remarks>A zero of up to 9 bits times a fraction of 11 is exact in F32.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales<TGroup>(byte* blocks, int stride, out Vector512<float> scales, out Vector512<float> biases)
        where TGroup : struct, IGroup
    {
        if (TGroup.Columns == 32)
        {
            Vector512<int> heads = Lanes.Join(
                Vector256.Create(Four(blocks, stride), Four(blocks + (4 * stride), stride)),
                Vector256.Create(Four(blocks + (8 * stride), stride), Four(blocks + (12 * stride), stride)));
            scales = BlockBits.Widen(heads & Vector512.Create(0xFFFF));
            biases = scales * Vector512.ConvertToSingle(-(heads >> 16));
            return;
        }

        Vector128<int> first = Four(blocks, stride);
        Vector128<float> firstScales = BlockBits.Widen(first & Vector128.Create(0xFFFF)), firstBiases = Biases(firstScales, first);
        if (TGroup.Columns == 128)
        {
            scales = FourTimes(firstScales);
            biases = FourTimes(firstBiases);
            return;
        }

        Vector128<int> second = Four(blocks + (4 * stride), stride);
        Vector128<float> secondScales = BlockBits.Widen(second & Vector128.Create(0xFFFF));
        scales = Lanes.Join(Twice(firstScales), Twice(secondScales));
        biases = Lanes.Join(Twice(firstBiases), Twice(Biases(secondScales, second)));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<int> Four(byte* blocks, int stride) => Vector128.Create(
        Unsafe.ReadUnaligned<int>(blocks), Unsafe.ReadUnaligned<int>(blocks + stride),
        Unsafe.ReadUnaligned<int>(blocks + (2 * stride)), Unsafe.ReadUnaligned<int>(blocks + (3 * stride)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector128<float> Biases(Vector128<float> scales, Vector128<int> heads) => scales * Vector128.ConvertToSingle(-(heads >> 16));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<float> Twice(Vector128<float> v) => Avx2.IsSupported
        ? Avx2.PermuteVar8x32(v.ToVector256Unsafe(), Vector256.Create(0, 0, 1, 1, 2, 2, 3, 3))
        : Vector256.Create(Vector128.Shuffle(v, Vector128.Create(0, 0, 1, 1)), Vector128.Shuffle(v, Vector128.Create(2, 2, 3, 3)));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> FourTimes(Vector128<float> v) => Avx512F.IsSupported
        ? Avx512F.PermuteVar16x32(v.ToVector256Unsafe().ToVector512Unsafe(), Vector512.Create(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3))
        : Lanes.Join(
            Vector256.Create(Vector128.Create(v[0]), Vector128.Create(v[1])), Vector256.Create(Vector128.Create(v[2]), Vector128.Create(v[3])));
}
