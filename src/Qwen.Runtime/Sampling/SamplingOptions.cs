using System.Collections.ObjectModel;

namespace Qwen.Runtime.Sampling;

/// <summary>How the next token is chosen and when to stop. What is null comes from the model's generation_config.json, else is off.</summary>
public sealed record SamplingOptions
{
    private const int MostStops = 16, MostStopLength = 1024, MostBiases = 4096, MostAnswers = 128;

    internal const int MostLogprobs = 20;

    /// <summary>Flattens (above 1) or sharpens the distribution; 0 takes the likeliest token.</summary>
    public double? Temperature { get; init; }

    /// <summary>Only the k likeliest tokens; 0 or -1 for all.</summary>
    public int? TopK { get; init; }

    /// <summary>Only the likeliest tokens whose probabilities reach this sum; 1 for all.</summary>
    public double? TopP { get; init; }

    /// <summary>Only tokens at least this fraction as likely as the likeliest; 0 for all.</summary>
    public double? MinP { get; init; }

    /// <summary>Divides positive logits, and multiplies negative ones, of every token in the prompt or the answer (Keskar et al., CTRL, 2019); 1 for none.</summary>
    public double? RepetitionPenalty { get; init; }

    /// <summary>Taken off the logit of every token in the answer.</summary>
    public double? PresencePenalty { get; init; }

    /// <summary>Taken off the logit of every token in the answer, times how often it is there.</summary>
    public double? FrequencyPenalty { get; init; }

    /// <summary>Added to the logits of these tokens; -100 bans.</summary>
    public IReadOnlyDictionary<int, float>? LogitBias { get; init; }

    /// <summary>The same seed, prompt and options give the same answer; null for a random one.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Reports the log-probability of each token, and of this many of the likeliest beside it; null for none.</summary>
    public int? Logprobs { get; init; }

    /// <summary>Reports the log-probability of each token of the prompt, and of this many of the likeliest in its place; null for none. The prompt is then read anew, cached or not.</summary>
    public int? PromptLogprobs { get; init; }

    /// <summary>Answers to the prompt, which is read once. The i-th is the answer that the seed plus i gives alone.</summary>
    public int N { get; init; } = 1;

    /// <summary>Answers of which the <see cref="N"/> with the highest log-probability per token are given, at the end; null for all that are generated.</summary>
    public int? BestOf { get; init; }

    /// <summary>Most tokens of the answer; null for as many as the context holds.</summary>
    public int? MaxTokens { get; init; }

    /// <summary>Tokens before which nothing but <see cref="Stop"/> ends the answer.</summary>
    public int MinTokens { get; init; }

    /// <summary>Texts that end the answer.</summary>
    public IReadOnlyList<string> Stop { get; init; } = [];

    /// <summary>Tokens that end the answer besides the end-of-sequence tokens.</summary>
    public IReadOnlyList<int> StopTokenIds { get; init; } = [];

    /// <summary>Goes on after an end-of-sequence token.</summary>
    public bool IgnoreEos { get; init; }

    /// <summary>Leaves control tokens out of the text.</summary>
    public bool SkipSpecialTokens { get; init; } = true;

    /// <summary>Keeps the stop text, or the stop token's text, at the end of the answer.</summary>
    public bool IncludeStopStringInOutput { get; init; }

    /// <summary>All values, with the defaults of a model.</summary>
    /// <param name="defaults">Of the model's makers.</param>
    /// <param name="vocabulary">Tokens of the model.</param>
    /// <exception cref="ArgumentException">A value is out of range; the message names it.</exception>
    public SamplingParameters Resolve(GenerationDefaults defaults, int vocabulary)
    {
        if (Stop.Count > MostStops)
            throw new ArgumentException($"stop: {Stop.Count} strings are more than {MostStops}.");
        foreach (string stop in Stop)
        {
            if (string.IsNullOrEmpty(stop) || stop.Length > MostStopLength)
                throw new ArgumentException($"stop: a string must have 1 to {MostStopLength} characters, not {stop?.Length ?? 0}.");
        }

        if (LogitBias?.Count > MostBiases)
            throw new ArgumentException($"logit_bias: {LogitBias.Count} tokens are more than {MostBiases}.");
        foreach ((int id, float bias) in LogitBias ?? ReadOnlyDictionary<int, float>.Empty)
        {
            CheckId("logit_bias", id, vocabulary);
            Range("logit_bias", bias, -100, 100);
        }

        if (StopTokenIds.Count > MostBiases)
            throw new ArgumentException($"stop_token_ids: {StopTokenIds.Count} tokens are more than {MostBiases}.");
        foreach (int id in StopTokenIds)
            CheckId("stop_token_ids", id, vocabulary);
        if (MaxTokens is < 1)
            throw new ArgumentException($"max_tokens: {MaxTokens} is not positive.");
        if (MinTokens < 0 || MinTokens > (MaxTokens ?? int.MaxValue))
            throw new ArgumentException($"min_tokens: {MinTokens} is not between 0 and max_tokens.");
        Range("n", N, 1, MostAnswers);
        Range("best_of", BestOf ?? N, N, MostAnswers);

        return new SamplingParameters
        {
            Temperature = (float)Range("temperature", Temperature ?? defaults.Temperature ?? 1, 0, 100),
            TopK = Math.Max((int)Range("top_k", TopK ?? defaults.TopK ?? 0, -1, int.MaxValue), 0),
            TopP = (float)Range("top_p", TopP ?? defaults.TopP ?? 1, 0, 1),
            MinP = (float)Range("min_p", MinP ?? defaults.MinP ?? 0, 0, 1),
            RepetitionPenalty = (float)Range("repetition_penalty", RepetitionPenalty ?? defaults.RepetitionPenalty ?? 1, 0.01, 100),
            PresencePenalty = (float)Range("presence_penalty", PresencePenalty ?? 0, -2, 2),
            FrequencyPenalty = (float)Range("frequency_penalty", FrequencyPenalty ?? 0, -2, 2),
            LogitBias = LogitBias ?? ReadOnlyDictionary<int, float>.Empty,
            Seed = Seed ?? (ulong)Random.Shared.NextInt64(),
            Logprobs = Logprobs is { } count ? (int)Range("logprobs", count, 0, MostLogprobs) : null,
            PromptLogprobs = PromptLogprobs is { } top ? (int)Range("prompt_logprobs", top, 0, MostLogprobs) : null,
            N = N,
            BestOf = BestOf ?? N,
            MaxTokens = MaxTokens ?? int.MaxValue,
            MinTokens = MinTokens,
            Stop = Stop,
            StopTokenIds = StopTokenIds,
            IgnoreEos = IgnoreEos,
            SkipSpecialTokens = SkipSpecialTokens,
            IncludeStopStringInOutput = IncludeStopStringInOutput,
        };
    }

    private static double Range(string name, double value, double least, double most) =>
        value >= least && value <= most ? value : throw new ArgumentException($"{name}: {value} is not between {least} and {most}.");

    private static void CheckId(string name, int id, int vocabulary)
    {
        if ((uint)id >= (uint)vocabulary)
            throw new ArgumentException($"{name}: token {id} is outside the vocabulary of {vocabulary}.");
    }
}

/// <summary><see cref="SamplingOptions"/> with every default filled in and every value checked.</summary>
public sealed record SamplingParameters
{
    internal SamplingParameters()
    {
    }

    /// <inheritdoc cref="SamplingOptions.Temperature"/>
    public required float Temperature { get; init; }

    /// <inheritdoc cref="SamplingOptions.TopK"/>
    public required int TopK { get; init; }

    /// <inheritdoc cref="SamplingOptions.TopP"/>
    public required float TopP { get; init; }

    /// <inheritdoc cref="SamplingOptions.MinP"/>
    public required float MinP { get; init; }

    /// <inheritdoc cref="SamplingOptions.RepetitionPenalty"/>
    public required float RepetitionPenalty { get; init; }

    /// <inheritdoc cref="SamplingOptions.PresencePenalty"/>
    public required float PresencePenalty { get; init; }

    /// <inheritdoc cref="SamplingOptions.FrequencyPenalty"/>
    public required float FrequencyPenalty { get; init; }

    /// <inheritdoc cref="SamplingOptions.LogitBias"/>
    public required IReadOnlyDictionary<int, float> LogitBias { get; init; }

    /// <summary>The seed: the one asked for, or a random one.</summary>
    public required ulong Seed { get; init; }

    /// <inheritdoc cref="SamplingOptions.Logprobs"/>
    public required int? Logprobs { get; init; }

    /// <inheritdoc cref="SamplingOptions.PromptLogprobs"/>
    public required int? PromptLogprobs { get; init; }

    /// <inheritdoc cref="SamplingOptions.N"/>
    public required int N { get; init; }

    /// <summary>Answers that are generated: at least <see cref="N"/>.</summary>
    public required int BestOf { get; init; }

    /// <inheritdoc cref="SamplingOptions.MaxTokens"/>
    public required int MaxTokens { get; init; }

    /// <inheritdoc cref="SamplingOptions.MinTokens"/>
    public required int MinTokens { get; init; }

    /// <inheritdoc cref="SamplingOptions.Stop"/>
    public required IReadOnlyList<string> Stop { get; init; }

    /// <inheritdoc cref="SamplingOptions.StopTokenIds"/>
    public required IReadOnlyList<int> StopTokenIds { get; init; }

    /// <inheritdoc cref="SamplingOptions.IgnoreEos"/>
    public required bool IgnoreEos { get; init; }

    /// <inheritdoc cref="SamplingOptions.SkipSpecialTokens"/>
    public required bool SkipSpecialTokens { get; init; }

    /// <inheritdoc cref="SamplingOptions.IncludeStopStringInOutput"/>
    public required bool IncludeStopStringInOutput { get; init; }
}
