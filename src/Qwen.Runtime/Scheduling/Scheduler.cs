using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Scheduling;

/// <summary>A sequence's part in the step that was scheduled last.</summary>
/// <typeparam name="T">The kind of sequence.</typeparam>
/// <param name="Sequence">The sequence.</param>
/// <param name="Tokens">Its next tokens that the step reads, drafted ones included.</param>
/// <param name="LogitRow">Its first row of logits, or -1 where it has none.</param>
/// <param name="LogitRows">Its rows of logits: after the last of its tokens.</param>
public readonly record struct ScheduledSequence<T>(T Sequence, int Tokens, int LogitRow, int LogitRows)
    where T : Sequence;

/// <summary>
/// Decides what each step computes: continuous batching (Orca, OSDI 2022) within a budget of tokens, running decodes first, then
/// chunks of prompts (Sarathi-Serve, OSDI 2024), by priority, then first come first served. Where blocks run out, the least urgent
/// sequence gives up its blocks and is read again later.
/// </summary>
/// <remarks>
/// Something always advances: besides those that are paused, only sequences less urgent than the one in need are evicted, so the most
/// urgent keeps what it has and gets what is left, and no sequence may be longer than the whole pool.
/// </remarks>
/// <typeparam name="T">The kind of sequence.</typeparam>
public sealed class Scheduler<T>
    where T : Sequence
{
    private readonly BlockPool _pool;
    private readonly List<T> _running, _waiting = []; // most urgent first
    private readonly List<ScheduledSequence<T>> _scheduled;
    private readonly List<BlockCopy> _copies = [];
    private readonly int _maxSequences;
    private long _arrivals;

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
    public IReadOnlyList<T> Waiting => _waiting;

    /// <summary>Block copies to be made, in order, before the step that was scheduled last.</summary>
    public ReadOnlySpan<BlockCopy> Copies => System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_copies);

    /// <summary>How often a sequence had to give up its blocks.</summary>
    public long Preemptions { get; private set; }

    /// <summary>Tokens that were looked for in the prefix index.</summary>
    public long PrefixQueries { get; private set; }

    /// <summary>Tokens of those that were there.</summary>
    public long PrefixHits { get; private set; }

    /// <summary>Anything to do, now or when it is no longer paused.</summary>
    public bool HasWork => _running.Count + _waiting.Count > 0;

    /// <summary>Puts a sequence into the queue, behind those as urgent.</summary>
    /// <exception cref="ArgumentException">It could outgrow the whole pool, or needs more places than there are.</exception>
    public void Add(T sequence)
    {
        int blocks = _pool.BlocksFor(sequence.MaxLength);
        if (blocks > _pool.Blocks)
            throw new ArgumentException($"A sequence of {sequence.MaxLength} tokens needs {blocks} blocks; the KV cache has {_pool.Blocks}.", nameof(sequence));
        if (sequence.Width > _maxSequences)
            throw new ArgumentException($"{sequence.Width} sequences at once are more than {_maxSequences}.", nameof(sequence));
        sequence.Arrival = ++_arrivals;
        Insert(_waiting, sequence);
    }

    /// <summary>Lets a sequence go on beside the one whose prompt it has: it shares that one's blocks, and takes one of its places.</summary>
    /// <param name="parent">Runs, with its prompt read and nothing sampled.</param>
    /// <param name="child">Has the same prompt, and is new.</param>
    public void Fork(T parent, T child)
    {
        child.ForkFrom(parent);
        parent.Width--;
        Insert(_running, child);
    }

    /// <summary>Takes a sequence out, wherever it is. Its blocks are its owner's to free.</summary>
    public void Remove(T sequence)
    {
        if (!_running.Remove(sequence))
            _waiting.Remove(sequence);
    }

    /// <summary>Fills <paramref name="batch"/> with the next step, at most its capacity, and says who is in it: nobody, where all are paused.</summary>
    /// <remarks>The batch must have room for a token, and a row of logits, of each sequence.</remarks>
    public IReadOnlyList<ScheduledSequence<T>> Schedule(Batch batch)
    {
        batch.Clear();
        _scheduled.Clear();
        _copies.Clear();
        Grow();
        Decode(batch);
        Prefill(batch);
        Admit(batch);
        return _scheduled;
    }

    /// <summary>Every running sequence gets blocks for all it has, the most urgent first, at the cost of the least urgent.</summary>
    private void Grow()
    {
        for (int i = 0; i < _running.Count; i++)
        {
            T sequence = _running[i];
            while (!sequence.IsPaused && !sequence.TryGrow(_copies))
            {
                int paused = _running.FindLastIndex(s => s.IsPaused), victim = paused >= 0 ? paused : _running.Count - 1;
                Preempt(victim);
                if (victim <= i)
                    i--; // it moved up, or it was the victim itself
                if (sequence.Table.Count == 0)
                    break;
            }
        }
    }

    private void Preempt(int index)
    {
        T sequence = _running[index];
        _running.RemoveAt(index);
        sequence.Evict();
        Insert(_waiting, sequence);
        Preemptions++;
    }

    /// <summary>A token of each that decodes; drafts from what the budget has left after that.</summary>
    private void Decode(Batch batch)
    {
        int decoding = 0;
        foreach (T sequence in _running)
            decoding += IsDecoding(sequence) ? 1 : 0;
        int drafts = Math.Min(batch.MaxTokens - decoding, batch.MaxLogitRows - _running.Count);
        foreach (T sequence in _running)
        {
            if (!IsDecoding(sequence))
                continue;
            int drafted = Math.Clamp(drafts, 0, sequence.Drafted);
            drafts -= drafted;
            Put(sequence, batch, 1 + drafted);
        }

        static bool IsDecoding(T sequence) => sequence.Pending == 1 && !sequence.IsPaused;
    }

    private void Prefill(Batch batch)
    {
        foreach (T sequence in _running)
        {
            if (sequence.Pending > 1 && !sequence.IsPaused)
                Put(sequence, batch, sequence.Pending);
        }
    }

    /// <summary>
    /// Those that wait get places and blocks in their order, at the cost of those that are paused. None passes one that doesn't fit
    /// yet, so that none waits forever.
    /// </summary>
    private void Admit(Batch batch)
    {
        while (batch.TokenCount < batch.MaxTokens && _waiting.Find(s => !s.IsPaused) is { } sequence)
        {
            bool isNew = sequence.CachedTokens is null;
            while (Places() + sequence.Width > _maxSequences || !sequence.TryStart())
            {
                int paused = _running.FindLastIndex(s => s.IsPaused);
                if (paused < 0)
                    return;
                Preempt(paused);
            }

            if (isNew && _pool.Prefixes is not null && sequence.ReusesPrefix)
            {
                PrefixQueries += sequence.Length;
                PrefixHits += sequence.Computed;
            }

            _waiting.Remove(sequence);
            Insert(_running, sequence);
            Put(sequence, batch, sequence.Pending);
        }
    }

    private int Places()
    {
        int places = 0;
        foreach (T sequence in _running)
            places += sequence.Width;
        return places;
    }

    private void Put(T sequence, Batch batch, int tokens)
    {
        tokens = Math.Min(tokens, batch.MaxTokens - batch.TokenCount);
        int silent = Math.Max(sequence.LogitsFrom - sequence.Computed, 0); // tokens whose logits nobody wants
        int rows = Math.Clamp(tokens - silent, 0, batch.MaxLogitRows - batch.LogitRowCount);
        tokens = Math.Min(tokens, silent + rows);
        if (tokens == 0)
            return;
        int row = batch.Add(sequence.Upcoming[..tokens], sequence.Computed, sequence.Table, rows);
        _scheduled.Add(new ScheduledSequence<T>(sequence, tokens, row, rows));
    }

    private static void Insert(List<T> list, T sequence)
    {
        int at = list.Count;
        while (at > 0 && IsBefore(sequence, list[at - 1]))
            at--;
        list.Insert(at, sequence);
    }

    private static bool IsBefore(T a, T b) => a.Priority != b.Priority ? a.Priority < b.Priority : a.Arrival < b.Arrival;
}
