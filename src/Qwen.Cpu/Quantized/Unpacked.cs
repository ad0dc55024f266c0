using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>The codes, scales and biases of <typeparamref name="TFormat"/> laid open: blocks of 16 sub-blocks, a byte per code.</summary>
/// <remarks>For a row that several tokens are multiplied with: the work of unpacking is done once, and the row stays in L1.</remarks>
internal readonly unsafe struct Unpacked<TFormat> : IQuantizedFormat
    where TFormat : struct, IQuantizedFormat
{
    public static int BlockColumns
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => RowBlocks<TFormat>.ChunkColumns;
    }

    public static int BlockBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => BlockColumns + (2 * Lanes.Count * sizeof(float));
    }

    public static bool InMemory => false;
    public static int SubBlock => TFormat.SubBlock;
    public static int Offset => TFormat.Offset;
    public static int MaxCode => TFormat.MaxCode;
    public static bool HasBias => TFormat.HasBias;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Codes(byte* blocks, int group) => Vector256.Load(blocks + (32 * group));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<byte> CodePair(byte* blocks, int pair) => Vector512.Load(blocks + (64 * pair));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases)
    {
        float* floats = (float*)(blocks + BlockColumns);
        scales = Vector512.Load(floats);
        biases = Vector512.Load(floats + Lanes.Count);
    }

    /// <summary>Bytes of an unpacked row.</summary>
    public static long Bytes(int columns) => ((long)columns + BlockColumns - 1) / BlockColumns * BlockBytes;

    /// <summary>Unpacks a row; the padding of its last block has zero scales.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Unpack(RowBlocks<TFormat> row, byte* destination)
    {
        for (int b = 0; b < row.SubBlocks; b += Lanes.Count, destination += BlockBytes)
        {
            byte* chunk = row.Chunk(b);
            for (int pair = 0; pair < BlockColumns / 64; pair++)
                TFormat.CodePair(chunk, pair).Store(destination + (64 * pair));
            row.Scales(chunk, b, out Vector512<float> scales, out Vector512<float> biases);
            float* floats = (float*)(destination + BlockColumns);
            scales.Store(floats);
            biases.Store(floats + Lanes.Count);
        }
    }
}
