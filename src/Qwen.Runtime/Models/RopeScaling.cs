using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Models;

/// <summary>The ways to stretch rotary angles beyond the trained context.</summary>
public enum RopeScalingKind
{
    /// <summary>Angles as trained.</summary>
    None,

    /// <summary>Positions divided by the factor (position interpolation).</summary>
    Linear,

    /// <summary>The base grows with the context (NTK-aware), from the context the model is loaded for.</summary>
    DynamicNtk,

    /// <summary>YaRN (Peng et al., 2023): high frequencies kept, low ones interpolated, attention scaled.</summary>
    Yarn,
}

/// <summary>Rotary position scaling, as Hugging Face's <c>rope_scaling</c> and llama.cpp's <c>rope.scaling.*</c> define it.</summary>
public sealed record RopeScaling
{
    /// <summary>No scaling.</summary>
    public static RopeScaling None { get; } = new();

    /// <summary>Which method.</summary>
    public RopeScalingKind Kind { get; init; }

    /// <summary>Context after scaling over context before.</summary>
    public double Factor { get; init; } = 1;

    /// <summary>Context the model was trained on; 0 for the model's own <c>max_position_embeddings</c>.</summary>
    public int OriginalContext { get; init; }

    /// <summary>YaRN's factor on cos and sin; null for 0.1 ln(factor) + 1.</summary>
    public double? AttentionFactor { get; init; }

    /// <summary>YaRN: dimensions that turn more often than this over the original context are kept.</summary>
    public double BetaFast { get; init; } = 32;

    /// <summary>YaRN: dimensions that turn less often than this are interpolated fully.</summary>
    public double BetaSlow { get; init; } = 1;

    /// <summary>Reads a <c>rope_scaling</c> object: <c>{"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}</c>.</summary>
    /// <param name="json">The object; null for none.</param>
    /// <param name="source">The file or flag it comes from, for errors.</param>
    /// <exception cref="Formats.ModelFormatException">An unknown type, or a value out of range.</exception>
    public static RopeScaling Parse(JsonObject? json, string source)
    {
        if (json is null)
            return None;
        var fields = new JsonFields(json, source, "rope_scaling");
        string kind = fields.String("rope_type") ?? fields.String("type") ?? "default";
        var scaling = new RopeScaling
        {
            Kind = kind switch
            {
                "default" or "none" or "mrope" => RopeScalingKind.None,
                "linear" => RopeScalingKind.Linear,
                "dynamic" => RopeScalingKind.DynamicNtk,
                "yarn" => RopeScalingKind.Yarn,
                _ => throw fields.Error("rope_type", $"'{kind}' is not known; known are default, linear, dynamic, yarn"),
            },
            Factor = fields.Double("factor") ?? 1,
            OriginalContext = fields.Int("original_max_position_embeddings") ?? 0,
            AttentionFactor = fields.Double("attention_factor"),
            BetaFast = fields.Double("beta_fast") ?? 32,
            BetaSlow = fields.Double("beta_slow") ?? 1,
        };
        return scaling.Validated(source);
    }

    /// <summary>This, if every value makes sense.</summary>
    internal RopeScaling Validated(string source)
    {
        if (!(Factor >= 1 && Factor <= 4096))
            throw new Formats.ModelFormatException(source, $"rope_scaling: factor {Factor} is not between 1 and 4096");
        if (OriginalContext < 0)
            throw new Formats.ModelFormatException(source, $"rope_scaling: original_max_position_embeddings {OriginalContext} is negative");
        if (!(BetaFast > 0 && BetaSlow > 0 && BetaFast >= BetaSlow && double.IsFinite(BetaFast)))
            throw new Formats.ModelFormatException(source, $"rope_scaling: beta_fast {BetaFast} and beta_slow {BetaSlow} must be positive, fast >= slow");
        if (AttentionFactor is { } attention && !(attention > 0 && double.IsFinite(attention)))
            throw new Formats.ModelFormatException(source, $"rope_scaling: attention_factor {attention} is not a positive number");
        return this;
    }

    /// <summary>Factor on cos and sin.</summary>
    public double Magnitude => Kind == RopeScalingKind.Yarn ? AttentionFactor ?? ((0.1 * Math.Log(Factor)) + 1) : 1;

    /// <summary>The angle per position of each of the <paramref name="rotaryDim"/>/2 pairs.</summary>
    /// <param name="rotaryDim">Dimensions of a head that turn.</param>
    /// <param name="theta">The base.</param>
    /// <param name="trainedContext">The model's own context, used where no original context is given.</param>
    /// <param name="servedContext">The context the model is loaded for (only dynamic NTK asks).</param>
    /// <remarks>
    /// YaRN as in the paper's section 3.2 with the range floored and ceiled, as both Hugging Face and llama.cpp do. Dynamic NTK is
    /// evaluated once, at the served context: evaluated anew as a sequence grows (Hugging Face), it would turn cached keys and
    /// new ones differently.
    /// </remarks>
    public double[] InverseFrequencies(int rotaryDim, double theta, int trainedContext, int servedContext)
    {
        int original = OriginalContext > 0 ? OriginalContext : trainedContext;
        if (Kind == RopeScalingKind.DynamicNtk && servedContext > original)
            theta *= Math.Pow((Factor * servedContext / original) - (Factor - 1), rotaryDim / (rotaryDim - 2.0));

        var frequencies = new double[rotaryDim / 2];
        double low = 0, high = 0;
        if (Kind == RopeScalingKind.Yarn)
        {
            low = Math.Max(Math.Floor(Turns(BetaFast)), 0);
            high = Math.Min(Math.Ceiling(Turns(BetaSlow)), rotaryDim - 1);
            if (low == high)
                high += 0.001;
        }

        for (int i = 0; i < frequencies.Length; i++)
        {
            double frequency = Math.Pow(theta, -2.0 * i / rotaryDim);
            double interpolated = frequency / Factor;
            frequencies[i] = Kind switch
            {
                RopeScalingKind.Linear => interpolated,
                RopeScalingKind.Yarn => double.Lerp(frequency, interpolated, Math.Clamp((i - low) / (high - low), 0, 1)),
                _ => frequency,
            };
        }

        return frequencies;

        // The pair that makes this many turns over the original context.
        double Turns(double turns) => rotaryDim * Math.Log(original / (turns * 2 * Math.PI)) / (2 * Math.Log(theta));
    }
}
