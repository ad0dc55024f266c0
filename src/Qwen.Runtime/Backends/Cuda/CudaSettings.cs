using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>What a CUDA backend is made for: the sizes that its memory and its kernels depend on.</summary>
/// <param name="Config">The model.</param>
/// <param name="Type">Activations, and dense weights: BF16 or F16.</param>
/// <param name="MaxTokens">Most tokens in a step.</param>
/// <param name="MaxSequences">Most sequences in a step.</param>
/// <param name="MaxPositions">Longest sequence.</param>
/// <param name="BlockSize">Tokens of a block of the KV cache.</param>
/// <param name="AttentionTiling">How decode attention shares its work; null for the default.</param>
internal sealed record CudaSettings(ModelConfig Config, ElementType Type, int MaxTokens, int MaxSequences, int MaxPositions, int BlockSize, DecodeTiling? AttentionTiling = null)
{
    /// <summary>Rows of activations: padding included, and a multiple of 8.</summary>
    public int Rows => (Math.Max(MaxTokens, MaxSequences) + 7) / 8 * 8;

    /// <summary>Most sequences, padding included.</summary>
    public int Sequences => (MaxSequences + 7) / 8 * 8;

    /// <summary>Most blocks of a sequence.</summary>
    public int BlocksPerSequence => (MaxPositions + BlockSize - 1) / BlockSize;

    /// <summary>Why there are no kernels for such a model; null where there are.</summary>
    public string? WhyNot => this switch
    {
        { Config.HeadDim: var width } when width % 32 != 0 || width > 256 => $"heads of {width} values: a multiple of 32, at most 256, is needed",
        { Config: var c } when c.Heads / c.KvHeads > 16 => $"{c.Heads / c.KvHeads} query heads for a key head: 16 are the most",
        { Config: var c } when c.HiddenSize % 8 != 0 || c.IntermediateSize % 8 != 0 || c.VocabularySize % 8 != 0 =>
            $"a hidden size of {c.HiddenSize}, an intermediate size of {c.IntermediateSize} and a vocabulary of {c.VocabularySize}: multiples of 8 are needed",
        _ when BlockSize < 16 || !BitOperations.IsPow2(BlockSize) => $"blocks of {BlockSize} tokens in the KV cache: a power of two from 16 on is needed",
        _ => null,
    };

    /// <summary>The settings that a model's options ask for.</summary>
    /// <param name="checkpoint">Its weights say what <see cref="GpuPrecision.Auto"/> is.</param>
    /// <param name="config">Its shape.</param>
    /// <param name="options">The options.</param>
    /// <param name="maxPositions">Longest sequence.</param>
    public static CudaSettings Of(Checkpoint checkpoint, ModelConfig config, EngineOptions options, int maxPositions)
    {
        bool isFloat16 = options.GpuPrecision == GpuPrecision.Auto
            ? checkpoint.Tensors.Values.Any(t => t.Type == TensorType.F16) && !checkpoint.Tensors.Values.Any(t => t.Type == TensorType.BF16)
            : options.GpuPrecision == GpuPrecision.Float16;
        return new CudaSettings(config, isFloat16 ? ElementType.F16 : ElementType.BF16, options.MaxBatchedTokens, options.MaxSequences, maxPositions, options.BlockSize, options.AttentionTiling);
    }
}

/// <summary>Bytes of device memory that a part of a model takes, but for its cache.</summary>
/// <param name="Weights">Weights.</param>
/// <param name="Workspace">Activations, and what kernels work in.</param>
internal readonly record struct CudaSums(long Weights, long Workspace);
