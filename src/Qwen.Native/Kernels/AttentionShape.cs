using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>What tells variants of the attention kernels apart.</summary>
/// <param name="Type">Type of queries and results: F16 or BF16.</param>
/// <param name="Cache">Type of cached keys and values: F32, F16, BF16, E4M3, E5M2 or S8.</param>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key and value heads; each serves <c>Heads / KvHeads</c> query heads, 16 at most.</param>
/// <param name="HeadDim">Width of a head: a multiple of 32, at most 256.</param>
/// <param name="BlockSize">Positions of a block of the cache: a power of two, at least 16.</param>
/// <param name="SlidingWindow">Positions that a token attends to, itself included; 0 for all.</param>
/// <param name="HasKeyBias">The cached keys, of a cache of bytes, lack their bias, which attention gives back.</param>
/// <param name="HasQkNorm">Decode attention norms query and key heads; prefill attention finds them normed.</param>
public readonly record struct AttentionShape(
    ElementType Type, ElementType Cache, int Heads, int KvHeads, int HeadDim, int BlockSize, int SlidingWindow = 0, bool HasKeyBias = false, bool HasQkNorm = false)
{
    /// <summary>Query heads of a key and value head.</summary>
    internal int Group => Heads / KvHeads;

    /// <summary>What brings queries, keys and values into the form that attention finds them in.</summary>
    public RopeAndStoreShape RopeAndStore => new(Type, Cache, Heads, KvHeads, HeadDim, BlockSize, HasQkNorm, HasKeyBias);

    /// <summary>Values of a token in qkv.</summary>
    internal int QkvWidth => (Heads + (2 * KvHeads)) * HeadDim;

    /// <summary>Bytes of a cached key or value of a head.</summary>
    internal int RowBytes => HeadDim * Cache.Bytes();

    /// <summary>
    /// The 16-bit type that products are computed in: the cache's own; F16 for bytes, which it holds exactly; for F32 that of the activations,
    /// which its values were computed from.
    /// </summary>
    internal ElementType Operands => Cache switch
    {
        ElementType.F32 => Type,
        ElementType.F16 or ElementType.BF16 => Cache,
        _ => ElementType.F16,
    };

    /// <summary>Scores are multiplied by this and are then exponents of two: 1 / sqrt(HeadDim), and log2 e.</summary>
    internal float ScoreScale => MathF.Log2(MathF.E) / MathF.Sqrt(HeadDim);

    /// <summary>For names of kernels.</summary>
    internal string Name =>
        $"{PtxBuilder.Name(Type)}_{PtxBuilder.Name(Cache)}_{Heads}_{KvHeads}_{HeadDim}_{BlockSize}" +
        (SlidingWindow > 0 ? $"_window{SlidingWindow}" : "") + (HasKeyBias ? "_bias" : "") + (HasQkNorm ? "_norm" : "");

    /// <summary>Refuses what the kernels can't do.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Names the value.</exception>
    internal void Check()
    {
        if (Type is not (ElementType.F16 or ElementType.BF16))
            throw new ArgumentOutOfRangeException(nameof(Type), Type, "Activations are F16 or BF16.");
        if (Cache == ElementType.S32)
            throw new ArgumentOutOfRangeException(nameof(Cache), Cache, "A cache is of F32, F16, BF16, E4M3, E5M2 or S8.");
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(KvHeads);
        ArgumentOutOfRangeException.ThrowIfNotEqual(Heads % KvHeads, 0, nameof(Heads));
        if (Group is < 1 or > 16)
            throw new ArgumentOutOfRangeException(nameof(Heads), Heads, $"{KvHeads} key and value heads serve 1 to 16 query heads each.");
        if (HeadDim is < 32 or > 256 || HeadDim % 32 != 0)
            throw new ArgumentOutOfRangeException(nameof(HeadDim), HeadDim, "A multiple of 32, at most 256.");
        if (BlockSize < 16 || !BitOperations.IsPow2(BlockSize))
            throw new ArgumentOutOfRangeException(nameof(BlockSize), BlockSize, "A power of two, at least 16.");
        ArgumentOutOfRangeException.ThrowIfNegative(SlidingWindow);
        if (HasKeyBias && Cache.Bytes() > 1)
            throw new ArgumentOutOfRangeException(nameof(HasKeyBias), HasKeyBias, $"A cache of {Cache} holds keys with their bias.");
    }
}

/// <summary>The sequences of a step in device memory; all but the block tables are S32 [sequences].</summary>
/// <param name="FirstTokens">The row of the step's tokens where each sequence begins.</param>
/// <param name="Tokens">How many rows it has; 0 for one that only fills up a batch.</param>
/// <param name="FirstPositions">The position of its first row.</param>
/// <param name="BlockTables">S32 [sequences, BlocksPerSequence]: the blocks that hold its positions.</param>
/// <param name="BlocksPerSequence">Width of the block tables.</param>
public readonly record struct SequenceTable(
    DevicePointer FirstTokens, DevicePointer Tokens, DevicePointer FirstPositions, DevicePointer BlockTables, int BlocksPerSequence);

/// <summary>The key bias of a layer, whose keys are cached without it.</summary>
/// <param name="Bias">F32 [kvHeads, headDim], unrotated.</param>
/// <param name="Rotations">F32 [positions][headDim / 2][cos, sin], as <c>RopeAndStoreKernel</c> uses it: at least 64 positions.</param>
public readonly record struct KeyBiasPointers(DevicePointer Bias, DevicePointer Rotations);
