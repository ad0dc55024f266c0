using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Models;

/// <summary>Finds each weight of the network in a checkpoint, under Hugging Face's or GGUF's names, and checks its shape.</summary>
/// <param name="checkpoint">The weights.</param>
/// <param name="config">The sizes they must have.</param>
/// <param name="target">What takes them.</param>
/// <param name="loaded">Takes what was loaded, as it comes; its owner disposes it.</param>
internal sealed class WeightLoader(Checkpoint checkpoint, ModelConfig config, IWeightTarget target, ICollection<IDisposable> loaded)
{
    private readonly bool _gguf = checkpoint.Metadata is not null;
    private readonly StoredMatrixReader _matrices = new(checkpoint, config.Quantization);

    /// <summary>Bytes of the matrices and vectors that every token reads.</summary>
    public long BytesPerToken { get; private set; }

    /// <summary>The embedding; where it is tied, also the output projection.</summary>
    public LinearWeights Embedding()
    {
        StoredMatrix table = _matrices.Read(_gguf ? "token_embd" : "model.embed_tokens", config.VocabularySize, config.HiddenSize);
        if (table is GroupQuantizedMatrix) // no quantizer does that, and act-order would make no sense of a row
            throw new ModelFormatException(table.File, $"'{table.Name}': an embedding quantized by groups is not supported");
        LinearWeights weights = Own(target.LoadLinear([table], [null]));
        if (config.TiedEmbeddings)
            BytesPerToken += weights.ByteCount;
        return weights;
    }

    public VectorWeights FinalNorm() => Vector(_gguf ? "output_norm.weight" : "model.norm.weight", config.HiddenSize);

    /// <summary>The output projection of a model whose embeddings are not tied.</summary>
    public LinearWeights Output() => Linear(config.HiddenSize, (_gguf ? "output" : "lm_head", config.VocabularySize));

    /// <summary>A decoder layer.</summary>
    /// <param name="index">Its number in the checkpoint.</param>
    /// <param name="cacheIndex">Its number in the cache of its backend.</param>
    public DecoderLayer Layer(int index, int cacheIndex)
    {
        string Name(string huggingFace, string gguf) => _gguf ? $"blk.{index}.{gguf}" : $"model.layers.{index}.{huggingFace}";
        VectorWeights Norm(string huggingFace, string gguf, int width) => Vector(Name(huggingFace, gguf) + ".weight", width);
        int queries = config.Heads * config.HeadDim, keys = config.KvHeads * config.HeadDim;
        // In the order that a token reads them.
        VectorWeights inputNorm = Norm("input_layernorm", "attn_norm", config.HiddenSize);
        LinearWeights qkv = Linear(
            config.HiddenSize,
            (Name("self_attn.q_proj", "attn_q"), queries),
            (Name("self_attn.k_proj", "attn_k"), keys),
            (Name("self_attn.v_proj", "attn_v"), keys));
        VectorWeights? queryNorm = config.HasQkNorm ? Norm("self_attn.q_norm", "attn_q_norm", config.HeadDim) : null;
        VectorWeights? keyNorm = config.HasQkNorm ? Norm("self_attn.k_norm", "attn_k_norm", config.HeadDim) : null;
        string keyBiasName = Name("self_attn.k_proj.bias", "attn_k.bias");
        VectorWeights? keyBias = checkpoint.Tensors.ContainsKey(keyBiasName) ? Vector(keyBiasName, keys) : null;
        LinearWeights output = Linear(queries, (Name("self_attn.o_proj", "attn_output"), config.HiddenSize));
        return new DecoderLayer
        {
            InputNorm = inputNorm,
            Qkv = qkv,
            Attention = new AttentionLayer(
                cacheIndex, config.Heads, config.KvHeads, config.HeadDim, config.WindowOf(index), queryNorm, keyNorm, config.RmsNormEpsilon, keyBias),
            Output = output,
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
        var matrices = new StoredMatrix[parts.Length];
        var biases = new Tensor?[parts.Length];
        for (int i = 0; i < parts.Length; i++)
        {
            matrices[i] = _matrices.Read(parts[i].Name, parts[i].Outputs, inputs);
            if (checkpoint.Tensors.TryGetValue(parts[i].Name + ".bias", out biases[i]))
                StoredMatrixReader.CheckShape(biases[i]!, parts[i].Outputs);
        }

        LinearWeights weights = Own(target.LoadLinear(matrices, biases));
        BytesPerToken += weights.ByteCount;
        return weights;
    }

    private VectorWeights Vector(string name, int length)
    {
        Tensor vector = checkpoint.Require(name);
        StoredMatrixReader.CheckShape(vector, length);
        BytesPerToken += vector.ByteCount;
        return Own(target.LoadVector(vector));
    }

    private T Own<T>(T weights)
        where T : IDisposable
    {
        loaded.Add(weights);
        return weights;
    }
}
