using Qwen.Runtime.Sampling;

namespace Qwen.Host.Rpc;

/// <summary>Sampling options as gRPC has them. Ranges are the engine's to check.</summary>
internal static class SamplingMessage
{
    public static SamplingOptions Read(Sampling message) => new()
    {
        Temperature = message.HasTemperature ? message.Temperature : null,
        TopP = message.HasTopP ? message.TopP : null,
        TopK = message.HasTopK ? message.TopK : null,
        MinP = message.HasMinP ? message.MinP : null,
        RepetitionPenalty = message.HasRepetitionPenalty ? message.RepetitionPenalty : null,
        PresencePenalty = message.HasPresencePenalty ? message.PresencePenalty : null,
        FrequencyPenalty = message.HasFrequencyPenalty ? message.FrequencyPenalty : null,
        Seed = message.HasSeed ? message.Seed : null,
        MaxTokens = message.HasMaxTokens ? message.MaxTokens : null,
        MinTokens = message.MinTokens,
        Stop = message.Stop,
        StopTokenIds = message.StopTokenIds,
        IgnoreEos = message.IgnoreEos,
        SkipSpecialTokens = !message.HasSkipSpecialTokens || message.SkipSpecialTokens,
        IncludeStopStringInOutput = message.IncludeStopStrInOutput,
        Logprobs = message.HasLogprobs ? message.Logprobs : null,
        N = message.HasN ? message.N : 1,
        BestOf = message.HasBestOf ? message.BestOf : null,
        PromptLogprobs = message.HasPromptLogprobs ? message.PromptLogprobs : null,
        LogitBias = message.LogitBias.Count > 0 ? message.LogitBias.ToDictionary() : null,
    };
}
