using Qwen.Runtime.Cache;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Scheduling;

/// <summary>
/// Runs a random workload through a scheduler in virtual time, as the engine does, with a model whose tokens are a function of the
/// tokens before them. Everything follows from the seed. Each step is checked: budgets, order, blocks, and what the cache holds.
/// </summary>
internal sealed class SchedulerSimulator : IDisposable
{
    private static readonly UInt128[] Roots = [PrefixIndex.Root(null), PrefixIndex.Root("salt")];

    private readonly Random _random;
    private readonly BlockPool _pool;
    private readonly ShadowCache _cache;
    private readonly Scheduler<SimulatedSequence> _scheduler;
    private readonly Batch _batch;
    private readonly int _maxSequences, _longest, _alphabet;
    private readonly double _draftRate, _cancelRate, _pauseRate, _arrivalRate;
    private readonly List<SimulatedSequence> _alive = [];
    private readonly List<BlockTable> _pins = [];
    private readonly int[][] _bases; // beginnings that prompts share
    private int _requestsLeft;

    public SchedulerSimulator(int seed)
    {
        _random = new Random(seed);
        int blockSize = _random.Next(1, 6), blocks = _random.Next(2, 25);
        _pool = new BlockPool(blocks, blockSize, prefixCaching: _random.Next(4) > 0);
        _cache = new ShadowCache(_pool);
        _maxSequences = _random.Next(1, 7);
        _longest = _random.Next(2, (blocks * blockSize) + 1);
        _scheduler = new Scheduler<SimulatedSequence>(_pool, _maxSequences);
        int maxTokens = _random.Next(_maxSequences, 24);
        _batch = new Batch(maxTokens, _maxSequences, _random.Next(_maxSequences, maxTokens + 1));
        _alphabet = _random.Next(1, 4);
        _draftRate = Rate(0.5);
        _cancelRate = Rate(0.05);
        _pauseRate = Rate(0.1);
        _arrivalRate = 0.05 + (_random.NextDouble() * 0.95);
        _bases = [.. Enumerable.Range(0, 2).Select(_ => Tokens(_random.Next(_longest)))];
        _requestsLeft = _random.Next(1, 9);

        double Rate(double most) => _random.Next(2) == 0 ? 0 : _random.NextDouble() * most;
    }

    public long Preemptions => _scheduler.Preemptions;

    public long PrefixHits => _scheduler.PrefixHits;

    public int Copies { get; private set; }

    public int Confirmed { get; private set; }

    /// <summary>Runs until every request has ended.</summary>
    public void Run()
    {
        int quiet = 0; // steps since the last event
        while (_requestsLeft > 0 || _scheduler.HasWork)
        {
            if (_requestsLeft > 0 && _random.NextDouble() < _arrivalRate)
            {
                Arrive();
                quiet = 0;
            }

            Disturb();
            if (_scheduler.HasWork)
                Step();
            Check(++quiet < 5000, "no end: somebody starves");
        }

        foreach (BlockTable pin in _pins)
            pin.Dispose();
        Check(_pool.Free == _pool.Blocks, $"{_pool.Blocks - _pool.Free} blocks leaked");
        Check(_alive.Count == 0, "a request is lost");
    }

    public void Dispose()
    {
        foreach (SimulatedSequence sequence in _alive)
            sequence.Dispose();
        foreach (BlockTable pin in _pins)
            pin.Dispose();
        _batch.Dispose();
    }

    private void Arrive()
    {
        _requestsLeft--;
        int[] start = _bases[_random.Next(_bases.Length)];
        int length = _random.Next(1, _longest), shared = Math.Min(_random.Next(start.Length + 1), length);
        int[] prompt = [.. start[..shared], .. Tokens(length - shared)];
        int answers = _random.Next(3) == 0 ? _random.Next(1, _maxSequences + 1) : 1;
        Add(new SimulatedSequence(prompt, _random.Next(length + 1, _longest + 1), _pool, Roots[_random.Next(2)], wantsPromptLogits: _random.Next(8) == 0)
        {
            Priority = _random.Next(4) == 0 ? _random.Next(-1, 2) : 0,
            Forks = answers - 1,
            Width = answers,
            StopsAt = _random.Next(2) == 0 ? _random.Next(length + 1, _longest + 1) : int.MaxValue,
        });
    }

    private void Add(SimulatedSequence sequence)
    {
        _alive.Add(sequence);
        _scheduler.Add(sequence);
    }

    /// <summary>Cancels, pauses, pins and guesses.</summary>
    private void Disturb()
    {
        for (int i = _alive.Count - 1; i >= 0; i--)
        {
            SimulatedSequence sequence = _alive[i];
            if (_cancelRate > 0 && _random.NextDouble() < _cancelRate)
            {
                End(sequence);
                continue;
            }

            if (sequence.PauseLeft > 0)
                sequence.PauseLeft--;
            else if (_pauseRate > 0 && sequence.Pending == 1 && sequence.Length > sequence.PromptLength && _random.NextDouble() < _pauseRate)
                sequence.PauseLeft = _random.Next(1, 8);
            sequence.IsPaused = sequence.PauseLeft > 0;
            if (_draftRate > 0 && sequence.Pending == 1 && sequence.Length > sequence.PromptLength && _scheduler.Running.Contains(sequence))
            {
                while (sequence.Drafted < Math.Min(4, sequence.DraftRoom) && _random.NextDouble() < _draftRate)
                    sequence.Draft(sequence.Drafted == 0 && _random.Next(2) == 0 ? Sample(sequence, sequence.Length - 1) : _random.Next(_alphabet));
            }
        }

        if (_pool.Prefixes is not null && _random.Next(16) == 0)
            Pin();
    }

    /// <summary>Holds a prefix, as far as it is cached, while the longest sequence still fits beside all that is held.</summary>
    private void Pin()
    {
        if (_pins.Count > 0 && _random.Next(2) == 0)
        {
            _pins[0].Dispose();
            _pins.RemoveAt(0);
            return;
        }

        var pin = new BlockTable(_pool, _longest);
        pin.Adopt(Roots[_random.Next(2)], _bases[_random.Next(_bases.Length)]);
        _pins.Add(pin);
        if (_pins.Sum(p => p.Count) > _pool.Blocks - _pool.BlocksFor(_longest))
        {
            _pins.RemoveAt(_pins.Count - 1);
            pin.Dispose();
        }
    }

    private unsafe void Step()
    {
        SimulatedSequence[] decoding = [.. _scheduler.Running.Where(s => s.Pending == 1 && !s.IsPaused)];
        SimulatedSequence[] before = [.. _scheduler.Running];
        long preemptions = _scheduler.Preemptions;
        IReadOnlyList<ScheduledSequence<SimulatedSequence>> step = _scheduler.Schedule(_batch);
        Check(step.Count > 0 || _alive.TrueForAll(s => s.IsPaused), "nothing advances");
        Check(_batch.TokenCount <= _batch.MaxTokens && _batch.LogitRowCount <= _batch.MaxLogitRows, "the budget is exceeded");
        Check(step.Sum(s => s.Tokens) == _batch.TokenCount && step.Select(s => s.Sequence).Distinct().Count() == step.Count, "the step is not what is said of it");
        Check(_scheduler.Running.Sum(s => s.Width) <= _maxSequences, "too many run");
        Check(_scheduler.Running.Count + _scheduler.Waiting.Count == _alive.Count, "a sequence is lost");
        foreach (SimulatedSequence sequence in decoding)
            Check(step.Any(s => s.Sequence == sequence) || _scheduler.Preemptions > preemptions, "a sequence that decodes is left out");
        foreach (SimulatedSequence admitted in _scheduler.Running.Except(before))
            Check(_scheduler.Waiting.All(w => w.IsPaused || !IsBefore(w, admitted)), "a sequence is passed");
        Copies += _scheduler.Copies.Length;
        _cache.Copy(_scheduler.Copies);
        for (int i = 0; i < step.Count; i++)
            _cache.Write(_batch, _batch.Sequences[i], step[i].Sequence);
        for (int i = 0; i < step.Count; i++)
            Accept(step[i]);
        CheckBlocks();
        if (_random.Next(8) == 0)
            _alive.ForEach(_cache.Verify);

        static bool IsBefore(SimulatedSequence a, SimulatedSequence b) => a.Priority < b.Priority || (a.Priority == b.Priority && a.Arrival < b.Arrival);
    }

    private void Accept(ScheduledSequence<SimulatedSequence> part)
    {
        SimulatedSequence sequence = part.Sequence;
        int pending = Math.Min(part.Tokens, sequence.Pending), position = sequence.Computed + part.Tokens - part.LogitRows, end = sequence.Computed + part.Tokens;
        sequence.Advance(pending);
        for (; position < end && sequence.IsPromptRow(position); position++)
            sequence.TakePromptRow(position);
        if (sequence.Pending > 0)
            return;
        Check(position < end, "no logits, with everything read");
        if (sequence.Width > 1)
            Fork(sequence);
        for (; position < end; position++)
        {
            bool isConfirmed = sequence.Append(Sample(sequence, position));
            if (sequence.Length >= Math.Min(sequence.MaxLength, sequence.StopsAt))
            {
                End(sequence);
                return;
            }

            if (!isConfirmed || position == end - 1)
                break;
            sequence.Advance(1);
            Confirmed++;
        }

        sequence.DropDraft();
    }

    private void Fork(SimulatedSequence leader)
    {
        for (int i = 1; i <= leader.Forks; i++)
        {
            var fork = new SimulatedSequence(leader.Prompt, leader.MaxLength, _pool, leader.Root) { Priority = leader.Priority, Index = i };
            _alive.Add(fork);
            _scheduler.Fork(leader, fork);
            fork.Append(Sample(fork, fork.Length - 1));
            if (fork.Length == fork.MaxLength)
                End(fork);
        }
    }

    private int Sample(SimulatedSequence sequence, int position) => (int)((ShadowCache.HashAt(sequence, position) + (ulong)sequence.Index) % (ulong)_alphabet);

    private void End(SimulatedSequence sequence)
    {
        _cache.Verify(sequence);
        _scheduler.Remove(sequence);
        sequence.Dispose();
        _alive.Remove(sequence);
    }

    /// <summary>The pool's counts are those of the tables.</summary>
    private unsafe void CheckBlocks()
    {
        Span<int> holders = stackalloc int[_pool.Blocks];
        foreach (BlockTable table in _alive.Select(s => s.Table).Concat(_pins))
        {
            for (int i = 0; i < table.Count; i++)
                holders[table.Blocks[i]]++;
        }

        int free = 0;
        for (int i = 0; i < holders.Length; i++)
        {
            Check(holders[i] == _pool.Holders(i), "the pool counts other holders");
            free += holders[i] == 0 ? 1 : 0;
        }

        Check(free == _pool.Free, "the pool counts other free blocks");
    }

    private int[] Tokens(int count) => [.. Enumerable.Range(0, count).Select(_ => _random.Next(_alphabet))];

    private static void Check(bool isTrue, string otherwise) => ShadowCache.Check(isTrue, otherwise);
}
