using System.Buffers;
using System.Text;
using Qwen.Runtime.Formats;

namespace Qwen.Comparison;

/// <summary>A GGUF file of a real Qwen shape with random weights, which both engines read.</summary>
/// <remarks>The vocabulary has the size of Qwen's own: its words are made up, pairs of shorter ones, so that loading costs what it does with a real one.</remarks>
internal static class SyntheticGguf
{
    /// <summary>Writes the model.</summary>
    /// <param name="path">The file.</param>
    /// <param name="shape">A name of <see cref="SyntheticShape.Known"/>.</param>
    /// <param name="format">A format of <see cref="SyntheticCheckpoint"/> whose types GGUF has.</param>
    public static void Write(string path, string shape, string format)
    {
        SyntheticShape s = SyntheticShape.Known[shape];
        using Checkpoint checkpoint = SyntheticCheckpoint.Create($"synthetic:{shape}:{format}");
        var writer = new GgufWriter();
        Describe(writer.Metadata, s, shape);
        var memories = new List<IDisposable>();
        foreach (Tensor tensor in checkpoint.Tensors.Values)
        {
            var memory = new TensorMemory(tensor);
            memories.Add(memory);
            writer.Add(NameInGguf(tensor.Name), tensor.Type, tensor.Shape.AsSpan(), memory.Memory);
        }

        using (FileStream file = File.Create(path))
            writer.Write(file);
        memories.ForEach(m => m.Dispose());
    }

    private static void Describe(Dictionary<string, object> metadata, SyntheticShape s, string name)
    {
        string a = s.Architecture;
        metadata["general.architecture"] = a;
        metadata["general.name"] = name;
        metadata[$"{a}.block_count"] = (uint)s.Layers;
        metadata[$"{a}.context_length"] = (uint)s.Context;
        metadata[$"{a}.embedding_length"] = (uint)s.Hidden;
        metadata[$"{a}.feed_forward_length"] = (uint)s.Intermediate;
        metadata[$"{a}.attention.head_count"] = (uint)s.Heads;
        metadata[$"{a}.attention.head_count_kv"] = (uint)s.KvHeads;
        metadata[$"{a}.attention.key_length"] = (uint)s.HeadDim;
        metadata[$"{a}.attention.value_length"] = (uint)s.HeadDim;
        metadata[$"{a}.attention.layer_norm_rms_epsilon"] = 1e-6f;
        metadata[$"{a}.rope.freq_base"] = 1e6f;

        (string[] tokens, string[] merges) = Vocabulary(s.Vocabulary);
        metadata["tokenizer.ggml.model"] = "gpt2";
        metadata["tokenizer.ggml.pre"] = "qwen2";
        metadata["tokenizer.ggml.tokens"] = tokens;
        metadata["tokenizer.ggml.token_type"] = tokens.Select(t => t.StartsWith("<|", StringComparison.Ordinal) ? 3 : 1).ToArray();
        metadata["tokenizer.ggml.merges"] = merges;
        metadata["tokenizer.ggml.eos_token_id"] = (uint)(tokens.Length - 1);
        metadata["tokenizer.ggml.add_bos_token"] = false;
        metadata["tokenizer.chat_template"] = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}";
    }

    /// <summary>The 256 bytes in GPT-2's alphabet, pairs of what came before, and Qwen's three control tokens.</summary>
    private static (string[] Tokens, string[] Merges) Vocabulary(int size)
    {
        int next = 256;
        var tokens = new List<string>(size);
        for (int b = 0; b < 256; b++)
            tokens.Add(((char)(b is (>= 33 and <= 126) or (>= 161 and <= 172) or (>= 174) ? b : next++)).ToString());

        var merges = new List<string>(size);
        var known = new HashSet<string>(tokens, StringComparer.Ordinal);
        var random = new Random(1);
        while (tokens.Count < size - 3)
        {
            // Shorter words come first, as in a vocabulary that was learned.
            string left = tokens[random.Next(Math.Min(tokens.Count, 10_000))], right = tokens[random.Next(Math.Min(tokens.Count, 10_000))];
            if (left.Length + right.Length > 12 || !known.Add(left + right))
                continue;
            tokens.Add(left + right);
            merges.Add($"{left} {right}");
        }

        return ([.. tokens, "<|endoftext|>", "<|im_start|>", "<|im_end|>"], [.. merges]);
    }

    private static string NameInGguf(string name)
    {
        var gguf = new StringBuilder(name);
        foreach ((string huggingFace, string ggml) in ((string, string)[])
        [
            ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"), ("model.layers", "blk"),
            ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"), ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
        ])
        {
            gguf.Replace(huggingFace, ggml);
        }

        return gguf.ToString();
    }

    /// <summary>The bytes of a tensor, as the writer takes them.</summary>
    private sealed unsafe class TensorMemory(Tensor tensor) : MemoryManager<byte>
    {
        public override Span<byte> GetSpan() => new(tensor.Data, checked((int)tensor.ByteCount));

        public override MemoryHandle Pin(int elementIndex = 0) => new(tensor.Data + elementIndex);

        public override void Unpin()
        {
        }

        protected override void Dispose(bool disposing)
        {
        }
    }
}
