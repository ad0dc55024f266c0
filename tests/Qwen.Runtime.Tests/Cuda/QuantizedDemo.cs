using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>The demo model in other formats, quantized here by the plainest rounding. The formats' packings are written out anew.</summary>
internal sealed class QuantizedDemo : IDisposable
{
    private const int Group = 32;

    private static readonly int[] AwqOrder = [0, 2, 4, 6, 1, 3, 5, 7];

    private readonly string? _folder;

    private QuantizedDemo(string path, string? folder) => (Path, _folder) = (path, folder);

    /// <summary>A directory or a file.</summary>
    public string Path { get; }

    /// <summary>The demo model as bf16 (as it is), fp8 (a scale per output), fp8-block, awq, or gguf-q4_0.</summary>
    public static QuantizedDemo Create(string format)
    {
        if (format == "bf16")
            return new QuantizedDemo(Repository.DemoModel, null);
        string folder = Directory.CreateTempSubdirectory("qwen-demo-").FullName;
        using Checkpoint demo = Checkpoint.Open(Repository.DemoModel);
        if (format == "gguf-q4_0")
            return new QuantizedDemo(WriteGguf(demo, System.IO.Path.Combine(folder, "demo-q4_0.gguf")), folder);

        var writer = new SafeTensorsWriter();
        foreach (Tensor tensor in demo.Tensors.Values)
        {
            if (!tensor.Name.EndsWith("proj.weight", StringComparison.Ordinal))
                writer.Add(tensor.Name, tensor.Type, tensor.Shape.AsSpan(), tensor.Bytes.ToArray());
            else if (format == "awq")
                AddAwq(writer, tensor);
            else
                AddFloat8(writer, tensor, isBlock: format == "fp8-block");
        }

        using (FileStream file = File.Create(System.IO.Path.Combine(folder, "model.safetensors")))
            writer.Write(file);
        foreach (string name in (string[])["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
            File.Copy(System.IO.Path.Combine(Repository.DemoModel, name), System.IO.Path.Combine(folder, name));
        JsonObject config = Json("config.json");
        config["quantization_config"] = format switch
        {
            "awq" => new JsonObject { ["quant_method"] = "awq", ["bits"] = 4, ["group_size"] = Group, ["zero_point"] = true, ["version"] = "gemm" },
            "fp8-block" => new JsonObject { ["quant_method"] = "fp8", ["fmt"] = "e4m3", ["activation_scheme"] = "dynamic", ["weight_block_size"] = new JsonArray(128, 128) },
            _ => new JsonObject
            {
                ["quant_method"] = "compressed-tensors", ["format"] = "float-quantized",
                ["config_groups"] = new JsonObject { ["group_0"] = new JsonObject { ["weights"] = new JsonObject { ["num_bits"] = 8, ["type"] = "float", ["strategy"] = "channel" } } },
            },
        };
        File.WriteAllText(System.IO.Path.Combine(folder, "config.json"), config.ToJsonString());
        return new QuantizedDemo(folder, folder);
    }

    public void Dispose()
    {
        if (_folder is not null)
            Directory.Delete(_folder, recursive: true);
    }

    private static JsonObject Json(string name) => JsonNode.Parse(File.ReadAllText(System.IO.Path.Combine(Repository.DemoModel, name)))!.AsObject();

    private static float[] Values(Tensor tensor)
    {
        var values = new float[tensor.ElementCount];
        Dequantizer.Dequantize(tensor.Type, tensor.Bytes, values);
        return values;
    }

    private static void AddFloat8(SafeTensorsWriter writer, Tensor tensor, bool isBlock)
    {
        int rows = (int)tensor.Shape[0], columns = (int)tensor.Shape[1], blockRows = isBlock ? 128 : 1, blockColumns = isBlock ? 128 : columns;
        int down = (rows + blockRows - 1) / blockRows, across = (columns + blockColumns - 1) / blockColumns;
        float[] values = Values(tensor), scales = new float[down * across];
        for (int i = 0; i < values.Length; i++)
        {
            ref float scale = ref scales[(i / columns / blockRows * across) + (i % columns / blockColumns)];
            scale = Math.Max(scale, Math.Abs(values[i]) / 448);
        }

        byte[] codes = [.. values.Select((v, i) => E4M3(v / scales[(i / columns / blockRows * across) + (i % columns / blockColumns)]))];
        writer.Add(tensor.Name, TensorType.F8_E4M3, [rows, columns], codes);
        writer.Add(tensor.Name + (isBlock ? "_scale_inv" : "_scale"), TensorType.F32, isBlock ? [down, across] : [rows, 1], MemoryMarshal.AsBytes<float>(scales).ToArray());
    }

    /// <summary>The nearest of the codes, by looking at all.</summary>
    private static byte E4M3(float value)
    {
        int low = 0, high = 0x7e; // codes of positive numbers order as these
        float magnitude = Math.Abs(value);
        while (high - low > 1)
        {
            int middle = (low + high) / 2;
            (low, high) = Float8.FromE4M3((byte)middle) <= magnitude ? (middle, high) : (low, middle);
        }

        float below = Float8.FromE4M3((byte)low), above = Float8.FromE4M3((byte)high);
        return (byte)((magnitude - below < above - magnitude ? low : high) | (value < 0 ? 0x80 : 0));
    }

    private static void AddAwq(SafeTensorsWriter writer, Tensor tensor)
    {
        int rows = (int)tensor.Shape[0], columns = (int)tensor.Shape[1], groups = columns / Group;
        float[] values = Values(tensor);
        var weights = new uint[columns * rows / 8];
        var zeros = new uint[groups * rows / 8];
        var scales = new Half[groups * rows];
        for (int r = 0; r < rows; r++)
        {
            int shift = 4 * Array.IndexOf(AwqOrder, r % 8);
            for (int g = 0; g < groups; g++)
            {
                ReadOnlySpan<float> group = values.AsSpan((r * columns) + (g * Group), Group);
                float low = Math.Min(Min(group), 0), high = Math.Max(Max(group), 0);
                var scale = (Half)(Math.Max(high - low, 1e-6f) / 15);
                int zero = (int)Math.Clamp(MathF.Round(-low / (float)scale), 0, 15);
                scales[(g * rows) + r] = scale;
                zeros[((g * rows) + r) / 8] |= (uint)zero << shift;
                for (int i = 0; i < Group; i++)
                    weights[((((g * Group) + i) * rows) + r) / 8] |= (uint)Math.Clamp(MathF.Round(group[i] / (float)scale) + zero, 0, 15) << shift;
            }
        }

        string module = tensor.Name[..^".weight".Length];
        writer.Add(module + ".qweight", TensorType.I32, [columns, rows / 8], MemoryMarshal.AsBytes<uint>(weights).ToArray());
        writer.Add(module + ".qzeros", TensorType.I32, [groups, rows / 8], MemoryMarshal.AsBytes<uint>(zeros).ToArray());
        writer.Add(module + ".scales", TensorType.F16, [groups, rows], MemoryMarshal.AsBytes<Half>(scales).ToArray());
    }

    private static string WriteGguf(Checkpoint demo, string path)
    {
        JsonObject config = Json("config.json"), tokenizer = Json("tokenizer.json");
        var tokens = new string[(int)config["vocab_size"]!];
        int[] types = [.. tokens.Select(_ => 1)];
        for (int i = 0; i < tokens.Length; i++)
            tokens[i] = $"[unused{i}]";
        foreach ((string text, JsonNode? id) in tokenizer["model"]!["vocab"]!.AsObject())
            tokens[(int)id!] = text;
        foreach (JsonNode? added in tokenizer["added_tokens"]!.AsArray())
            (tokens[(int)added!["id"]!], types[(int)added["id"]!]) = ((string)added["content"]!, (bool)added["special"]! ? 3 : 4);
        string Merge(JsonNode? merge) => merge is JsonArray pair ? $"{pair[0]} {pair[1]}" : (string)merge!;

        var writer = new GgufWriter();
        foreach ((string key, object value) in (ReadOnlySpan<(string, object)>)
        [
            ("general.architecture", "qwen2"), ("qwen2.block_count", (uint)config["num_hidden_layers"]!), ("qwen2.embedding_length", (uint)config["hidden_size"]!),
            ("qwen2.feed_forward_length", (uint)config["intermediate_size"]!), ("qwen2.attention.head_count", (uint)config["num_attention_heads"]!),
            ("qwen2.attention.head_count_kv", (uint)config["num_key_value_heads"]!), ("qwen2.context_length", (uint)config["max_position_embeddings"]!),
            ("qwen2.rope.freq_base", (float)config["rope_theta"]!), ("qwen2.attention.layer_norm_rms_epsilon", (float)config["rms_norm_eps"]!),
            ("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "qwen2"), ("tokenizer.ggml.tokens", tokens), ("tokenizer.ggml.token_type", types),
            ("tokenizer.ggml.merges", tokenizer["model"]!["merges"]!.AsArray().Select(Merge).ToArray()), ("tokenizer.ggml.eos_token_id", 2041u),
            ("tokenizer.chat_template", (string)Json("tokenizer_config.json")["chat_template"]!),
        ])
            writer.Metadata.Add(key, value);
        foreach (Tensor tensor in demo.Tensors.Values)
        {
            string name = tensor.Name.Replace("model.embed_tokens", "token_embd", StringComparison.Ordinal).Replace("model.norm", "output_norm", StringComparison.Ordinal)
                .Replace("model.layers.", "blk.", StringComparison.Ordinal).Replace("self_attn.o_proj", "attn_output", StringComparison.Ordinal)
                .Replace("self_attn.q_proj", "attn_q", StringComparison.Ordinal).Replace("self_attn.k_proj", "attn_k", StringComparison.Ordinal)
                .Replace("self_attn.v_proj", "attn_v", StringComparison.Ordinal).Replace("mlp.", "ffn_", StringComparison.Ordinal).Replace("_proj", "", StringComparison.Ordinal)
                .Replace("input_layernorm", "attn_norm", StringComparison.Ordinal).Replace("post_attention_layernorm", "ffn_norm", StringComparison.Ordinal);
            if (tensor.Shape.Length == 2)
                writer.Add(name, TensorType.Q4_0, tensor.Shape.AsSpan(), Q4_0(Values(tensor)));
            else
                writer.Add(name, TensorType.F32, tensor.Shape.AsSpan(), MemoryMarshal.AsBytes<float>(Values(tensor)).ToArray());
        }

        using FileStream file = File.Create(path);
        writer.Write(file);
        return path;
    }

    /// <summary>As ggml: the scale is such that the value of largest magnitude becomes code 0.</summary>
    private static byte[] Q4_0(float[] values)
    {
        var blocks = new byte[values.Length / 32 * 18];
        for (int b = 0; b < values.Length / 32; b++)
        {
            ReadOnlySpan<float> block = values.AsSpan(b * 32, 32);
            float low = Min(block), high = Max(block), largest = -low > high ? low : high;
            var scale = (Half)(largest / -8);
            MemoryMarshal.Write(blocks.AsSpan(b * 18), scale);
            for (int i = 0; i < 32; i++)
            {
                int code = scale == Half.Zero ? 8 : (int)Math.Clamp(MathF.Round(block[i] / (float)scale) + 8, 0, 15);
                blocks[(b * 18) + 2 + (i % 16)] |= (byte)(code << (i / 16 * 4));
            }
        }

        return blocks;
    }

    private static float Min(ReadOnlySpan<float> values) => System.Numerics.Tensors.TensorPrimitives.Min(values);

    private static float Max(ReadOnlySpan<float> values) => System.Numerics.Tensors.TensorPrimitives.Max(values);
}
