using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>A request inside the engine: its sequence, its sampler, and the stream its tokens leave by.</summary>
internal sealed class Generation : Sequence
{
    private readonly Sampler _sampler;
    private readonly SamplingParameters _sampling;
    private readonly HashSet<int> _endTokens;
    private volatile bool _cancelled;

    public Generation(IReadOnlyList<int> prompt, LoadedModel model, BlockPool pool, SamplingParameters sampling)
        : base(prompt, (int)Math.Min((long)prompt.Count + sampling.MaxTokens, model.MaxModelLength), pool)
    {
        _sampling = sampling;
        _endTokens = [.. sampling.StopTokenIds];
        if (!sampling.IgnoreEos)
            _endTokens.UnionWith(model.EosTokenIds);
        _sampler = new Sampler(sampling, prompt, _endTokens);
    }

    public TokenStream Stream { get; } = new();

    /// <summary>Tokens of the answer.</summary>
    public int Generated => Length - PromptLength;

    /// <summary>The reader has gone; the loop thread takes the sequence out before its next step.</summary>
    public bool IsCancelled => _cancelled;

    public void Cancel() => _cancelled = true;

    /// <summary>Chooses the next token; the logits are changed.</summary>
    public GeneratedToken Sample(Span<float> logits, SamplerWorkspace workspace) =>
        new(_sampler.Sample(logits, workspace, out TokenLogprobs? logprobs), logprobs);

    /// <summary>Why the answer ends with the token just appended; null if it goes on.</summary>
    public FinishReason? ReasonToStop(int token)
    {
        if (_endTokens.Contains(token) && Generated > _sampling.MinTokens)
            return FinishReason.Stop;
        return Length == MaxLength ? FinishReason.Length : null;
    }
}
