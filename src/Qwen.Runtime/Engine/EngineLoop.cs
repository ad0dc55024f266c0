using System.Collections.Concurrent;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>The thread that owns the network, the cache and the scheduler. Requests come in by a queue; tokens leave by their streams.</summary>
internal sealed class EngineLoop : IDisposable
{
    private readonly LoadedModel _model;
    private readonly Scheduler<Generation> _scheduler;
    private readonly Batch _batch;
    private readonly SamplerWorkspace _sampling;
    private readonly ConcurrentQueue<Generation> _inbox = new();
    private readonly AutoResetEvent _wake = new(false);
    private readonly List<Generation> _leaving = [];
    private readonly Thread _thread;
    private volatile bool _stopping;
    private volatile int _running, _waiting, _freeBlocks;
    private long _steps, _promptTokens, _generatedTokens;

    public EngineLoop(LoadedModel model)
    {
        _model = model;
        Pool = new BlockPool(model.KvBlocks, model.BlockSize);
        _freeBlocks = Pool.Free;
        _scheduler = new Scheduler<Generation>(Pool, model.Options.MaxSequences);
        _batch = new Batch(model.Options.MaxBatchedTokens, model.Options.MaxSequences);
        _sampling = new SamplerWorkspace(model.Config.VocabularySize);
        _thread = new Thread(Run) { IsBackground = true, Name = "qwen-engine" };
        _thread.Start();
    }

    public BlockPool Pool { get; }

    /// <summary>As it was after the last step.</summary>
    public EngineStatistics Statistics => new()
    {
        Running = _running,
        Waiting = _waiting + _inbox.Count,
        FreeBlocks = _freeBlocks,
        TotalBlocks = Pool.Blocks,
        Steps = Interlocked.Read(ref _steps),
        PromptTokens = Interlocked.Read(ref _promptTokens),
        GeneratedTokens = Interlocked.Read(ref _generatedTokens),
        Preemptions = _scheduler.Preemptions,
    };

    /// <summary>Hands a request to the loop.</summary>
    /// <exception cref="EngineOverloadedException">Too many wait already.</exception>
    /// <exception cref="ObjectDisposedException">The engine has stopped.</exception>
    public void Submit(Generation generation)
    {
        ObjectDisposedException.ThrowIf(_stopping, typeof(QwenEngine));
        int waiting = _waiting + _inbox.Count;
        if (waiting >= _model.Options.MaxQueue)
            throw new EngineOverloadedException($"{waiting} requests are waiting, the most that may; try again later.");
        _inbox.Enqueue(generation);
        _wake.Set();
    }

    /// <summary>Takes a request out before the next step.</summary>
    public void Cancel(Generation generation)
    {
        generation.Cancel();
        _wake.Set();
    }

    /// <summary>Ends the thread after its step, and every request with <see cref="FinishReason.Cancelled"/>.</summary>
    public void Dispose()
    {
        if (_stopping)
            return;
        _stopping = true;
        _wake.Set();
        _thread.Join();
        _batch.Dispose();
    }

    private void Run()
    {
        while (!_stopping)
        {
            if (!_scheduler.HasWork && _inbox.IsEmpty)
                _wake.WaitOne();
            TakeIn();
            ReleaseCancelled();
            if (_scheduler.HasWork)
                Step();
            _running = _scheduler.Running.Count;
            _waiting = _scheduler.Waiting.Count;
            _freeBlocks = Pool.Free;
        }

        TakeIn();
        foreach (Generation generation in _scheduler.Running.Concat(_scheduler.Waiting).ToArray())
            End(generation, FinishReason.Cancelled);
    }

    private void TakeIn()
    {
        while (_inbox.TryDequeue(out Generation? generation))
            _scheduler.Add(generation);
    }

    private void ReleaseCancelled()
    {
        for (int i = 0; i < _scheduler.Running.Count; i++)
        {
            if (_scheduler.Running[i].IsCancelled)
                _leaving.Add(_scheduler.Running[i]);
        }

        if (_scheduler.Waiting.Count > 0)
            _leaving.AddRange(_scheduler.Waiting.Where(g => g.IsCancelled));
        foreach (Generation generation in _leaving)
            End(generation, FinishReason.Cancelled);
        _leaving.Clear();
    }

    private void Step()
    {
        IReadOnlyList<ScheduledSequence<Generation>> scheduled = _scheduler.Schedule(_batch);
        try
        {
            _model.Network.Forward(_batch, _model.Cache);
        }
#pragma warning disable CA1031 // Whatever a step throws fails the requests in it, each of which gets the exception; the others go on.
        catch (Exception error)
#pragma warning restore CA1031
        {
            for (int i = 0; i < scheduled.Count; i++)
                Fail(scheduled[i].Sequence, error);
            return;
        }

        for (int i = 0; i < scheduled.Count; i++)
        {
            ScheduledSequence<Generation> part = scheduled[i];
            part.Sequence.Advance(part.Tokens);
            if (part.LogitRow >= 0)
                Sample(part.Sequence, _model.Network.Logits(part.LogitRow)[.._model.Tokenizer.VocabularySize]); // rows that pad the embedding are no tokens
        }

        Interlocked.Increment(ref _steps);
    }

    private void Sample(Generation generation, Span<float> logits)
    {
        GeneratedToken token;
        try
        {
            token = generation.Sample(logits, _sampling);
        }
#pragma warning disable CA1031 // A non-finite logit, or whatever else one sampler throws, fails its request; the others go on.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Fail(generation, error);
            return;
        }

        generation.Append(token.Id);
        if (generation.Generated == 1)
            Interlocked.Add(ref _promptTokens, generation.PromptLength);
        Interlocked.Increment(ref _generatedTokens);
        if (generation.ReasonToStop(token.Id) is { } reason)
            End(generation, reason, token);
        else
            generation.Stream.Write(token);
    }

    private void End(Generation generation, FinishReason reason, GeneratedToken? last = null)
    {
        Release(generation);
        generation.Stream.Complete(reason, last);
    }

    private void Fail(Generation generation, Exception error)
    {
        Release(generation);
        generation.Stream.Fail(error);
    }

    private void Release(Generation generation)
    {
        _scheduler.Remove(generation);
        generation.Dispose();
    }
}
