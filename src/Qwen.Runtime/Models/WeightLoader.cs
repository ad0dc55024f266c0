using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Models;

/// <summary>Finds each weight of the network in a checkpoint, under Hugging Face's or GGUF's names, and checks its shape.</summary>
internal sealed class WeightLoader(Checkpoint checkpoint, ModelConfig config, IBackend backend)
{
    private readonly bool _gguf = checkpoint.Metadata is not null;

    /// <summary>Bytes of the matrices and vectors that every token reads.</summary>
    public long BytesPerToken { get; private set; }

    public LinearWeights Embedding()
    {
        Tensor table = Matrix(_gguf ? "token_embd.weight" : "model.embed_tokens.weight", config.VocabularySize, config.HiddenSize);
        if (config.TiedEmbeddings)
            BytesPerToken += table.ByteCount;
        return backend.LoadLinear([table], [null]);
    }

    public VectorWeights FinalNorm() => Vector(_gguf ? "output_norm.weight" : "model.norm.weight", config.HiddenSize);

    public LinearWeights Output() => Linear(config.HiddenSize, (_gguf ? "output" : "lm_head", config.VocabularySize));

    public DecoderLayer Layer(int index)
    {
        string Name(string huggingFace, string gguf) => _gguf ? $"blk.{index}.{gguf}" : $"model.layers.{index}.{huggingFace}";
        VectorWeights Norm(string huggingFace, string gguf, int width) => Vector(Name(huggingFace, gguf) + ".weight", width);
        int queries = config.Heads * config.HeadDim, keys = config.KvHeads * config.HeadDim;
        return new DecoderLayer
        {
            InputNorm = Norm("input_layernorm", "attn_norm", config.HiddenSize),
            Qkv = Linear(
                config.HiddenSize,
                (Name("self_attn.q_proj", "attn_q"), queries),
                (Name("self_attn.k_proj", "attn_k"), keys),
                (Name("self_attn.v_proj", "attn_v"), keys)),
            Attention = new AttentionLayer(
                index,
                config.Heads,
                config.KvHeads,
                config.HeadDim,
                config.WindowOf(index),
                config.HasQkNorm ? Norm("self_attn.q_norm", "attn_q_norm", config.HeadDim) : null,
                config.HasQkNorm ? Norm("self_attn.k_norm", "attn_k_norm", config.HeadDim) : null,
                config.RmsNormEpsilon),
            Output = Linear(queries, (Name("self_attn.o_proj", "attn_output"), config.HiddenSize)),
            PostAttentionNorm = Norm("post_attention_layernorm", "ffn_norm", config.HiddenSize),
            GateUp = Linear(
                config.HiddenSize,
                (Name("mlp.gate_proj", "ffn_gate"), config.IntermediateSize),
                (Name("mlp.up_proj", "ffn_up"), config.IntermediateSize)),
            Down = Linear(config.IntermediateSize, (Name("mlp.down_proj", "ffn_down"), config.HiddenSize)),
        };
    }

    private LinearWeights Linear(int inputs, params ReadOnlySpan<(string Name, int Outputs)> parts)
    {
        var matrices = new Tensor[parts.Length];
        var biases = new Tensor?[parts.Length];
        for (int i = 0; i < parts.Length; i++)
        {
            matrices[i] = Matrix(parts[i].Name + ".weight", parts[i].Outputs, inputs);
            BytesPerToken += matrices[i].ByteCount;
            if (!checkpoint.Tensors.TryGetValue(parts[i].Name + ".bias", out biases[i]))
                continue;
            CheckShape(biases[i]!, parts[i].Outputs);
            BytesPerToken += biases[i]!.ByteCount;
        }

        return backend.LoadLinear(matrices, biases);
    }

    private Tensor Matrix(string name, int outputs, int inputs)
    {
        Tensor matrix = checkpoint.Require(name);
        CheckShape(matrix, outputs, inputs);
        return matrix;
    }

    private VectorWeights Vector(string name, int length)
    {
        Tensor vector = checkpoint.Require(name);
        CheckShape(vector, length);
        BytesPerToken += vector.ByteCount;
        return backend.LoadVector(vector);
    }

    private static void CheckShape(Tensor tensor, params ReadOnlySpan<long> shape)
    {
        if (!tensor.Shape.AsSpan().SequenceEqual(shape))
            throw new ModelFormatException(tensor.File, $"tensor '{tensor.Name}' has shape [{string.Join(", ", tensor.Shape)}] where the model's hyperparameters ask for [{string.Join(", ", shape.ToArray())}]");
    }
}
