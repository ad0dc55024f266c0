using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>One answer of a request: its sequence and its sampler.</summary>
internal sealed class Generation : Sequence
{
    private readonly HashSet<int> _endTokens;
    private volatile bool _isStopped;

    public Generation(Request request, int index, IReadOnlyList<int> prompt, int maxLength, HashSet<int> endTokens, BlockPool pool, UInt128 root)
        : base(prompt, maxLength, pool, root)
    {
        Request = request;
        Index = index;
        _endTokens = endTokens;
        Sampler = new Sampler(request.Sampling with { Seed = unchecked(request.Sampling.Seed + (ulong)index) }, prompt, endTokens);
    }

    public Request Request { get; }

    /// <summary>Which of the request's answers.</summary>
    public int Index { get; }

    public Sampler Sampler { get; }

    /// <summary>Tokens of the answer.</summary>
    public int Generated => Length - PromptLength;

    /// <summary>Nothing is sampled: the prompt is only read into the cache.</summary>
    public bool OnlyReads => MaxLength == PromptLength;

    /// <summary>The reader found a stop text; the loop ends the answer before its next step.</summary>
    public bool IsStopped => _isStopped;

    /// <summary>It is no longer the scheduler's.</summary>
    public bool HasEnded { get; set; }

    /// <summary>Most tokens that are drafted for it next.</summary>
    public int DraftLimit { get; private set; } = int.MaxValue;

    /// <summary>When its last token was sampled; null before the first.</summary>
    public long? LastTokenAt { get; set; }

    /// <inheritdoc/>
    public override int LogitsFrom => WantsPromptLogprobs ? Request.PromptLogprobs!.Count - 1 : OnlyReads ? int.MaxValue : Length - 1;

    /// <inheritdoc/>
    public override bool ReusesPrefix => !WantsPromptLogprobs;

    private bool WantsPromptLogprobs => Index == 0 && Request.PromptLogprobs?.Count < PromptLength;

    public void Stop() => _isStopped = true;

    /// <summary>Of a draft, so many tokens were right: a longer one is worth while after one that all was, a shorter one after a miss.</summary>
    public void NoteDraft(int drafted, int accepted) => DraftLimit = accepted == drafted ? drafted + 2 : Math.Max(drafted - 1, 1);

    /// <summary>Why the answer ends with the token just appended; null if it goes on.</summary>
    public FinishReason? ReasonToStop(int token)
    {
        if (_endTokens.Contains(token) && Generated > Request.Sampling.MinTokens)
            return FinishReason.Stop;
        return Length == MaxLength ? FinishReason.Length : null;
    }
}
