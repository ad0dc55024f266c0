namespace Qwen.Runtime.Engine;

/// <summary>What an engine is doing, and has done since it started: as it was after its last step.</summary>
public readonly record struct EngineStatistics
{
    /// <summary>Sequences that hold blocks of the KV cache.</summary>
    public int Running { get; init; }

    /// <summary>Requests that wait for a place.</summary>
    public int Waiting { get; init; }

    /// <summary>Blocks nobody holds; those with a cached content are among them.</summary>
    public int FreeBlocks { get; init; }

    /// <summary>Free blocks and held ones whose content can be found by its tokens.</summary>
    public int CachedBlocks { get; init; }

    /// <summary>Blocks in all.</summary>
    public int TotalBlocks { get; init; }

    /// <summary>Prompt tokens of requests whose prompt was read, cached ones included.</summary>
    public long PromptTokens { get; init; }

    /// <summary>Tokens sampled.</summary>
    public long GeneratedTokens { get; init; }

    /// <summary>How often a sequence gave up its blocks to a more urgent one.</summary>
    public long Preemptions { get; init; }

    /// <summary>Tokens of prompts that were looked for in the prefix cache.</summary>
    public long PrefixQueries { get; init; }

    /// <summary>Tokens of those that were there.</summary>
    public long PrefixHits { get; init; }

    /// <summary>Steps that only continued answers.</summary>
    public StepStatistics Decode { get; init; }

    /// <summary>Steps that only read prompts.</summary>
    public StepStatistics Prefill { get; init; }

    /// <summary>Steps that did both.</summary>
    public StepStatistics Mixed { get; init; }

    /// <summary>Guesses and what became of them.</summary>
    public SpeculationStatistics Speculation { get; init; }

    /// <summary>Steps computed.</summary>
    public long Steps => Decode.Steps + Prefill.Steps + Mixed.Steps;
}

/// <summary>What steps of a kind took.</summary>
/// <param name="Steps">How many.</param>
/// <param name="Tokens">Tokens they read.</param>
/// <param name="Time">How long they took.</param>
/// <param name="Waited">How much of that the host waited for a device.</param>
/// <param name="Bytes">Weights, keys and values they had to read: with the time, the bandwidth they reached.</param>
public readonly record struct StepStatistics(long Steps, long Tokens, TimeSpan Time, TimeSpan Waited, long Bytes);

/// <summary>How well speculation guesses.</summary>
/// <param name="Drafts">How often tokens were guessed for a sequence.</param>
/// <param name="DraftTokens">Tokens that were guessed and checked.</param>
/// <param name="AcceptedTokens">Those that were right.</param>
public readonly record struct SpeculationStatistics(long Drafts, long DraftTokens, long AcceptedTokens)
{
    /// <summary>The share of guesses that were right; 0 before the first.</summary>
    public double AcceptanceRate => DraftTokens == 0 ? 0 : (double)AcceptedTokens / DraftTokens;
}
