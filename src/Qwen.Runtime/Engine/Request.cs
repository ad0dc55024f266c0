using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>A request inside the engine: its answers, the stream they leave by, and when what happened to it.</summary>
internal sealed class Request
{
    private readonly IReadOnlyList<int> _prompt;
    private readonly HashSet<int> _endTokens;
    private readonly BlockPool _pool;
    private readonly UInt128 _root;
    private readonly int _maxLength;
    private volatile bool _cancelled;

    /// <summary>A request that is new.</summary>
    /// <param name="prompt">Token ids.</param>
    /// <param name="sampling">How to sample.</param>
    /// <param name="options">How to treat it.</param>
    /// <param name="maxModelLength">Longest sequence.</param>
    /// <param name="eosTokenIds">What ends an answer unless <see cref="SamplingParameters.IgnoreEos"/>.</param>
    /// <param name="pool">Where its blocks come from.</param>
    public Request(IReadOnlyList<int> prompt, SamplingParameters sampling, RequestOptions options, int maxModelLength, IReadOnlySet<int> eosTokenIds, BlockPool pool)
    {
        Sampling = sampling;
        Options = options;
        _prompt = prompt;
        _pool = pool;
        _root = PrefixIndex.Root(options.CacheSalt);
        _maxLength = (int)Math.Min((long)prompt.Count + sampling.MaxTokens, maxModelLength);
        _endTokens = [.. sampling.StopTokenIds];
        if (!sampling.IgnoreEos)
            _endTokens.UnionWith(eosTokenIds);
        Generations = new Generation[sampling.BestOf];
        Leader.Width = Open = Generations.Length;
        // The first token has nothing before it to be likely after.
        PromptLogprobs = sampling.PromptLogprobs is null ? null : [null];
    }

    public SamplingParameters Sampling { get; }

    public RequestOptions Options { get; }

    /// <summary>Its answers: the first one, which reads the prompt, and those that have forked from it.</summary>
    public Generation?[] Generations { get; }

    /// <summary>The first answer.</summary>
    public Generation Leader => Generations[0] ??= Create(0);

    public int PromptLength => Leader.PromptLength;

    /// <summary>Tokens of the prompt that were in the cache.</summary>
    public int CachedTokens => Leader.CachedTokens ?? 0;

    public TokenStream Stream { get; } = new();

    /// <summary>Of the prompt's tokens, as far as it is read; null if they are not wanted.</summary>
    public List<TokenLogprobs?>? PromptLogprobs { get; }

    /// <summary>Called by the loop when the prompt is read, in place of sampling: for requests that only fill the cache.</summary>
    public Action<Generation>? WhenRead { get; init; }

    /// <summary>Answers that have not ended.</summary>
    public int Open { get; set; }

    /// <summary>Tokens sampled for all answers.</summary>
    public int Generated { get; set; }

    /// <summary>The reader has gone; the loop takes the request out before its next step.</summary>
    public bool IsCancelled => _cancelled;

    /// <summary>Why, where the reader may still wait.</summary>
    public CancellationToken Cancellation { get; private set; }

    /// <summary>Clock times of the loop: submission, first step, first token; null before.</summary>
    public long? SubmittedAt { get; set; }

    /// <inheritdoc cref="SubmittedAt"/>
    public long? StartedAt { get; set; }

    /// <inheritdoc cref="SubmittedAt"/>
    public long? FirstTokenAt { get; set; }

    /// <summary>Since when it waits for its reader; null while it doesn't.</summary>
    public long? PausedAt { get; set; }

    public void Cancel(CancellationToken cancellation)
    {
        if (_cancelled)
            return;
        Cancellation = cancellation;
        _cancelled = true;
    }

    /// <summary>Another answer, to fork from the first.</summary>
    public Generation Fork(int index) => Generations[index] = Create(index);

    private Generation Create(int index) => new(this, index, _prompt, _maxLength, _endTokens, _pool, _root) { Priority = Options.Priority };
}
