using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Models;
using Qwen.Runtime.Speculation;

namespace Qwen.Runtime.Engine;

/// <summary>How a model is loaded and served. Every value has a default that suits the machine.</summary>
public sealed record EngineOptions
{
    /// <summary>Longest sequence, prompt and answer together; null for the model's own context, or less where the KV cache is smaller.</summary>
    public int? MaxModelLength { get; init; }

    /// <summary>Most sequences that run at once.</summary>
    public int MaxSequences { get; init; } = 64;

    /// <summary>Most tokens in one step: decodes first, the rest for chunks of prompts.</summary>
    public int MaxBatchedTokens { get; init; } = 512;

    /// <summary>Most requests that wait for a place; one more is refused at once.</summary>
    public int MaxQueue { get; init; } = 1024;

    /// <summary>Prompts that begin alike share the blocks of their beginning, and find them again later.</summary>
    public bool EnablePrefixCaching { get; init; } = true;

    /// <summary>Guesses tokens ahead, and checks the guesses in one step; null for one token a step.</summary>
    public SpeculationOptions? Speculation { get; init; }

    /// <summary>Most tokens of a request that wait for its reader; at that the request is paused.</summary>
    public int MaxUnreadTokens { get; init; } = 1024;

    /// <summary>How long a request stays paused before it is cut.</summary>
    public TimeSpan SlowReaderTimeout { get; init; } = TimeSpan.FromSeconds(60);

    /// <summary>A step that takes longer makes the engine <see cref="EngineState.Stuck"/>.</summary>
    public TimeSpan StuckAfter { get; init; } = TimeSpan.FromSeconds(120);

    /// <summary>Of timeouts and times.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>How keys and values are stored.</summary>
    public KvCacheType KvCacheType { get; init; } = KvCacheType.F16;

    /// <summary>Bytes for keys and values; null for at most what the sequences can use: of what weights leave of a GPU's part, and of a quarter of the CPU's free memory, at most 4 GiB.</summary>
    public long? KvCacheBytes { get; init; }

    /// <summary>Tokens per block of the KV cache.</summary>
    public int BlockSize { get; init; } = 16;

    /// <summary>Where to compute.</summary>
    public ComputeDevice Device { get; init; }

    /// <summary>
    /// How many of the last layers, with the output projection, a GPU computes; all from the number of layers on. Null for as many as fit
    /// within <see cref="GpuMemoryUtilization"/> beside the keys and values of a sequence.
    /// </summary>
    public int? GpuLayers { get; init; }

    /// <summary>The part of the GPU's memory that may be in use, other programs' use included.</summary>
    public double GpuMemoryUtilization { get; init; } = 0.9;

    /// <summary>The type of activations, and of dense weights, on a GPU.</summary>
    public GpuPrecision GpuPrecision { get; init; }

    /// <summary>Opens the GPU of a number; null for CUDA's. A test gives an emulated one.</summary>
    public Func<int, IDevice>? OpenDevice { get; init; }

    /// <summary>CPU threads; 0 for as many as the process may use.</summary>
    public int Threads { get; init; }

    /// <summary>Notes how long each op of the network takes (<see cref="LoadedModel.Profile"/>); costs a little time itself.</summary>
    public bool Profile { get; init; }

    /// <summary>Replaces the model's own rotary scaling; null to keep it.</summary>
    public RopeScaling? RopeScaling { get; init; }

    /// <summary>Replaces the model's own chat template (Jinja source); null to keep it.</summary>
    public string? ChatTemplate { get; init; }

    /// <summary>Brings logits to the host to choose tokens, though the backend could choose them itself: for comparison.</summary>
    internal bool SamplesOnHost { get; init; }

    /// <summary>How a GPU's decode attention reads its cache, null for its own choice: for comparison.</summary>
    internal DecodeTiling? AttentionTiling { get; init; }

    /// <summary>Most rows of logits in a step: one for each sequence and each guess, and a few more for prompts whose log-probabilities are wanted.</summary>
    internal int MaxLogitRows => Math.Min(Math.Max(MaxSequences * (1 + (Speculation?.Tokens ?? 0)), 64), MaxBatchedTokens);

    /// <summary>These options, if every value makes sense.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The first that doesn't, with its value.</exception>
    internal EngineOptions Validated()
    {
        InRange(MaxModelLength ?? 1, 1, 1 << 24, nameof(MaxModelLength));
        InRange(MaxSequences, 1, 4096, nameof(MaxSequences));
        InRange(MaxBatchedTokens, 1, 1 << 16, nameof(MaxBatchedTokens));
        InRange(MaxQueue, 1, 1 << 20, nameof(MaxQueue));
        InRange(KvCacheBytes ?? 1, 1, 1L << 46, nameof(KvCacheBytes));
        InRange(Speculation?.Tokens ?? 1, 1, 64, $"{nameof(Speculation)}.{nameof(SpeculationOptions.Tokens)}");
        InRange(Speculation?.MinNGram ?? 1, 1, 64, $"{nameof(Speculation)}.{nameof(SpeculationOptions.MinNGram)}");
        InRange(Speculation?.MaxNGram ?? 1, Speculation?.MinNGram ?? 1, 64, $"{nameof(Speculation)}.{nameof(SpeculationOptions.MaxNGram)}");
        InRange(MaxUnreadTokens, 1, 1 << 20, nameof(MaxUnreadTokens));
        InRange((long)SlowReaderTimeout.TotalMilliseconds, 1, int.MaxValue, nameof(SlowReaderTimeout));
        InRange((long)StuckAfter.TotalMilliseconds, 1, int.MaxValue, nameof(StuckAfter));
        InRange(BlockSize, 1, 1024, nameof(BlockSize));
        InRange(Threads, 0, 1024, nameof(Threads));
        InRange(GpuLayers ?? 0, 0, int.MaxValue, nameof(GpuLayers));
        if (!(GpuMemoryUtilization > 0 && GpuMemoryUtilization <= 1))
            throw new ArgumentOutOfRangeException(nameof(GpuMemoryUtilization), GpuMemoryUtilization, "must be above 0, and at most 1.");
        if (MaxBatchedTokens < MaxSequences)
            throw new ArgumentOutOfRangeException(nameof(MaxBatchedTokens), MaxBatchedTokens, $"must be at least {nameof(MaxSequences)} ({MaxSequences}): each running sequence decodes one token a step.");
        return this;

        static void InRange(long value, long least, long most, string name)
        {
            if (value < least || value > most)
                throw new ArgumentOutOfRangeException(name, value, $"must be between {least} and {most}.");
        }
    }
}
