using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Models;

/// <summary>The hyperparameters of a dense Qwen decoder, from <c>config.json</c> or GGUF metadata.</summary>
public sealed record ModelConfig
{
    private const int MostLayers = 1024, MostWidth = 1 << 20, MostVocabulary = 1 << 22, MostContext = 1 << 24;

    /// <summary><c>qwen2</c> (Qwen1.5, 2, 2.5) or <c>qwen3</c>.</summary>
    public required string Architecture { get; init; }

    /// <summary>Width of the hidden state.</summary>
    public required int HiddenSize { get; init; }

    /// <summary>Decoder layers.</summary>
    public required int Layers { get; init; }

    /// <summary>Query heads.</summary>
    public required int Heads { get; init; }

    /// <summary>Key and value heads; each serves Heads / KvHeads query heads.</summary>
    public required int KvHeads { get; init; }

    /// <summary>Width of a head.</summary>
    public required int HeadDim { get; init; }

    /// <summary>Width of the gated MLP.</summary>
    public required int IntermediateSize { get; init; }

    /// <summary>Rows of the embedding: at least the tokenizer's tokens, often padded beyond.</summary>
    public required int VocabularySize { get; init; }

    /// <summary>Epsilon of the RMS norms.</summary>
    public required float RmsNormEpsilon { get; init; }

    /// <summary>Base of the rotary angles.</summary>
    public required double RopeTheta { get; init; }

    /// <summary>Context the model was made for.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>How rotary angles are stretched.</summary>
    public RopeScaling RopeScaling { get; init; } = RopeScaling.None;

    /// <summary>The output projection is the embedding.</summary>
    public bool TiedEmbeddings { get; init; }

    /// <summary>Keys a query of a windowed layer sees; 0 for all.</summary>
    public int SlidingWindow { get; init; }

    /// <summary>Layers from this one on are windowed, where there is a window (Qwen2's <c>max_window_layers</c>).</summary>
    public int FirstWindowedLayer { get; init; }

    /// <summary>How linear layers are quantized; null where they are not, and for GGUF, whose tensors say it themselves.</summary>
    public QuantizationConfig? Quantization { get; init; }

    /// <summary>End-of-sequence ids the config itself names.</summary>
    public IReadOnlyList<int> EosTokenIds { get; init; } = [];

    /// <summary>Qwen3 normalises each query and key head before it is rotated; Qwen2 has biases instead.</summary>
    public bool HasQkNorm => Architecture == "qwen3";

    /// <summary>The window of a layer; 0 for none.</summary>
    public int WindowOf(int layer) => layer >= FirstWindowedLayer ? SlidingWindow : 0;

    /// <summary>The context after scaling: what a sequence may hold at most.</summary>
    public int ScaledContext => RopeScaling.Kind == RopeScalingKind.None || RopeScaling.OriginalContext == 0
        ? MaxPositions
        : (int)Math.Min(Math.Max(MaxPositions, RopeScaling.OriginalContext * RopeScaling.Factor), MostContext);

    /// <summary>Reads what the checkpoint says of itself.</summary>
    /// <exception cref="ModelFormatException">The architecture is none of ours, or a field is missing or absurd.</exception>
    public static ModelConfig Load(Checkpoint checkpoint) => checkpoint switch
    {
        { Metadata: { } metadata } => FromGguf(metadata, checkpoint),
        { Config: { } config } => FromJson(config, checkpoint.Path),
        _ => FromJson(Path.Combine(checkpoint.Directory, "config.json")),
    };

    /// <summary>Reads Hugging Face's <c>config.json</c>.</summary>
    public static ModelConfig FromJson(string path)
    {
        if (!File.Exists(path))
            throw new ModelFormatException(path, "is missing; a model directory holds config.json beside its weights");
        ModelConfig config = FromJson(JsonFields.Load(path), path);
        string gptq = Path.Combine(Path.GetDirectoryName(path) ?? "", "quantize_config.json");
        return config.Quantization is null && File.Exists(gptq) ? config with { Quantization = QuantizationConfig.LoadGptq(gptq) } : config;
    }

    internal static ModelConfig FromJson(JsonObject json, string path)
    {
        var fields = new JsonFields(json, path);
        string architecture = fields.String("model_type") ?? throw fields.Error("model_type", "is missing");
        CheckArchitecture(architecture, path);
        if (fields.String("hidden_act") is { } activation and not "silu")
            throw fields.Error("hidden_act", $"'{activation}' is not supported; Qwen uses silu");

        int hidden = fields.RequireInt("hidden_size"), heads = fields.RequireInt("num_attention_heads"), layers = fields.RequireInt("num_hidden_layers");
        // Newer transformers put theta and scaling together under rope_parameters.
        JsonObject? rope = fields.Object("rope_parameters");
        bool windowed = fields.Bool("use_sliding_window") ?? false;
        return new ModelConfig
        {
            Architecture = architecture,
            HiddenSize = hidden,
            Layers = layers,
            Heads = heads,
            KvHeads = fields.Int("num_key_value_heads") ?? heads,
            HeadDim = fields.Int("head_dim") ?? (heads > 0 ? hidden / heads : 0),
            IntermediateSize = fields.RequireInt("intermediate_size"),
            VocabularySize = fields.RequireInt("vocab_size"),
            RmsNormEpsilon = (float)(fields.Double("rms_norm_eps") ?? 1e-6),
            RopeTheta = fields.Double("rope_theta") ?? (rope is null ? null : new JsonFields(rope, path, "rope_parameters").Double("rope_theta")) ?? 10000,
            MaxPositions = fields.Int("max_position_embeddings") ?? 32768,
            RopeScaling = RopeScaling.Parse(rope ?? fields.Object("rope_scaling"), path),
            TiedEmbeddings = fields.Bool("tie_word_embeddings") ?? false,
            SlidingWindow = windowed ? fields.Int("sliding_window") ?? 0 : 0,
            FirstWindowedLayer = fields.Int("max_window_layers") ?? layers,
            Quantization = fields.Object("quantization_config") is { } quantization ? QuantizationConfig.Parse(quantization, path) : null,
            EosTokenIds = fields.TokenIds("eos_token_id"),
        }.Validated(path);
    }

    private static ModelConfig FromGguf(GgufMetadata metadata, Checkpoint checkpoint)
    {
        string file = checkpoint.Path;
        string architecture = metadata.GetString("general.architecture");
        CheckArchitecture(architecture, file);
        string Key(string name) => $"{architecture}.{name}";
        int Int(string name) => ToInt(metadata.GetUInt32(Key(name)), Key(name), file);
        int hidden = Int("embedding_length"), heads = Int("attention.head_count");
        Tensor embedding = checkpoint.Require("token_embd.weight");
        return new ModelConfig
        {
            Architecture = architecture,
            HiddenSize = hidden,
            Layers = Int("block_count"),
            Heads = heads,
            KvHeads = metadata.TryGetUInt32(Key("attention.head_count_kv"), out uint kvHeads) ? ToInt(kvHeads, Key("attention.head_count_kv"), file) : heads,
            HeadDim = metadata.TryGetUInt32(Key("attention.key_length"), out uint keyLength) ? ToInt(keyLength, Key("attention.key_length"), file) : heads > 0 ? hidden / heads : 0,
            IntermediateSize = Int("feed_forward_length"),
            VocabularySize = ToInt((ulong)embedding.Shape[0], "rows of token_embd.weight", file),
            RmsNormEpsilon = metadata.GetFloat32(Key("attention.layer_norm_rms_epsilon")),
            RopeTheta = metadata.TryGetFloat32(Key("rope.freq_base"), out float theta) ? theta : 10000,
            MaxPositions = Int("context_length"),
            RopeScaling = GgufRopeScaling(metadata, architecture, file),
            TiedEmbeddings = !checkpoint.Tensors.ContainsKey("output.weight"),
            EosTokenIds = metadata.TryGetUInt32("tokenizer.ggml.eos_token_id", out uint eos) ? [ToInt(eos, "tokenizer.ggml.eos_token_id", file)] : [],
        }.Validated(file);
    }

    private static RopeScaling GgufRopeScaling(GgufMetadata metadata, string architecture, string file)
    {
        string prefix = architecture + ".rope.scaling.";
        if (!metadata.TryGetString(prefix + "type", out string? kind))
            return RopeScaling.None;
        double? Number(string name) => metadata.TryGetFloat32(prefix + name, out float value) ? value : null;
        return new RopeScaling
        {
            Kind = kind switch
            {
                "none" => RopeScalingKind.None,
                "linear" => RopeScalingKind.Linear,
                "yarn" => RopeScalingKind.Yarn,
                _ => throw new ModelFormatException(file, $"{prefix}type: '{kind}' is not known; known are none, linear, yarn"),
            },
            Factor = Number("factor") ?? 1,
            OriginalContext = metadata.TryGetUInt32(prefix + "original_context_length", out uint context) ? ToInt(context, prefix + "original_context_length", file) : 0,
            // llama.cpp's attn_factor multiplies the default magnitude.
            AttentionFactor = Number("attn_factor") is { } attention ? attention * ((0.1 * Math.Log(Number("factor") ?? 1)) + 1) : null,
            BetaFast = Number("yarn_beta_fast") ?? 32,
            BetaSlow = Number("yarn_beta_slow") ?? 1,
        }.Validated(file);
    }

    private static void CheckArchitecture(string architecture, string file)
    {
        if (architecture is not ("qwen2" or "qwen3"))
            throw new ModelFormatException(file, $"architecture '{architecture}' is not supported; supported are qwen2 (Qwen1.5, 2, 2.5) and qwen3, dense");
    }

    private static int ToInt(ulong value, string name, string file) =>
        value <= int.MaxValue ? (int)value : throw new ModelFormatException(file, $"{name}: {value} is out of range");

    private ModelConfig Validated(string file)
    {
        Range("hidden_size", HiddenSize, MostWidth);
        Range("num_hidden_layers", Layers, MostLayers);
        Range("num_attention_heads", Heads, MostWidth);
        Range("num_key_value_heads", KvHeads, Heads);
        Range("head_dim", HeadDim, 1024);
        Range("intermediate_size", IntermediateSize, MostWidth);
        Range("vocab_size", VocabularySize, MostVocabulary);
        Range("max_position_embeddings", MaxPositions, MostContext);
        if (Heads % KvHeads != 0)
            throw new ModelFormatException(file, $"num_attention_heads {Heads} is not a multiple of num_key_value_heads {KvHeads}");
        if ((long)Heads * HeadDim > MostWidth)
            throw new ModelFormatException(file, $"num_attention_heads {Heads} times head_dim {HeadDim} is over {MostWidth}");
        if (HeadDim % 8 != 0)
            throw new ModelFormatException(file, $"head_dim {HeadDim} is not a multiple of 8");
        if (!(RmsNormEpsilon >= 0 && RmsNormEpsilon < 1))
            throw new ModelFormatException(file, $"rms_norm_eps {RmsNormEpsilon} is not between 0 and 1");
        if (!(RopeTheta > 1 && double.IsFinite(RopeTheta)))
            throw new ModelFormatException(file, $"rope_theta {RopeTheta} is not a number above 1");
        if (SlidingWindow < 0)
            throw new ModelFormatException(file, $"sliding_window {SlidingWindow} is negative");
        return this;

        void Range(string name, int value, int most)
        {
            if (value < 1 || value > most)
                throw new ModelFormatException(file, $"{name} {value} is not between 1 and {most}");
        }
    }
}
