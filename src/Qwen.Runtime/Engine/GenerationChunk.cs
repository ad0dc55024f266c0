using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>A token of an answer.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Logprobs">Its log-probability and those of the likeliest tokens, where the request asked for them.</param>
public readonly record struct GeneratedToken(int Id, TokenLogprobs? Logprobs);

/// <summary>What a request took.</summary>
/// <param name="PromptTokens">Tokens of the prompt.</param>
/// <param name="CompletionTokens">Tokens of the answer, end-of-sequence and stop tokens included.</param>
public readonly record struct Usage(int PromptTokens, int CompletionTokens)
{
    /// <summary>Both.</summary>
    public int TotalTokens => PromptTokens + CompletionTokens;
}

/// <summary>A piece of a streamed answer.</summary>
/// <param name="Text">New text; may be empty while a character or a possible stop string is incomplete.</param>
/// <param name="Tokens">The tokens sampled since the last piece (their text may come with a later piece).</param>
/// <param name="FinishReason">Set on the last piece, and only there.</param>
/// <param name="Usage">Tokens so far.</param>
public sealed record GenerationChunk(string Text, IReadOnlyList<GeneratedToken> Tokens, FinishReason? FinishReason, Usage Usage);
