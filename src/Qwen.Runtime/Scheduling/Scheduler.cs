using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Scheduling;

/// <summary>A sequence's part in the step that was scheduled last.</summary>
/// <typeparam name="T">The kind of sequence.</typeparam>
/// <param name="Sequence">The sequence.</param>
/// <param name="Tokens">Its next tokens that the step reads.</param>
/// <param name="LogitRow">Its row of logits, or -1 while its prompt is not read to the end.</param>
public readonly record struct ScheduledSequence<T>(T Sequence, int Tokens, int LogitRow)
    where T : Sequence;

/// <summary>
/// Decides what each step computes: continuous batching (Orca, OSDI 2022) within a budget of tokens, running decodes first, then
/// chunks of prompts, first come first served. Where blocks run out, the newest sequence gives up its blocks and is read again later.
/// </summary>
/// <remarks>
/// Something always advances: only sequences newer than the one in need are evicted, so the oldest keeps what it has and gets what is
/// left, and no sequence may be longer than the whole pool.
/// </remarks>
/// <typeparam name="T">The kind of sequence.</typeparam>
public sealed class Scheduler<T>
    where T : Sequence
{
    private readonly BlockPool _pool;
    private readonly List<T> _running; // oldest first
    private readonly LinkedList<T> _waiting = [];
    private readonly List<ScheduledSequence<T>> _scheduled;
    private readonly int _maxSequences;

    /// <summary>A scheduler over a pool, for up to <paramref name="maxSequences"/> sequences at once.</summary>
    public Scheduler(BlockPool pool, int maxSequences)
    {
        _pool = pool;
        _maxSequences = maxSequences;
        _running = new List<T>(maxSequences);
        _scheduled = new List<ScheduledSequence<T>>(maxSequences);
    }

    /// <summary>Sequences that hold blocks.</summary>
    public IReadOnlyList<T> Running => _running;

    /// <summary>Sequences that wait for a place.</summary>
    public IReadOnlyCollection<T> Waiting => _waiting;

    /// <summary>How often a sequence had to give up its blocks.</summary>
    public long Preemptions { get; private set; }

    /// <summary>Anything to do.</summary>
    public bool HasWork => _running.Count + _waiting.Count > 0;

    /// <summary>Puts a sequence at the end of the queue.</summary>
    /// <exception cref="ArgumentException">It could outgrow the whole pool.</exception>
    public void Add(T sequence)
    {
        if (_pool.BlocksFor(sequence.MaxLength) > _pool.Blocks)
            throw new ArgumentException($"A sequence of {sequence.MaxLength} tokens needs {_pool.BlocksFor(sequence.MaxLength)} blocks; the KV cache has {_pool.Blocks}.", nameof(sequence));
        _waiting.AddLast(sequence);
    }

    /// <summary>Takes a sequence out, wherever it is. Its blocks are its owner's to free.</summary>
    public void Remove(T sequence)
    {
        if (!_running.Remove(sequence))
            _waiting.Remove(sequence);
    }

    /// <summary>Fills <paramref name="batch"/> with the next step, at most its capacity, and says who is in it.</summary>
    public IReadOnlyList<ScheduledSequence<T>> Schedule(Batch batch)
    {
        batch.Clear();
        _scheduled.Clear();
        Grow();
        Decode(batch);
        Prefill(batch);
        Admit(batch);
        return _scheduled;
    }

    /// <summary>Every running sequence gets blocks for all it has, the oldest first, at the cost of the newest.</summary>
    private void Grow()
    {
        for (int i = 0; i < _running.Count; i++)
        {
            T sequence = _running[i];
            while (_running.Count > i && !sequence.Table.TryGrow(sequence.Length))
                PreemptNewest();
        }
    }

    private void PreemptNewest()
    {
        T newest = _running[^1];
        _running.RemoveAt(_running.Count - 1);
        newest.Evict();
        _waiting.AddFirst(newest);
        Preemptions++;
    }

    private void Decode(Batch batch)
    {
        foreach (T sequence in _running)
        {
            if (sequence.Pending == 1 && batch.TokenCount < batch.MaxTokens)
                Put(sequence, batch);
        }
    }

    private void Prefill(Batch batch)
    {
        foreach (T sequence in _running)
        {
            if (sequence.Pending > 1 && batch.TokenCount < batch.MaxTokens)
                Put(sequence, batch);
        }
    }

    private void Admit(Batch batch)
    {
        while (_waiting.First is { } first && _running.Count < _maxSequences && batch.TokenCount < batch.MaxTokens
            && first.Value.Table.TryGrow(first.Value.Length))
        {
            _waiting.RemoveFirst();
            _running.Add(first.Value);
            Put(first.Value, batch);
        }
    }

    private void Put(T sequence, Batch batch)
    {
        int tokens = Math.Min(sequence.Pending, batch.MaxTokens - batch.TokenCount);
        ReadOnlySpan<int> chunk = sequence.Tokens.Slice(sequence.Computed, tokens);
        int row = batch.Add(chunk, sequence.Computed, sequence.Table, wantLogits: tokens == sequence.Pending);
        _scheduled.Add(new ScheduledSequence<T>(sequence, tokens, row));
    }
}
