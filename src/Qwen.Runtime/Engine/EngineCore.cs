using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;
using Qwen.Runtime.Speculation;

namespace Qwen.Runtime.Engine;

/// <summary>The engine without its thread: what runs, what waits, and how one step follows another. Used by one thread.</summary>
/// <remarks>A step of decodes allocates nothing on the managed heap.</remarks>
internal sealed partial class EngineCore : IDisposable
{
    private readonly IModelRunner _runner;
    private readonly EngineOptions _options;
    private readonly EngineMetrics _metrics;
    private readonly IDrafter? _drafter;
    private readonly Scheduler<Generation> _scheduler;
    private readonly SamplerWorkspace _sampling;
    private readonly float[] _forkLogits;
    private readonly int _vocabulary;
    private readonly List<Generation> _drafting;
    private readonly List<(Request Request, Exception? Error, string Outcome)> _leaving = [];
    private readonly StepMeter _steps;
    private long _promptTokens, _generatedTokens, _drafts, _draftTokens, _acceptedTokens;
    private long _lastEnd;

    public EngineCore(IModelRunner runner, int vocabulary, BlockPool pool, EngineOptions options, StepMeter steps, EngineMetrics metrics, IDrafter? drafter = null)
    {
        _runner = runner;
        _options = options;
        _steps = steps;
        _metrics = metrics;
        _drafter = drafter;
        Pool = pool;
        _scheduler = new Scheduler<Generation>(pool, options.MaxSequences);
        _underWay = [new StepUnderWay(options), new StepUnderWay(options)];
        _sampling = new SamplerWorkspace(vocabulary);
        _forkLogits = new float[vocabulary];
        _vocabulary = vocabulary;
        _drafting = new List<Generation>(options.MaxSequences);
        _lastEnd = Now;
    }

    public BlockPool Pool { get; }

    /// <summary>Anything to do, now or when its reader has caught up.</summary>
    public bool HasWork => _scheduler.HasWork || _underWay[_turn].IsUnderWay;

    /// <summary>Steps that threw, since the last that did not.</summary>
    public int FailedSteps { get; private set; }

    /// <summary>The time between the ends of two requests, lately.</summary>
    public TimeSpan EndInterval { get; private set; }

    public EngineStatistics Statistics => new()
    {
        Running = _scheduler.Running.Count,
        Waiting = _scheduler.Waiting.Count,
        FreeBlocks = Pool.Free,
        CachedBlocks = Pool.Prefixes?.Count ?? 0,
        TotalBlocks = Pool.Blocks,
        PromptTokens = _promptTokens,
        GeneratedTokens = _generatedTokens,
        Preemptions = _scheduler.Preemptions,
        PrefixQueries = _scheduler.PrefixQueries,
        PrefixHits = _scheduler.PrefixHits,
        Decode = _steps.Decode,
        Prefill = _steps.Prefill,
        Mixed = _steps.Mixed,
        Speculation = new SpeculationStatistics(_drafts, _draftTokens, _acceptedTokens),
    };

    private long Now => _options.Clock.GetTimestamp();

    /// <summary>Puts a request into the queue.</summary>
    public void Add(Request request) => _scheduler.Add(request.Leader);

    /// <summary>Ends all requests with an error.</summary>
    public void EndAll(Exception error)
    {
        while (_scheduler.HasWork)
        {
            Generation any = _scheduler.Running.Count > 0 ? _scheduler.Running[0] : _scheduler.Waiting[0];
            Abandon(any.Request, error, EngineMetrics.Aborted);
        }
    }

    public void Dispose()
    {
        foreach (StepUnderWay step in _underWay)
        {
            if (step.IsUnderWay)
                _runner.Sampler?.Wait(); // it writes to memory that its owner is about to free
            step.Dispose();
        }

        _drafter?.Dispose();
    }

    /// <summary>Takes out requests that are cancelled, late, or whose reader is; pauses those whose reader lags.</summary>
    private void Review()
    {
        long now = Now;
        for (int i = 0; i < _scheduler.Running.Count; i++)
            Review(_scheduler.Running[i], now);
        for (int i = 0; i < _scheduler.Waiting.Count; i++)
            Review(_scheduler.Waiting[i], now);
        foreach ((Request request, Exception? error, string outcome) in _leaving)
            Abandon(request, error, outcome);
        _leaving.Clear();
        for (int i = _scheduler.Running.Count - 1; i >= 0; i--)
            EndIfStopped(_scheduler.Running[i]);
        for (int i = _scheduler.Waiting.Count - 1; i >= 0; i--)
            EndIfStopped(_scheduler.Waiting[i]);
    }

    private void Review(Generation generation, long now)
    {
        Request request = generation.Request;
        int unread = request.Stream.Unread;
        generation.IsPaused = unread >= _options.MaxUnreadTokens;
        if (!generation.IsPaused)
            request.PausedAt = null;
        else
            request.PausedAt ??= now;

        if (request.IsCancelled)
            _leaving.Add((request, new OperationCanceledException(request.Cancellation), EngineMetrics.Aborted));
        else if (request.Options.Timeout is { } timeout && Elapsed(request.SubmittedAt, now) >= timeout)
            _leaving.Add((request, new RequestTimeoutException($"The request took longer than its timeout of {timeout.TotalSeconds:0.###} s; {request.Generated} tokens were generated."), EngineMetrics.Aborted));
        else if (Elapsed(request.PausedAt, now) >= _options.SlowReaderTimeout)
            _leaving.Add((request, new SlowReaderException($"{unread} tokens were left unread for {_options.SlowReaderTimeout.TotalSeconds:0.###} s."), EngineMetrics.Aborted));
    }

    private void EndIfStopped(Generation generation)
    {
        if (generation.IsStopped)
            Release(generation, FinishReason.Stop);
    }

    private void Draft()
    {
        if (_drafter is null)
            return;
        _drafting.Clear();
        for (int i = 0; i < _scheduler.Running.Count; i++)
        {
            Generation generation = _scheduler.Running[i];
            if (generation.Pending == 1 && generation.Generated > 0 && generation.DraftRoom > 0 && !generation.IsPaused)
                _drafting.Add(generation);
        }

        if (_drafting.Count == 0)
            return;
        try
        {
            _drafter.Draft(_drafting);
        }
#pragma warning disable CA1031 // As for a step: it fails the requests that were in it.
        catch (Exception error)
#pragma warning restore CA1031
        {
            foreach (Generation generation in _drafting)
                Abandon(generation.Request, error, EngineMetrics.Failed);
        }
    }

    /// <summary>Takes what a step gave for one sequence: drafted tokens as long as they are the ones that are sampled, and one more.</summary>
    private void Accept(in ScheduledSequence<Generation> part)
    {
        Generation generation = part.Sequence;
        Request request = generation.Request;
        int row = part.LogitRow, end = row + part.LogitRows, position = generation.Computed + part.Tokens - part.LogitRows;
        int drafted = Math.Max(part.Tokens - generation.Pending, 0), accepted = 0;
        generation.Advance(part.Tokens - drafted);
        for (; row < end && position < generation.PromptLength - 1; row++, position++)
        {
            if (!TryAddPromptLogprobs(request, row, generation.Tokens[position + 1]))
                return;
        }

        if (generation.Pending > 0)
            return;
        if (generation.OnlyReads)
        {
            request.WhenRead?.Invoke(generation);
            End(generation, FinishReason.Length, null);
            return;
        }

        if (generation.Width > 1)
            Fork(generation, row);
        for (; row < end && !generation.HasEnded; row++)
        {
            if (!SampleNext(generation, row) || row == end - 1)
                break;
            generation.Advance(1); // the step has read it
            accepted++;
        }

        if (!generation.HasEnded)
            generation.DropDraft();
        if (drafted > 0)
        {
            generation.NoteDraft(drafted, accepted);
            NoteDraft(drafted, accepted);
        }
    }

    /// <summary>The answers that share the prompt go on by themselves, each from a token of its own.</summary>
    private void Fork(Generation leader, int row)
    {
        Request request = leader.Request;
        for (int i = 1; i < request.Generations.Length && !leader.HasEnded; i++)
        {
            Generation fork = request.Fork(i);
            _scheduler.Fork(leader, fork);
            SampleNext(fork, row, isShared: true);
        }
    }

    /// <summary>Samples a token and sends it. True if it is the one that was drafted, and the answer goes on.</summary>
    private bool SampleNext(Generation generation, int row, bool isShared = false)
    {
        Request request = generation.Request;
        GeneratedToken token;
        try
        {
            token = Choose(generation.Sampler, row, isShared);
        }
#pragma warning disable CA1031 // A non-finite logit, or whatever else one sampler throws, fails its request; the others go on.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Abandon(request, error, EngineMetrics.Failed);
            return false;
        }

        long now = Now;
        if (request.Generated++ == 0)
        {
            request.FirstTokenAt = now;
            _promptTokens += request.PromptLength;
            _metrics.FirstToken(request, now);
        }
        else if (generation.LastTokenAt is { } last && last != now)
        {
            _metrics.NextToken(last, now);
        }

        generation.LastTokenAt = now;
        _generatedTokens++;
        bool isConfirmed = generation.Append(token.Id);
        if (generation.ReasonToStop(token.Id) is { } reason)
        {
            End(generation, reason, token);
            return false;
        }

        request.Stream.Write(new AnswerPart(generation.Index, token, null));
        return isConfirmed;
    }

    /// <summary>The token that a row's logits give: the backend's choice where it made one.</summary>
    /// <param name="sampler">The answer's.</param>
    /// <param name="row">The row.</param>
    /// <param name="isShared">Others sample from it, too.</param>
    private GeneratedToken Choose(Sampler sampler, int row, bool isShared)
    {
        if (_runner.Sampler?.Token(row) is { } token)
        {
            sampler.Accept(token);
            return new GeneratedToken(token, _runner.Sampler.Logprobs(row));
        }

        Span<float> logits = _runner.Logits(row);
        if (isShared)
        {
            logits.CopyTo(_forkLogits);
            logits = _forkLogits;
        }

        return new GeneratedToken(sampler.Sample(logits, _sampling, out TokenLogprobs? logprobs), logprobs);
    }

    private bool TryAddPromptLogprobs(Request request, int row, int token)
    {
        try
        {
            Span<float> logits = _runner.Logits(row);
            Sampler.CheckFinite(logits);
            request.PromptLogprobs!.Add(TokenLogprobs.Of(logits, token, request.Sampling.PromptLogprobs!.Value, _sampling.Weights));
            return true;
        }
        catch (NonFiniteLogitException error)
        {
            Abandon(request, error, EngineMetrics.Failed);
            return false;
        }
    }

    private void NoteDraft(int drafted, int accepted)
    {
        _drafts++;
        _draftTokens += drafted;
        _acceptedTokens += accepted;
        _metrics.Accepted(accepted);
    }

    /// <summary>An answer is complete.</summary>
    private void End(Generation generation, FinishReason reason, GeneratedToken? last)
    {
        Release(generation, reason);
        generation.Request.Stream.Write(new AnswerPart(generation.Index, last, reason));
    }

    /// <summary>An answer needs no more tokens.</summary>
    private void Release(Generation generation, FinishReason reason)
    {
        Free(generation);
        if (--generation.Request.Open == 0)
            Leave(generation.Request, reason == FinishReason.Stop ? EngineMetrics.Stopped : EngineMetrics.LengthReached);
    }

    /// <summary>A request ends before its answers.</summary>
    private void Abandon(Request request, Exception? error, string outcome)
    {
        if (request.Open == 0)
            return;
        foreach (Generation? generation in request.Generations)
        {
            if (generation is { HasEnded: false })
                Free(generation);
        }

        request.Open = 0;
        if (error is not null)
            request.Stream.Fail(error);
        Leave(request, outcome);
    }

    private void Free(Generation generation)
    {
        generation.HasEnded = true;
        _scheduler.Remove(generation);
        _drafter?.Release(generation);
        generation.Dispose();
    }

    private void Leave(Request request, string outcome)
    {
        long now = Now;
        EndInterval = (0.8 * EndInterval) + (0.2 * Elapsed(_lastEnd, now));
        _lastEnd = now;
        _metrics.Left(request, outcome, now);
    }

    private TimeSpan Elapsed(long? since, long now) => since is { } start ? _options.Clock.GetElapsedTime(start, now) : TimeSpan.Zero;
}
