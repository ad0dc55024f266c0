using System.Globalization;
using System.Text.Json;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Http;

/// <summary>The sampling fields that chat and completions share: OpenAI's, and vLLM's further ones. Ranges are the engine's to check.</summary>
internal static class SamplingFields
{
    public static SamplingOptions Read(RequestFields fields, int? maxTokens, int? logprobs) => new()
    {
        Temperature = fields.Double("temperature"),
        TopP = fields.Double("top_p"),
        TopK = fields.Int("top_k"),
        MinP = fields.Double("min_p"),
        RepetitionPenalty = fields.Double("repetition_penalty"),
        PresencePenalty = fields.Double("presence_penalty"),
        FrequencyPenalty = fields.Double("frequency_penalty"),
        LogitBias = Bias(fields),
        Seed = fields.Seed("seed"),
        MaxTokens = maxTokens,
        MinTokens = fields.Int("min_tokens") ?? 0,
        Stop = fields.Strings("stop"),
        StopTokenIds = fields.Ints("stop_token_ids"),
        IgnoreEos = fields.Bool("ignore_eos") ?? false,
        SkipSpecialTokens = fields.Bool("skip_special_tokens") ?? true,
        IncludeStopStringInOutput = fields.Bool("include_stop_str_in_output") ?? false,
        Logprobs = logprobs,
        PromptLogprobs = fields.Int("prompt_logprobs"),
        N = fields.Int("n") ?? 1,
        BestOf = fields.Int("best_of"),
    };

    /// <summary><c>stream</c>, and whether <c>stream_options.include_usage</c> asks for a last event with the usage.</summary>
    public static (bool Stream, bool IncludeUsage) ReadStream(RequestFields fields)
    {
        bool stream = fields.Bool("stream") ?? false;
        if (stream)
            fields.Refuse("prompt_logprobs", _ => false, "comes with whole answers alone; leave stream out.");
        if (fields.Object("stream_options") is not { } options)
            return (stream, false);
        if (!stream)
            throw ApiException.Invalid("stream_options: needs stream to be true.", "stream_options");
        return (stream, options.Bool("include_usage") ?? false);
    }

    private static Dictionary<int, float>? Bias(RequestFields fields)
    {
        if (fields.Object("logit_bias") is not { } biases)
            return null;
        var bias = new Dictionary<int, float>();
        foreach (JsonProperty entry in biases.Json.EnumerateObject())
        {
            if (!int.TryParse(entry.Name, NumberStyles.None, CultureInfo.InvariantCulture, out int id) || entry.Value.ValueKind != JsonValueKind.Number || !entry.Value.TryGetSingle(out float value))
                throw ApiException.Invalid($"logit_bias: '{entry.Name}' is not a token id with a number.", "logit_bias", "invalid_type");
            bias[id] = value;
        }

        return bias;
    }
}
