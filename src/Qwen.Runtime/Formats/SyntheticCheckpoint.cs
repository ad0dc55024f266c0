using System.Collections.Immutable;
using System.Text.Json.Nodes;
using Qwen.Cpu;

namespace Qwen.Runtime.Formats;

/// <summary>Random weights of a real shape, made in memory: for benchmarks and tests where no weights can be had. The same seed gives the same weights.</summary>
/// <remarks>It is in Hugging Face's layout, with its config.json beside the tensors; only their types may be those of GGUF.</remarks>
public static unsafe class SyntheticCheckpoint
{
    /// <summary>What a model's name starts with.</summary>
    public const string Prefix = "synthetic:";

    private static readonly string[] Formats =
    [
        "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k", "iq4_nl", "iq4_xs", "q4_k_m", "q5_k_m",
        .. SyntheticQuantization.Formats,
    ];

    /// <summary>Makes <c>synthetic:shape[:format]</c>; the format is bf16 where none is given.</summary>
    /// <exception cref="ModelFormatException">An unknown shape or format; the message lists the known ones.</exception>
    public static Checkpoint Create(string specification, IProgress<double>? progress = null)
    {
        (SyntheticShape shape, string format) = Parse(specification);
        return Create(specification, shape, format, 1, progress);
    }

    /// <summary>The tensors of <c>synthetic:shape[:format]</c> without their bytes, which are never made: for what asks for names, types and shapes alone.</summary>
    /// <exception cref="ModelFormatException">An unknown shape or format; the message lists the known ones.</exception>
    public static Checkpoint Outline(string specification)
    {
        (SyntheticShape shape, string format) = Parse(specification);
        return new Checkpoint(specification, Plan(shape, Known(specification, format)).Select(t => t.At(specification, null)), Config(shape, format), []);
    }

    /// <summary>Makes weights of any shape.</summary>
    /// <param name="name">What the checkpoint is called.</param>
    /// <param name="shape">Its sizes.</param>
    /// <param name="format">A type of GGUF in lower case or a mix (q4_k_m, q5_k_m); awq, gptq, gptq-int8, fp8 or fp8-block.</param>
    /// <param name="seed">Which weights.</param>
    /// <param name="progress">The fraction made.</param>
    /// <exception cref="ModelFormatException">An unknown format.</exception>
    public static Checkpoint Create(string name, SyntheticShape shape, string format, ulong seed = 1, IProgress<double>? progress = null)
    {
        SyntheticTensor[] plan = [.. Plan(shape, Known(name, format))];
        long total = plan.Sum(t => Align(t.ByteCount));
        var memory = new NativeBuffer<byte>(total);
        try
        {
            var tensors = new List<Tensor>();
            long offset = 0;
            foreach (SyntheticTensor planned in plan)
            {
                Tensor tensor = planned.At(name, memory.Pointer + offset);
                SyntheticValues.Fill(tensor, planned.Content, seed + ((ulong)tensors.Count * 0x9e3779b97f4a7c15));
                tensors.Add(tensor);
                offset += Align(tensor.ByteCount);
                progress?.Report((double)offset / total);
            }

            return new Checkpoint(name, tensors, Config(shape, format), [memory]);
        }
        catch
        {
            memory.Dispose();
            throw;
        }
    }

    private static (SyntheticShape Shape, string Format) Parse(string specification)
    {
        string[] parts = specification.Split(':');
        if (parts is not [_, _] and not [_, _, _] || parts[0] + ":" != Prefix)
            throw new ModelFormatException(specification, "is not of the form synthetic:shape[:format]");
        if (!SyntheticShape.Known.TryGetValue(parts[1], out SyntheticShape? shape))
            throw new ModelFormatException(specification, $"shape '{parts[1]}' is not known; known are {string.Join(", ", SyntheticShape.Known.Keys)}");
        return (shape, parts.Length == 3 ? parts[2] : "bf16");
    }

    private static string Known(string name, string format) =>
        Formats.Contains(format) ? format : throw new ModelFormatException(name, $"format '{format}' is not known; known are {string.Join(", ", Formats)}");

    private static long Align(long bytes) => (bytes + 63) & ~63L;

    private static JsonObject Config(SyntheticShape s, string format)
    {
        var config = new JsonObject
        {
            ["model_type"] = s.Architecture,
            ["num_hidden_layers"] = s.Layers,
            ["max_position_embeddings"] = s.Context,
            ["hidden_size"] = s.Hidden,
            ["intermediate_size"] = s.Intermediate,
            ["num_attention_heads"] = s.Heads,
            ["num_key_value_heads"] = s.KvHeads,
            ["head_dim"] = s.HeadDim,
            ["vocab_size"] = s.Vocabulary,
            ["tie_word_embeddings"] = s.Tied,
            ["rms_norm_eps"] = 1e-6,
            ["rope_theta"] = 1e6,
        };
        if (SyntheticQuantization.Config(format) is { } quantization)
            config["quantization_config"] = quantization;
        return config;
    }

    private static IEnumerable<SyntheticTensor> Plan(SyntheticShape s, string format)
    {
        long queries = (long)s.Heads * s.HeadDim, keys = (long)s.KvHeads * s.HeadDim;
        yield return Dense("model.embed_tokens", 0, s.Vocabulary, s.Hidden);
        for (int i = 0; i < s.Layers; i++)
        {
            string p = $"model.layers.{i}.";
            (string Name, long Outputs, long Inputs)[] modules =
            [
                ("self_attn.q_proj", queries, s.Hidden), ("self_attn.k_proj", keys, s.Hidden), ("self_attn.v_proj", keys, s.Hidden), ("self_attn.o_proj", s.Hidden, queries),
                ("mlp.gate_proj", s.Intermediate, s.Hidden), ("mlp.up_proj", s.Intermediate, s.Hidden), ("mlp.down_proj", s.Hidden, s.Intermediate),
            ];
            yield return Norm(p + "input_layernorm", s.Hidden);
            yield return Norm(p + "post_attention_layernorm", s.Hidden);
            foreach ((string module, long outputs, long inputs) in modules)
            {
                IEnumerable<SyntheticTensor> tensors = SyntheticQuantization.Formats.Contains(format)
                    ? SyntheticQuantization.Module(format, p + module, outputs, inputs)
                    : [Dense(p + module, i, outputs, inputs)];
                foreach (SyntheticTensor tensor in tensors)
                    yield return tensor;
            }

            if (s.Architecture == "qwen2")
            {
                foreach ((string module, long outputs, _) in modules.Take(3))
                    yield return new SyntheticTensor(p + module + ".bias", TensorType.F32, [outputs], SyntheticContent.Bias);
            }
            else
            {
                yield return Norm(p + "self_attn.q_norm", s.HeadDim);
                yield return Norm(p + "self_attn.k_norm", s.HeadDim);
            }
        }

        yield return Norm("model.norm", s.Hidden);
        if (!s.Tied)
            yield return Dense("lm_head", 0, s.Vocabulary, s.Hidden);

        SyntheticTensor Dense(string module, int layer, long outputs, long inputs) => new(module + ".weight", TypeOf(format, module, layer, s, inputs), [outputs, inputs], SyntheticContent.Weights);
        static SyntheticTensor Norm(string module, long length) => new(module + ".weight", TensorType.F32, [length], SyntheticContent.Norm);
    }

    /// <summary>llama.cpp's mixes keep the output, and half of the values and down projections, in Q6_K; rows that are no multiple of 256 fall back to blocks of 32.</summary>
    private static TensorType TypeOf(string format, string module, int layer, SyntheticShape shape, long columns)
    {
        if (SyntheticQuantization.Formats.Contains(format))
            return TensorType.BF16;
        bool isMix = format.EndsWith("_m", StringComparison.Ordinal);
        TensorType type = Enum.Parse<TensorType>(isMix ? format[..^2] : format, ignoreCase: true);
        if (isMix)
        {
            int eighth = shape.Layers / 8;
            bool more = layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2;
            if (module == "lm_head" || (module == "model.embed_tokens" && shape.Tied) || (more && (module.EndsWith("v_proj", StringComparison.Ordinal) || module.EndsWith("down_proj", StringComparison.Ordinal))))
                type = TensorType.Q6_K;
        }

        if (columns % type.BlockElements == 0)
            return type;
        return type switch
        {
            TensorType.Q2_K or TensorType.Q3_K => TensorType.Q4_0,
            TensorType.Q4_K => TensorType.Q5_0,
            TensorType.IQ4_XS => TensorType.IQ4_NL,
            _ => TensorType.Q8_0,
        };
    }
}

/// <summary>A tensor to be made.</summary>
internal sealed record SyntheticTensor(string Name, TensorType Type, long[] Shape, SyntheticContent Content)
{
    public long ByteCount => Shape.Aggregate(1L, (a, b) => a * b) / Type.BlockElements * Type.BlockBytes;

    public unsafe Tensor At(string file, byte* data) => new(file, Name, Type, ImmutableArray.Create(Shape), data);
}
