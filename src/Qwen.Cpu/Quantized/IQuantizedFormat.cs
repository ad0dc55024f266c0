using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>
/// A block layout, of GGUF or the engine's own, reduced to what the integer kernels need. In every layout
/// <c>weight = scale[b] * (code - Offset) + bias[b]</c> with an unsigned code per column and a scale (and bias) per sub-block b.
/// </summary>
/// <remarks>Implementations are empty structs: the members fold into the kernels as constants.</remarks>
internal unsafe interface IQuantizedFormat
{
    /// <summary>Columns of a block: 32, 64 or 128, or 256 for the super-blocks.</summary>
    static abstract int BlockColumns { get; }

    /// <summary>Bytes of a block.</summary>
    static abstract int BlockBytes { get; }

    /// <summary>Columns that share a scale: 16 or 32.</summary>
    static abstract int SubBlock { get; }

    /// <summary>What is taken from each code: zero or a power of two.</summary>
    static abstract int Offset { get; }

    /// <summary>The largest code: how many products fit an int16 follows from it.</summary>
    static abstract int MaxCode { get; }

    /// <summary>Whether sub-blocks have a bias.</summary>
    static abstract bool HasBias { get; }

    /// <summary>Whether the blocks lie in main memory, so that asking for them in advance pays.</summary>
    static virtual bool InMemory => true;

    /// <summary>The 32 codes of the columns from 32 * <paramref name="group"/> on; reads nothing outside that block.</summary>
    static abstract Vector256<byte> Codes(byte* blocks, int group);

    /// <summary>The 64 codes of the columns from 64 * <paramref name="pair"/> on: with AVX-512, fewer instructions than two groups take.</summary>
    static abstract Vector512<byte> CodePair(byte* blocks, int pair);

    /// <summary>The scales and biases of the 16 sub-blocks that begin at <paramref name="blocks"/>. Where there are none, the biases are zero.</summary>
    static abstract void Scales(byte* blocks, out Vector512<float> scales, out Vector512<float> biases);
}
