namespace Qwen.Runtime.Speculation;

/// <summary>How answers are guessed ahead. Without a draft model: by what followed the same tokens earlier (prompt lookup).</summary>
public sealed record SpeculationOptions
{
    /// <summary>Most tokens that are guessed at once.</summary>
    public int Tokens { get; init; } = 4;

    /// <summary>Fewest last tokens that must be found earlier in the sequence.</summary>
    public int MinNGram { get; init; } = 2;

    /// <summary>Most last tokens that are looked for; longer matches go first.</summary>
    public int MaxNGram { get; init; } = 4;

    /// <summary>A smaller model with the same tokens, as <see cref="Engine.LoadedModel.Load"/> takes it; null for prompt lookup.</summary>
    public string? DraftModel { get; init; }
}
