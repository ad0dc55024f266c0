namespace Qwen.Runtime.Formats;

/// <summary>The sizes of a dense Qwen network.</summary>
/// <param name="Architecture">qwen2 (with biases) or qwen3 (with norms of query and key heads).</param>
/// <param name="Hidden">Width of the hidden state.</param>
/// <param name="Layers">Decoder layers.</param>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key and value heads.</param>
/// <param name="HeadDim">Width of a head.</param>
/// <param name="Intermediate">Width of the MLP.</param>
/// <param name="Tied">The output projection is the embedding.</param>
/// <param name="Vocabulary">Rows of the embedding.</param>
/// <param name="Context">Positions.</param>
public sealed record SyntheticShape(
    string Architecture, int Hidden, int Layers, int Heads, int KvHeads, int HeadDim, int Intermediate, bool Tied, int Vocabulary = 151936, int Context = 32768)
{
    /// <summary>The published models, by the name they have in <c>synthetic:</c>.</summary>
    public static IReadOnlyDictionary<string, SyntheticShape> Known { get; } = new Dictionary<string, SyntheticShape>(StringComparer.Ordinal)
    {
        ["qwen2.5-0.5b"] = new("qwen2", 896, 24, 14, 2, 64, 4864, true),
        ["qwen2.5-1.5b"] = new("qwen2", 1536, 28, 12, 2, 128, 8960, true),
        ["qwen2.5-3b"] = new("qwen2", 2048, 36, 16, 2, 128, 11008, true),
        ["qwen2.5-7b"] = new("qwen2", 3584, 28, 28, 4, 128, 18944, false, 152064),
        ["qwen2.5-14b"] = new("qwen2", 5120, 48, 40, 8, 128, 13824, false, 152064),
        ["qwen2.5-32b"] = new("qwen2", 5120, 64, 40, 8, 128, 27648, false, 152064),
        ["qwen2.5-72b"] = new("qwen2", 8192, 80, 64, 8, 128, 29568, false, 152064),
        ["qwen3-0.6b"] = new("qwen3", 1024, 28, 16, 8, 128, 3072, true, Context: 40960),
        ["qwen3-1.7b"] = new("qwen3", 2048, 28, 16, 8, 128, 6144, true, Context: 40960),
        ["qwen3-4b"] = new("qwen3", 2560, 36, 32, 8, 128, 9728, true, Context: 40960),
        ["qwen3-8b"] = new("qwen3", 4096, 36, 32, 8, 128, 12288, false, Context: 40960),
        ["qwen3-14b"] = new("qwen3", 5120, 40, 40, 8, 128, 17408, false, Context: 40960),
        ["qwen3-32b"] = new("qwen3", 5120, 64, 64, 8, 128, 25600, false, Context: 40960),
    };
}
