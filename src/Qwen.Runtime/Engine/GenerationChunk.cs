using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>A token of an answer.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Logprobs">Its log-probability and those of the likeliest tokens, where the request asked for them.</param>
public readonly record struct GeneratedToken(int Id, TokenLogprobs? Logprobs);

/// <summary>What a request took.</summary>
/// <param name="PromptTokens">Tokens of the prompt.</param>
/// <param name="CompletionTokens">Tokens of all answers, end-of-sequence and stop tokens included.</param>
/// <param name="CachedTokens">Tokens of the prompt that need not be computed: their keys and values were in the cache.</param>
public readonly record struct Usage(int PromptTokens, int CompletionTokens, int CachedTokens = 0)
{
    /// <summary>Prompt and answers.</summary>
    public int TotalTokens => PromptTokens + CompletionTokens;
}

/// <summary>Where the time of a request went.</summary>
/// <param name="Queued">Until it got a place.</param>
/// <param name="Prefill">From then to its first token.</param>
/// <param name="Decode">From then to now.</param>
public readonly record struct RequestTimes(TimeSpan Queued, TimeSpan Prefill, TimeSpan Decode);

/// <summary>A piece of a streamed answer.</summary>
/// <param name="Text">New text; may be empty while a character or a possible stop string is incomplete.</param>
/// <param name="Tokens">The tokens sampled since the last piece (their text may come with a later piece).</param>
/// <param name="FinishReason">Set on the last piece of an answer, and only there.</param>
/// <param name="Usage">Tokens of the request so far.</param>
public sealed record GenerationChunk(string Text, IReadOnlyList<GeneratedToken> Tokens, FinishReason? FinishReason, Usage Usage)
{
    /// <summary>Which of the request's answers it continues: 0 to <see cref="SamplingOptions.N"/> - 1.</summary>
    public int Index { get; init; }

    /// <summary>On the request's first piece, where it asked for them: one per token of the prompt, null for the first.</summary>
    public IReadOnlyList<TokenLogprobs?>? PromptLogprobs { get; init; }

    /// <summary>Set on the last piece of an answer.</summary>
    public RequestTimes? Times { get; init; }
}
