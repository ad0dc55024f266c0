using Qwen.Runtime.Backends;

namespace Qwen.Runtime.Models;

/// <summary>The weights of one decoder layer, as its backend holds them.</summary>
internal sealed class DecoderLayer
{
    public required VectorWeights InputNorm { get; init; }
    public required LinearWeights Qkv { get; init; }
    public required AttentionLayer Attention { get; init; }
    public required LinearWeights Output { get; init; }
    public required VectorWeights PostAttentionNorm { get; init; }
    public required LinearWeights GateUp { get; init; }
    public required LinearWeights Down { get; init; }
}
