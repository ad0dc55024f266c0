using Qwen.Runtime.Engine;

namespace Qwen.Host.Rpc;

/// <summary>Pieces of an answer as gRPC sends them.</summary>
internal static class GenerateMessage
{
    /// <summary>A piece.</summary>
    /// <param name="chunk">What the engine gave.</param>
    /// <param name="prompt">The prompt's token ids.</param>
    public static GenerateResponse From(GenerationChunk chunk, IReadOnlyList<int> prompt) => new()
    {
        Index = chunk.Index,
        PromptLogprobs = { chunk.PromptLogprobs?.Select((logprobs, i) => From(new GeneratedToken(prompt[i], logprobs))) ?? [] },
        Text = chunk.Text,
        Tokens = { chunk.Tokens.Select(From) },
        FinishReason = chunk.FinishReason switch
        {
            null => FinishReason.Unspecified,
            Runtime.Sampling.FinishReason.Stop => FinishReason.Stop,
            Runtime.Sampling.FinishReason.Length => FinishReason.Length,
            _ => throw new InvalidOperationException($"An answer that was read to its end can't have ended by {chunk.FinishReason}."),
        },
        Usage = new Usage { PromptTokens = chunk.Usage.PromptTokens, CompletionTokens = chunk.Usage.CompletionTokens, CachedTokens = chunk.Usage.CachedTokens },
    };

    private static Token From(GeneratedToken token)
    {
        var message = new Token { Id = token.Id };
        if (token.Logprobs is { } logprobs)
        {
            message.Logprob = logprobs.Logprob;
            message.TopLogprobs.AddRange(logprobs.Top.Select(t => new TopLogprob { Id = t.Id, Logprob = t.Logprob }));
        }

        return message;
    }
}
