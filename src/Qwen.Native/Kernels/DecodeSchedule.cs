using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// How blocks share the attention of a decode step, worked out on the device: lengths change from replay to replay of a graph, the grid doesn't.
/// </summary>
/// <remarks>
/// A round is a run of positions that a block takes at once, for one key and value head. All rounds, ordered by sequence, head and position, form
/// one line, and each block takes an equal run of it: a block may work on several heads, and a head be cut over several blocks, whose
/// partial results are merged after. So no length or mix of lengths leaves multiprocessors idle (the "stream-K" of Osama et al., 2023, on
/// flash-decoding). All warps compute the same.
/// </remarks>
internal sealed class DecodeSchedule
{
    private readonly PtxBuilder _k;
    private readonly AttentionArguments _arguments;
    private readonly AttentionShape _shape;
    private readonly int _roundPositions;
    private readonly U32 _count, _quota, _rest;

    /// <summary>Counts the rounds.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="roundPositions">Positions of a round.</param>
    /// <param name="count">Sequences.</param>
    /// <param name="blocks">Blocks that share the work.</param>
    public DecodeSchedule(PtxBuilder k, AttentionArguments arguments, AttentionShape shape, int roundPositions, U32 count, U32 blocks)
    {
        (_k, _arguments, _shape, _roundPositions, _count) = (k, arguments, shape, roundPositions, count);
        U32 total = Sum(count) * shape.KvHeads;
        (_quota, _rest) = (total / blocks, total % blocks);
    }

    /// <summary>The first round of a block; that of the next is its end.</summary>
    public U32 Start(U32 block) => _k.MultiplyAdd(block, _quota, _k.Min(block, _rest));

    /// <summary>The block that a round belongs to.</summary>
    public U32 BlockOf(U32 round)
    {
        U32 ofLonger = _rest * (_quota + 1); // the first blocks take one round more
        return _k.Select(round < ofLonger, round / (_quota + 1), _rest + ((round - ofLonger) / _k.Max(_quota, 1)));
    }

    /// <summary>Rounds of a head of the first so many sequences of the list.</summary>
    public U32 Sum(U32 sequences)
    {
        U32 sum = _k.Variable<U32>(0);
        using (_k.For(_k.Lane, sequences, 32, out U32 ordinal))
            _k.AddInto(sum, Rounds(Positions(Sequence(ordinal, null), null)));
        return SumLanes(sum);
    }

    /// <summary>The sequence at a place of the list.</summary>
    public U32 Sequence(U32 ordinal, Pred? when) => _k.Load<U32>(_arguments.Sequences.At(ordinal, sizeof(int)), when: when);

    /// <summary>What the token of a sequence attends to.</summary>
    public (U32 From, U32 To) Positions(U32 sequence, Pred? when)
    {
        U32 tokens = _k.Load<U32>(_arguments.Tokens.At(sequence, sizeof(int)), when: when);
        U32 last = _k.Load<U32>(_arguments.FirstPositions.At(sequence, sizeof(int)), when: when);
        U32 to = _k.Select<U32>(tokens.Is(0), 0, last + 1);
        return (_shape.SlidingWindow == 0 ? (U32)0 : to - _k.Min(to, _shape.SlidingWindow), to);
    }

    /// <summary>Rounds that positions make: these are counted from multiples of a round, so that they never cross a block of the cache unaligned.</summary>
    public U32 Rounds((U32 From, U32 To) positions) => ((positions.To + (_roundPositions - 1)) / _roundPositions) - (positions.From / _roundPositions);

    /// <summary>A walk over the line, forwards.</summary>
    public Walk Begin() => new(this);

    private U32 SumLanes(U32 value)
    {
        for (int mask = 16; mask > 0; mask /= 2)
            value += _k.ShuffleXor(value, mask);
        return value;
    }

    /// <summary>Finds the sequence and head of a round: lanes look at 32 sequences at once.</summary>
    internal sealed class Walk
    {
        private readonly DecodeSchedule _schedule;
        private readonly PtxBuilder _k;
        private readonly U32 _first, _before; // the first of these 32 sequences, and the rounds of a head of all before it
        private readonly U32 _sequence, _from, _to, _rounds, _inclusive, _sum;

        internal Walk(DecodeSchedule schedule)
        {
            _schedule = schedule;
            _k = schedule._k;
            (_first, _before) = (_k.Variable<U32>(0), _k.Variable<U32>(0));
            (_sequence, _from, _to, _rounds, _inclusive, _sum) =
                (_k.Variable<U32>(), _k.Variable<U32>(), _k.Variable<U32>(), _k.Variable<U32>(), _k.Variable<U32>(), _k.Variable<U32>());
            Look();
        }

        /// <summary>Goes on to a round, which must exist and not lie before the last one.</summary>
        public Place To(U32 round)
        {
            U32 ofHead = round / _schedule._shape.KvHeads; // the round, were there one head
            using (_k.While(() => ofHead - _before >= _sum))
            {
                _k.Set(_before, _before + _sum);
                _k.Set(_first, _first + 32);
                Look();
            }

            U32 hits = _k.Ballot((ofHead - _before) < _inclusive);
            U32 lane = _k.PopulationCount(~hits & (hits - 1)); // the lowest bit
            U32 rounds = _k.ShuffleFrom(_rounds, lane);
            U32 inSequence = round - ((_before + (_k.ShuffleFrom(_inclusive, lane) - rounds)) * _schedule._shape.KvHeads);
            U32 head = inSequence / rounds;
            return new Place(_k.ShuffleFrom(_sequence, lane), _k.ShuffleFrom(_from, lane), _k.ShuffleFrom(_to, lane), rounds, head, inSequence - (head * rounds));
        }

        private void Look()
        {
            U32 ordinal = _first + _k.Lane;
            Pred exists = ordinal < _schedule._count;
            _k.Set(_sequence, _schedule.Sequence(ordinal, exists));
            (U32 from, U32 to) = _schedule.Positions(_sequence, exists);
            _k.Set(_from, from);
            _k.Set(_to, to);
            _k.Set(_rounds, _schedule.Rounds((_from, _to)));
            _k.Set(_inclusive, _rounds);
            for (int delta = 1; delta < 32; delta *= 2)
            {
                U32 behind = _k.ShuffleUp(_inclusive, delta);
                _k.Set(_inclusive, _inclusive + _k.Select<U32>(_k.Lane >= delta, behind, 0));
            }

            _k.Set(_sum, _k.ShuffleFrom(_inclusive, 31));
        }
    }

    /// <summary>Where a round is.</summary>
    /// <param name="Sequence">The sequence.</param>
    /// <param name="From">The first position it attends to.</param>
    /// <param name="To">The end of those.</param>
    /// <param name="Rounds">Rounds of each of its heads.</param>
    /// <param name="Head">The key and value head.</param>
    /// <param name="Round">The round among the head's.</param>
    internal readonly record struct Place(U32 Sequence, U32 From, U32 To, U32 Rounds, U32 Head, U32 Round);
}
