using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// How blocks share the attention of a decode step, worked out on the device: lengths change from replay to replay of a graph, the grid doesn't.
/// </summary>
/// <remarks>
/// A round is a run of positions that a block takes at once, for one key and value head. All rounds, ordered by sequence, head and position, form
/// one line, and each block takes an equal run of it: a block may work on several heads, and a head be cut over several blocks, whose
/// partial results are merged after. So no length or mix of lengths leaves multiprocessors idle (the "stream-K" of Osama et al., 2023, on
/// flash-decoding). Where runs are short, latency counts and not bytes: then they are made longer, so that heads are cut in equal pieces, few enough to be
/// merged at once, or not at all. All warps compute the same; it finds sequences by a walk along the line, 32 at once.
/// </remarks>
internal sealed class DecodeSchedule
{
    /// <summary>Parts of a head that are merged at once.</summary>
    public const int PartsAtOnce = 16;

    private const int UncutRounds = 3; // a merge takes about two microseconds, a round more about 0.7
    private const int ShortRun = 4; // more rounds a block, and it is bytes that take the time
    private const int Ahead = 4; // loads under way

    private readonly PtxBuilder _k;
    private readonly DecodeArguments _arguments;
    private readonly AttentionShape _shape;
    private readonly int _roundPositions;
    private readonly U32 _total, _quota;
    private readonly U32 _first, _before; // the first of the walk's 32 sequences, and the rounds of a head of all before it
    private readonly U32 _sequence, _token, _from, _to, _rounds, _inclusive, _sum; // of the lane's sequence; rounds up to it; rounds of all 32

    /// <summary>Counts the rounds.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="roundPositions">Positions of a round.</param>
    /// <param name="blocks">Blocks that share the work.</param>
    public DecodeSchedule(PtxBuilder k, DecodeArguments arguments, AttentionShape shape, int roundPositions, U32 blocks)
    {
        (_k, _arguments, _shape, _roundPositions) = (k, arguments, shape, roundPositions);
        (_first, _before) = (k.Variable<U32>(0), k.Variable<U32>(0));
        (_sequence, _token, _from, _to, _rounds, _inclusive, _sum) =
            (k.Variable<U32>(), k.Variable<U32>(), k.Variable<U32>(), k.Variable<U32>(), k.Variable<U32>(), k.Variable<U32>(), k.Variable<U32>());
        Look();

        U32 sum = k.Variable<U32>(0), longest = k.Variable(_rounds);
        using (k.For(k.Lane + 32, arguments.SequenceCount, 32 * Ahead, out U32 ordinal))
        {
            U32[] lengths = [.. Enumerable.Range(0, Ahead).Select(i => ordinal + (32 * i)).Select(i => k.Load<U32>(Entry(i) + (2 * sizeof(int)), when: i < arguments.SequenceCount))];
            foreach (U32 rounds in lengths.Select(length => Rounds(From(length), length)))
            {
                k.AddInto(sum, rounds);
                k.Set(longest, k.Max(longest, rounds));
            }
        }

        _total = (_sum + k.ReduceLanes(sum, 32, (a, b) => a + b)) * shape.KvHeads;
        _quota = Quota(Over(_total, blocks), k.ReduceLanes(longest, 32, k.Max));
    }

    /// <summary>The first round of a block; that of the next is its end.</summary>
    public U32 Start(U32 block) => _k.Min(block * _quota, _total);

    /// <summary>The block that a round belongs to.</summary>
    public U32 BlockOf(U32 round) => round / _quota;

    /// <summary>Where a round is, which must exist and not lie before the last one asked for.</summary>
    public Place To(U32 round)
    {
        U32 ofHead = round / _shape.KvHeads; // the round, were there one head
        using (_k.While(() => ofHead - _before >= _sum))
        {
            _k.Set(_before, _before + _sum);
            _k.Set(_first, _first + 32);
            Look();
        }

        U32 hits = _k.Ballot((ofHead - _before) < _inclusive);
        U32 lane = _k.PopulationCount(~hits & (hits - 1)); // the lowest bit
        U32 rounds = _k.ShuffleFrom(_rounds, lane);
        U32 inSequence = round - ((_before + (_k.ShuffleFrom(_inclusive, lane) - rounds)) * _shape.KvHeads);
        U32 head = inSequence / rounds;
        return new Place(_k.ShuffleFrom(_sequence, lane), _k.ShuffleFrom(_token, lane), _k.ShuffleFrom(_from, lane), _k.ShuffleFrom(_to, lane), rounds, head, inSequence - (head * rounds));
    }

    // Rounds of a block, given an equal share and the rounds of the longest head.
    private U32 Quota(U32 share, U32 longest)
    {
        U32 pieces = _k.Min(longest / _k.Max(share, 1), PartsAtOnce);
        pieces = _k.Select<U32>(longest <= UncutRounds, 1, _k.Max(pieces, 1));
        Pred isShort = (share <= ShortRun) & (longest <= PartsAtOnce * ShortRun);
        return _k.Select(isShort, _k.Max(share, Over(longest, pieces)), share);
    }

    private static U32 Over(U32 a, U32 b) => (a + (b - 1)) / b;

    private Global Entry(U32 ordinal) => _arguments.Sequences.At(ordinal, 4 * sizeof(int));

    // The first position that the token of a sequence attends to.
    private U32 From(U32 length) => _shape.SlidingWindow == 0 ? 0 : length - _k.Min(length, _shape.SlidingWindow);

    // These are counted from multiples of a round, so that they never cross a block of the cache unaligned.
    private U32 Rounds(U32 from, U32 to)
    {
        U32 end = (to + (_roundPositions - 1)) / _roundPositions;
        return _shape.SlidingWindow == 0 ? end : end - (from / _roundPositions);
    }

    /// <summary>Looks at the walk's 32 sequences: again where a block has worked on a head since, which needed the registers.</summary>
    public void Look()
    {
        U32 ordinal = _first + _k.Lane;
        U32[] entry = _k.LoadVector<U32>(Entry(ordinal), 4, when: ordinal < _arguments.SequenceCount);
        _k.Set(_sequence, entry[0]);
        _k.Set(_token, entry[1]);
        _k.Set(_to, entry[2]);
        _k.Set(_from, From(_to));
        _k.Set(_rounds, Rounds(_from, _to));
        _k.Set(_inclusive, _rounds);
        for (int delta = 1; delta < 32; delta *= 2)
        {
            U32 behind = _k.ShuffleUp(_inclusive, delta);
            _k.Set(_inclusive, _inclusive + _k.Select<U32>(_k.Lane >= delta, behind, 0));
        }

        _k.Set(_sum, _k.ShuffleFrom(_inclusive, 31));
    }

    /// <summary>Where a round is.</summary>
    /// <param name="Sequence">The sequence.</param>
    /// <param name="Token">Its row of qkv.</param>
    /// <param name="From">The first position it attends to.</param>
    /// <param name="To">The end of those.</param>
    /// <param name="Rounds">Rounds of each of its heads.</param>
    /// <param name="Head">The key and value head.</param>
    /// <param name="Round">The round among the head's.</param>
    internal readonly record struct Place(U32 Sequence, U32 Token, U32 From, U32 To, U32 Rounds, U32 Head, U32 Round);
}
