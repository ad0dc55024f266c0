using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Sampling;

/// <summary>Sampling defaults of a model's makers: its generation_config.json.</summary>
public sealed record GenerationDefaults
{
    /// <summary>Nothing said.</summary>
    public static GenerationDefaults None { get; } = new();

    /// <summary>0 where the file says do_sample false.</summary>
    public double? Temperature { get; init; }

    /// <summary>Default of <see cref="SamplingOptions.TopK"/>.</summary>
    public int? TopK { get; init; }

    /// <summary>Default of <see cref="SamplingOptions.TopP"/>.</summary>
    public double? TopP { get; init; }

    /// <summary>Default of <see cref="SamplingOptions.MinP"/>.</summary>
    public double? MinP { get; init; }

    /// <summary>Default of <see cref="SamplingOptions.RepetitionPenalty"/>.</summary>
    public double? RepetitionPenalty { get; init; }

    /// <summary>Tokens that end an answer.</summary>
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Reads the file.</summary>
    /// <exception cref="Formats.ModelFormatException">It is damaged.</exception>
    public static GenerationDefaults Load(string path) => Parse(JsonFields.Load(path), path);

    internal static GenerationDefaults Parse(JsonObject json, string path)
    {
        var fields = new JsonFields(json, path);
        return new GenerationDefaults
        {
            Temperature = fields.Bool("do_sample") == false ? 0 : fields.Double("temperature"),
            TopK = fields.Int("top_k"),
            TopP = fields.Double("top_p"),
            MinP = fields.Double("min_p"),
            RepetitionPenalty = fields.Double("repetition_penalty"),
            EosTokenIds = fields.TokenIds("eos_token_id"),
        };
    }
}
