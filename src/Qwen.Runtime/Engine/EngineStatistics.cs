namespace Qwen.Runtime.Engine;

/// <summary>What an engine is doing, and has done since it started.</summary>
public readonly record struct EngineStatistics
{
    /// <summary>Sequences that hold blocks of the KV cache.</summary>
    public int Running { get; init; }

    /// <summary>Requests that wait for a place.</summary>
    public int Waiting { get; init; }

    /// <summary>Blocks nobody holds.</summary>
    public int FreeBlocks { get; init; }

    /// <summary>Blocks in all.</summary>
    public int TotalBlocks { get; init; }

    /// <summary>Steps computed.</summary>
    public long Steps { get; init; }

    /// <summary>Prompt tokens of requests that got their first token.</summary>
    public long PromptTokens { get; init; }

    /// <summary>Tokens sampled.</summary>
    public long GeneratedTokens { get; init; }

    /// <summary>How often a sequence gave up its blocks to an older one.</summary>
    public long Preemptions { get; init; }
}
