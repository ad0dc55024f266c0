using Qwen.Runtime.Backends;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>What the engine's core asks of a network and its cache. Called by one thread.</summary>
internal interface IModelRunner
{
    /// <summary>Copies blocks of the cache, in order.</summary>
    void CopyBlocks(ReadOnlySpan<BlockCopy> copies);

    /// <summary>Runs one step.</summary>
    void Forward(Batch batch);

    /// <summary>What chooses tokens where the logits lie; null where that is on the host.</summary>
    LogitSampler? Sampler { get; }

    /// <summary>A batch may have the complement of a logit row of the step before for a token: the one that <see cref="Sampler"/> chose for it.</summary>
    bool ReadsItsChoices { get; }

    /// <summary>The logits of a row of the last step, over the tokens that may be sampled. Free to change until the next step.</summary>
    Span<float> Logits(int row);
}

/// <summary>A loaded model as the core sees it.</summary>
internal sealed class ModelRunner(LoadedModel model) : IModelRunner
{
    public LogitSampler? Sampler { get; } = model.Options.SamplesOnHost ? null : model.Network.Sampler;

    public bool ReadsItsChoices { get; } = !model.Options.SamplesOnHost && model.Network.ReadsItsChoices;

    public void CopyBlocks(ReadOnlySpan<BlockCopy> copies) => model.Cache.CopyBlocks(copies);

    public void Forward(Batch batch) => model.Network.Forward(batch, model.Cache);

    // Rows that pad the embedding are no tokens.
    public Span<float> Logits(int row) => model.Network.Logits(row)[..model.Tokenizer.VocabularySize];
}
