using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Tests.Formats;

/// <summary>A small random network in Hugging Face's layout, twice: quantized by a <see cref="Scheme"/>, and in F32 with the values that this means.</summary>
internal sealed class TinyModel
{
    public const int Vocabulary = 256;

    public TinyModel(Scheme scheme, int seed, int hidden = 128, int intermediate = 256, int layers = 2)
    {
        const int HeadDim = 32;
        int heads = hidden / HeadDim, kvHeads = heads / 2;
        var random = new Random(seed);
        Config = new JsonObject
        {
            ["model_type"] = scheme.Architecture, ["hidden_size"] = hidden, ["num_hidden_layers"] = layers, ["num_attention_heads"] = heads, ["num_key_value_heads"] = kvHeads,
            ["head_dim"] = HeadDim, ["intermediate_size"] = intermediate, ["vocab_size"] = Vocabulary, ["max_position_embeddings"] = 64, ["rms_norm_eps"] = 1e-6,
            ["rope_theta"] = 10000.0, ["tie_word_embeddings"] = scheme.IsTied,
        };
        Dense("model.embed_tokens.weight", TensorType.F16, [Vocabulary, hidden], 0, 0.5);
        Dense("model.norm.weight", TensorType.F32, [hidden], 1, 0.1);
        if (!scheme.IsTied)
            Dense("lm_head.weight", TensorType.F16, [Vocabulary, hidden], 0, 0.1);
        for (int i = 0; i < layers; i++)
        {
            string p = $"model.layers.{i}.";
            Dense(p + "input_layernorm.weight", TensorType.F32, [hidden], 1, 0.1);
            Dense(p + "post_attention_layernorm.weight", TensorType.F32, [hidden], 1, 0.1);
            Module(p + "self_attn.q_proj", heads * HeadDim, hidden, hasBias: true);
            Module(p + "self_attn.k_proj", kvHeads * HeadDim, hidden, hasBias: true);
            Module(p + "self_attn.v_proj", kvHeads * HeadDim, hidden, hasBias: true);
            Module(p + "self_attn.o_proj", hidden, heads * HeadDim, hasBias: false);
            Module(p + "mlp.gate_proj", intermediate, hidden, hasBias: false);
            Module(p + "mlp.up_proj", intermediate, hidden, hasBias: false);
            Module(p + "mlp.down_proj", hidden, intermediate, hasBias: false);
            if (scheme.Architecture == "qwen3")
            {
                Dense(p + "self_attn.q_norm.weight", TensorType.F32, [HeadDim], 1, 0.1);
                Dense(p + "self_attn.k_norm.weight", TensorType.F32, [HeadDim], 1, 0.1);
            }
        }

        QuantizedConfig = Config.DeepClone().AsObject();
        QuantizedConfig["quantization_config"] = scheme.Config();

        void Module(string name, int rows, int columns, bool hasBias)
        {
            Exact.Add(name + ".weight", TensorType.F32, [rows, columns], scheme.Quantize(Quantized, random, name, rows, columns));
            Modules.Add((name, rows, columns));
            if (hasBias && scheme.Architecture == "qwen2")
                Dense(name + ".bias", TensorType.F16, [rows], 0, 0.3);
        }

        void Dense(string name, TensorType type, long[] shape, double center, double deviation)
        {
            var values = new float[shape.Aggregate(1L, (a, b) => a * b)];
            for (int i = 0; i < values.Length; i++)
                values[i] = (float)(Half)(center + (deviation * ((random.NextDouble() * 2) - 1)));
            Exact.AddFloats(name, type, shape, values);
            Quantized.AddFloats(name, type, shape, values);
        }
    }

    public JsonObject Config { get; }

    public JsonObject QuantizedConfig { get; }

    /// <summary>The tensors with linear layers in F32.</summary>
    public TensorSet Exact { get; } = [];

    /// <summary>The tensors with linear layers as the scheme packs them.</summary>
    public TensorSet Quantized { get; } = [];

    /// <summary>The linear layers.</summary>
    public List<(string Name, int Rows, int Columns)> Modules { get; } = [];

    /// <summary>Writes a model directory, with a tokenizer of bytes.</summary>
    public static void Write(string folder, TensorSet tensors, JsonObject config)
    {
        Directory.CreateDirectory(folder);
        var writer = new SafeTensorsWriter();
        foreach ((string name, (TensorType type, long[] shape, byte[] data)) in tensors)
            writer.Add(name, type, shape, data);
        using (FileStream file = File.Create(Path.Combine(folder, "model.safetensors")))
            writer.Write(file);
        File.WriteAllText(Path.Combine(folder, "config.json"), config.ToJsonString());
        File.WriteAllText(Path.Combine(folder, "vocab.json"), JsonSerializer.Serialize(Enumerable.Range(0, Vocabulary).ToDictionary(b => ByteAlphabet.CharOf((byte)b).ToString(), b => b)));
        File.WriteAllText(Path.Combine(folder, "merges.txt"), "#version: 0.2\n");
    }
}
