using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Attention of one new token of each of several sequences to its paged keys and values: attended[t, h] = sum over p of softmax(q[t, h] . k[p] / sqrt(D)) v[p].
/// The token's queries and key are normed and rotated, and its key and value stored, on the way (see <see cref="NewToken"/>).
/// </summary>
/// <remarks>
/// Flash-decoding (Dao et al., 2023): bound by the bytes of the cache. Blocks share the work as <see cref="DecodeSchedule"/> says; a block's
/// warps take turns at the tiles of a run of positions, each with an online softmax of its own (base 2; Milakov and Gimelshein, 2018),
/// and merge in order at the end; what several blocks did of one head is merged by the last of them, as <see cref="DecodeMerge"/> says. All query heads of
/// a key and value head are the rows of one mma, so each cached byte is read once, and arithmetic stays far below the tensor cores' limit.
/// The order of all sums follows from the lengths, the grid and nothing else.
/// What no kernel of the step writes, lengths, blocks and the cache's older positions, is read while the kernel before still runs.
/// </remarks>
public sealed class DecodeAttentionKernel : Kernel
{
    private readonly AttentionShape _shape;

    /// <summary>Compiles it.</summary>
    /// <param name="cache">Where.</param>
    /// <param name="shape">What for.</param>
    /// <param name="blocks">Blocks of the grid; 0 for as many as the device holds at once.</param>
    /// <param name="tiling">How a block shares its work; null for the default.</param>
    public DecodeAttentionKernel(KernelCache cache, AttentionShape shape, int blocks = 0, DecodeTiling? tiling = null)
        : base(cache, Build(cache.Target, shape, tiling))
    {
        ArgumentOutOfRangeException.ThrowIfNegative(blocks);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(blocks, DecodeMerge.MostBlocks);
        _shape = shape;
        Blocks = blocks > 0 ? blocks : Math.Min(DecodeMerge.MostBlocks, cache.Device.Info.Multiprocessors * Math.Max(1, Function.BlocksPerMultiprocessor(Threads)));
    }

    /// <summary>Blocks of the grid, whatever the batch.</summary>
    public int Blocks { get; }

    /// <summary>Bytes of workspace that a launch needs: zeros before the first of all launches, of whatever shapes, that use it one after the other.</summary>
    public long WorkspaceBytes => MaxWorkspaceBytes(_shape, Blocks);

    /// <summary>Bytes of workspace for so many blocks.</summary>
    public static long MaxWorkspaceBytes(AttentionShape shape, long blocks) => DecodeMerge.TicketBytes + (2 * blocks * DecodeMerge.PartBytes(shape));

    /// <summary>The kernel for a shape.</summary>
    public static PtxKernel Build(PtxTarget target, AttentionShape shape, DecodeTiling? tiling = null)
    {
        DecodeTiling chosen = tiling ?? DecodeTiling.Default;
        (int warps, int stages) = chosen;
        shape.Check();
        ArgumentOutOfRangeException.ThrowIfEqual(stages, 1); // too small for the sums
        // Narrow heads: the compiler for sm_80 would rather spill than take more than 96 registers; 128 still leave 16 warps a multiprocessor. With key biases it would
        // rather than take more than 168.
        int blocks = shape is { HeadDim: <= 64, Group: <= 8 } && shape.Cache.Bytes() == 2 ? 4 : shape.HasKeyBias ? 2 : 0;
        var k = new PtxBuilder(target, $"decode_attention_{shape.Name}{(chosen == DecodeTiling.Default ? "" : $"_{chosen}")}", warps * 32, blocks * 4 / warps);
        new Emission(k, new DecodeArguments(k), shape, stages).Emit();
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="qkv">[tokens, (heads + 2 kvHeads) headDim], as the projection made it.</param>
    /// <param name="attended">[tokens, heads headDim]; the rows of the sequences are written.</param>
    /// <param name="layer">The cache; the new tokens' keys and values are written.</param>
    /// <param name="rotary">What queries and keys are normed and rotated by.</param>
    /// <param name="sequences">Those that decode.</param>
    /// <param name="workspace">Of <see cref="WorkspaceBytes"/>.</param>
    public void Launch(
        IDeviceStream stream, DevicePointer qkv, DevicePointer attended, in KvLayerPointers layer, in RotaryPointers rotary, in DecodingSequences sequences,
        DevicePointer workspace)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(sequences.Count, nameof(sequences));
        Span<ulong> slots = stackalloc ulong[DecodeArguments.Count];
        DecodeArguments.Of(slots, qkv, attended, layer, rotary, sequences, workspace);
        Launch(stream, Blocks, slots, overlapPrevious: true);
    }

    /// <summary>The kernel being written.</summary>
    private sealed class Emission
    {
        private readonly PtxBuilder k;
        private readonly DecodeArguments _arguments;
        private readonly AttentionShape _shape;
        private readonly DecodeSchedule _schedule;
        private readonly DecodeMerge _merge;
        private readonly KvTile _tile;
        private readonly NewToken _token;
        private readonly int _queryTiles; // of eight queries
        private readonly F32[] _maxima, _weights; // of queries g and g + 8
        private readonly F32[][][] _sums; // O^T: [16 columns][8 queries] C fragments
        private readonly Shared _sharedMaxima, _sharedWeights, _sharedSums;
        private readonly int _stages;
        private KeyBiasScores? _bias;

        public Emission(PtxBuilder builder, DecodeArguments arguments, AttentionShape shape, int stages)
        {
            k = builder;
            _stages = stages;
            (_arguments, _shape) = (arguments, shape);
            _queryTiles = (shape.Group + 7) / 8;
            _tile = new KvTile(k, arguments, shape, stages);
            _maxima = [.. Enumerable.Range(0, _queryTiles).Select(_ => k.Variable<F32>())];
            _weights = [.. Enumerable.Range(0, _queryTiles).Select(_ => k.Variable<F32>())];
            _sums = [.. Enumerable.Range(0, _tile.ValueTiles).Select(_ => Enumerable.Range(0, _queryTiles).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<F32>()).ToArray()).ToArray())];
            _sharedMaxima = k.AllocateShared(k.Warps * 16 * sizeof(float));
            _sharedWeights = k.AllocateShared((k.Warps + 1) * 16 * sizeof(float)); // the last row: of the block
            _sharedSums = stages > 0 ? _tile.Ring : k.AllocateShared(k.Warps * SumsBytes); // the ring is free when sums are final, and large enough
            _merge = new DecodeMerge(k, shape, arguments.Workspace);
            _token = new NewToken(k, arguments, shape);
            k.LetNextKernelStart(); // so that it prefetches its weights meanwhile: all blocks of this one run by then
            _schedule = new DecodeSchedule(k, arguments, shape, RoundPositions, k.GridX);
        }

        // One float more a row, so that rows lie in different banks.
        private int SumsRowBytes => (_shape.HeadDim + 1) * sizeof(float);

        // Positions that the block takes at once.
        private int RoundPositions => k.Warps * KvTile.Positions(_shape);

        // From a warp's sums to the next's.
        private int SumsBytes => _stages > 0 ? _tile.RingBytes : _shape.Group * SumsRowBytes;

        public void Emit()
        {
            U32 round = k.Variable(_schedule.Start(k.BlockX)), end = _schedule.Start(k.BlockX + 1);
            using (k.If(round >= end, uniform: true))
                k.WaitForPreviousKernel(); // the grid must not be done before the kernel before

            k.ReturnIf(round >= end);
            if (_shape.HasKeyBias)
                _bias = new KeyBiasScores(k, _arguments, _shape, KvTile.Positions(_shape));
            using (k.While(() => round < end))
            {
                k.Comment("a run of rounds of one head");
                DecodeSchedule.Place place = _schedule.To(round);
                U32 rounds = k.Min(place.Rounds - place.Round, end - round);
                (Global table, U32 position, U32 stop) = Begin(place, rounds);
                Pred hasNew = stop.Is(place.To);
                _token.Begin(place, hasNew);
                k.WaitForPreviousKernel();
                _token.Turn(place, table, hasNew);
                k.Barrier();
                if (_bias is not null)
                {
                    _bias.Project(_token.Queries, _token.QueryRowBytes, place.Head);
                    k.Barrier();
                }

                Attend(place, table, position, stop, LoadQueries());
                Finish(place, round - place.Round, rounds.Is(place.Rounds));
                k.Set(round, round + rounds);
                using (k.If(round < end, uniform: true))
                    _schedule.Look();
            }
        }

        /// <summary>Rows g and g + 8 of the A operand, in the order of the tile's keys; rows past the group's are copies of its last, and not looked at.</summary>
        private U32[][] LoadQueries()
        {
            U32 row = k.Lane >> 2, zero = k.Variable<U32>(0);
            Shared first = _token.Queries.At(k.Min(row, _shape.Group - 1), _token.QueryRowBytes);
            Shared second = _queryTiles == 1 ? default : _token.Queries.At(k.Min(row + 8, _shape.Group - 1), _token.QueryRowBytes);
            var fragments = new U32[_tile.KeySteps][];
            for (int step = 0; step < fragments.Length; step++)
            {
                (int constant, int factor) = _tile.KeyColumn(step);
                U32[] x = Load(first), y = _queryTiles == 1 ? [zero, zero] : Load(second);
                fragments[step] = [x[0], y[0], x[1], y[1]];

                U32[] Load(Shared query) => k.LoadVector<U32>(query.At(k.Lane & 3, factor * sizeof(ushort)) + (constant * sizeof(ushort)), 2);
            }

            return fragments;
        }

        /// <summary>Starts to load this warp's first tile of a run of rounds; the sequence's blocks, the tile's first position, and where the run ends.</summary>
        private (Global Table, U32 Position, U32 Stop) Begin(DecodeSchedule.Place place, U32 rounds)
        {
            int roundPositions = RoundPositions, positions = KvTile.Positions(_shape);
            Global table = _arguments.BlockTables.At(place.Sequence, _arguments.BlocksPerSequence * sizeof(int));
            U32 start = ((place.From / roundPositions) + place.Round) * roundPositions;
            U32 stop = k.Min(start + (rounds * roundPositions), place.To);
            U32 position = k.Variable(start + (k.Warp * positions));
            if (_shape.SlidingWindow > 0) // the window may begin behind this warp's first tile
                k.Set(position, position + k.Select<U32>(position + positions <= place.From, roundPositions, 0));
            if (_stages > 0)
                _tile.Rewind();
            for (int stage = 0; stage < Math.Max(1, _stages); stage++)
            {
                U32 first = position + (stage * roundPositions);
                using (k.If((first < stop) & (place.From < place.To - 1), uniform: true)) // else there is nothing but the new token
                {
                    U32[] blocks = _tile.LoadBlocks(table, first, place);
                    if (_stages > 0)
                    {
                        _tile.Copy(blocks, first, place, stage);
                    }
                    else
                    {
                        _tile.LoadKeys(blocks, first, place);
                        _tile.LoadValues(blocks, first, place);
                    }
                }

                if (_stages > 0)
                    k.CommitCopies();
            }

            return (table, position, stop);
        }

        /// <summary>This warp's tiles of a run of rounds.</summary>
        private void Attend(DecodeSchedule.Place place, Global table, U32 position, U32 stop, U32[][] queries)
        {
            foreach (F32 maximum in _maxima)
                k.Set(maximum, float.NegativeInfinity);
            foreach (F32 weight in _weights)
                k.Set(weight, 0f);
            foreach (F32 sum in _sums.SelectMany(s => s).SelectMany(s => s))
                k.Set(sum, 0f);

            int roundPositions = RoundPositions;
            using (k.While(() => position < stop))
            {
                if (_stages > 0)
                    k.WaitForCopies(_stages - 1);
                using (k.If(position + KvTile.Positions(_shape) >= place.To, uniform: true))
                    _tile.Insert(_token, position, place);
                U32 next = position + (Math.Max(1, _stages) * roundPositions);
                U32[] nextBlocks = _tile.LoadBlocks(table, next, place);
                if (_stages > 0)
                    _tile.ReadKeys();
                F32[][] scores = Scores(queries, position);
                if (_stages == 0)
                {
                    using (k.If(next < stop, uniform: true))
                        _tile.LoadKeys(nextBlocks, next, place);
                }

                Weigh(scores, position, place);
                if (_stages > 0)
                    _tile.ReadValues();
                AddValues(scores);
                using (k.If(next < stop, uniform: true))
                {
                    if (_stages > 0)
                        _tile.Copy(nextBlocks, next, place);
                    else
                        _tile.LoadValues(nextBlocks, next, place);
                }

                if (_stages > 0)
                {
                    k.CommitCopies();
                    _tile.Advance();
                }

                k.Set(position, position + roundPositions);
            }
        }

        /// <summary>
        /// S = Q K^T: [16 queries, 8 positions] C fragments, rows 8 to 15 of use in groups of more than 8. With scale and bias, so that registers of
        /// these are free again before the next keys come.
        /// </summary>
        private F32[][] Scores(U32[][] queries, U32 position)
        {
            var scores = new F32[KvTile.Positions(_shape) / 8][];
            for (int n = 0; n < scores.Length; n++)
            {
                scores[n] = [.. Enumerable.Range(0, 4).Select(_ => k.Variable<F32>(0f))];
                for (int step = 0; step < _tile.KeySteps; step++)
                    k.Mma(_shape.Operands, scores[n], queries[step], _tile.Keys(n, step));
            }

            for (int n = 0; n < scores.Length && _shape.Cache == ElementType.S8; n++)
            {
                for (int i = 0; i < 2 * _queryTiles; i++)
                    scores[n][i] *= _tile.KeyScale(n, i % 2);
            }

            F32[][]? bias = _bias?.Compute(position);
            for (int n = 0; n < scores.Length && bias is not null; n++)
            {
                for (int i = 0; i < 2 * _queryTiles; i++)
                    scores[n][i] = _bias!.AddTo(scores[n][i], bias[n][i]);
            }

            return scores;
        }

        /// <summary>Scores become weights 2^(score - maximum), under a maximum that may have risen, and what was summed before is scaled down to it.</summary>
        private void Weigh(F32[][] scores, U32 position, DecodeSchedule.Place place)
        {
            for (int q = 0; q < _queryTiles; q++)
            {
                F32 maximum = _maxima[q];
                for (int n = 0; n < scores.Length; n++)
                {
                    for (int c = 0; c < 2; c++)
                    {
                        U32 at = position + ((k.Lane & 3) * 2) + ((8 * n) + c);
                        Pred attends = at < place.To;
                        if (_shape.SlidingWindow > 0)
                            attends &= at >= place.From;
                        scores[n][(2 * q) + c] = k.Select<F32>(attends, scores[n][(2 * q) + c] * _shape.ScoreScale, float.NegativeInfinity);
                        maximum = k.Max(maximum, scores[n][(2 * q) + c]);
                    }
                }

                maximum = k.MaxLanes(maximum, 4);
                F32 shrink = k.Exp2(_maxima[q] - maximum); // 0 at first
                k.Set(_maxima[q], maximum);
                k.MultiplyInto(_weights[q], shrink);
                for (int n = 0; n < scores.Length; n++)
                {
                    for (int c = 0; c < 2; c++)
                    {
                        scores[n][(2 * q) + c] = k.Exp2(scores[n][(2 * q) + c] - maximum);
                        k.AddInto(_weights[q], scores[n][(2 * q) + c]);
                    }
                }

                // Columns of O^T are queries 2t and 2t + 1.
                F32[] columns = OfColumns(shrink);
                foreach (F32[][] sum in _sums)
                {
                    for (int r = 0; r < 4; r++)
                        k.MultiplyInto(sum[q][r], columns[r & 1]);
                }
            }
        }

        /// <summary>What lanes have for query g, for queries 2t and 2t + 1.</summary>
        private F32[] OfColumns(F32 ofRow) => [k.ShuffleFrom(ofRow, (k.Lane & 3) * 8), k.ShuffleFrom(ofRow, ((k.Lane & 3) * 8) + 4)];

        /// <summary>O^T += V^T P^T: the C fragment of the weights is the B operand as it lies.</summary>
        private void AddValues(F32[][] weights)
        {
            for (int s = 0; s < weights.Length / 2; s++)
            {
                Half2[] scales = _tile.ValueScales(s);
                var p = new U32[_queryTiles][];
                for (int q = 0; q < _queryTiles; q++)
                    p[q] = [Packed(weights[2 * s], q), Packed(weights[(2 * s) + 1], q)];
                for (int tile = 0; tile < _tile.ValueTiles; tile++)
                {
                    U32[] values = _tile.Values(s, tile, scales);
                    for (int q = 0; q < _queryTiles; q++)
                        k.Mma(_shape.Operands, _sums[tile][q], values, p[q]);
                }
            }

            U32 Packed(F32[] scores, int q) => k.Pack(_shape.Operands, scores[2 * q], scores[(2 * q) + 1], saturate: false).AsU32;
        }

        /// <summary>The warps' results become the block's: the result itself where it did the whole head; else a part, to be merged with the others.</summary>
        /// <param name="place">Where the block began.</param>
        /// <param name="start">The first round of the head.</param>
        /// <param name="whole">Whether the block did all of it.</param>
        private void Finish(DecodeSchedule.Place place, U32 start, Pred whole)
        {
            Global part = _merge.Part(begins: place.Round.Is(0));
            U32 group = k.Lane >> 2;
            for (int q = 0; q < _queryTiles; q++)
            {
                k.Set(_weights[q], k.SumLanes(_weights[q], 4));
                U32 at = (k.Warp * 16) + (group + (8 * q));
                k.Store(_sharedMaxima.At(at, sizeof(float)), _maxima[q], (k.Lane & 3).Is(0));
                k.Store(_sharedWeights.At(at, sizeof(float)), _weights[q], (k.Lane & 3).Is(0));
            }

            k.Barrier();
            for (int q = 0; q < _queryTiles; q++)
            {
                F32[] columns = OfColumns(k.Exp2(_maxima[q] - MaximumOfWarps(group + (8 * q)))); // a warp without tiles: 2^-infinity
                for (int c = 0; c < 2; c++)
                {
                    U32 query = ((k.Lane & 3) * 2) + ((8 * q) + c);
                    Pred exists = query < _shape.Group;
                    Shared row = _sharedSums + (k.Warp * SumsBytes) + (query * SumsRowBytes);
                    for (int tile = 0; tile < _tile.ValueTiles; tile++)
                    {
                        (int constant, int factor) = _tile.ValueColumn(tile);
                        Shared at = row + (group * (factor * sizeof(float)));
                        for (int r = 0; r < 2; r++)
                            k.Store(at + ((constant + r) * sizeof(float)), _sums[tile][q][(2 * r) + c] * columns[c], exists);
                    }
                }
            }

            using (k.If(k.Thread < _shape.Group))
            {
                F32 maximum = MaximumOfWarps(k.Thread), weight = 0f;
                for (int w = 0; w < k.Warps; w++)
                {
                    F32 ofWarp = k.Load<F32>(_sharedWeights.At(k.Thread, sizeof(float)) + (w * 16 * sizeof(float)));
                    F32 shrunk = ofWarp * k.Exp2(k.Load<F32>(_sharedMaxima.At(k.Thread, sizeof(float)) + (w * 16 * sizeof(float))) - maximum);
                    weight = w == 0 ? shrunk : weight + shrunk;
                }

                k.Store(_sharedWeights.At(k.Thread, sizeof(float)) + (k.Warps * 16 * sizeof(float)), weight);
                k.Store(_merge.Maximum(part, k.Thread), maximum, !whole);
                k.Store(_merge.Weight(part, k.Thread), weight, !whole);
            }

            k.Barrier();
            int pairs = _shape.HeadDim / 2;
            Global rows = _arguments.Attended.At(place.Token, _shape.Heads * _shape.HeadDim * sizeof(ushort)).At(place.Head, _shape.Group * _shape.HeadDim * sizeof(ushort));
            using (k.For(k.Thread, _shape.Group * pairs, k.Threads, out U32 index))
            {
                U32 query = index / pairs;
                Shared at = _sharedSums + (query * SumsRowBytes) + ((index % pairs) * (2 * sizeof(float)));
                F32[] sum = new F32[2];
                for (int c = 0; c < 2; c++)
                {
                    sum[c] = k.Load<F32>(at + (c * sizeof(float)));
                    for (int w = 1; w < k.Warps; w++)
                        sum[c] += k.Load<F32>(at + ((w * SumsBytes) + (c * sizeof(float))));
                }

                k.StoreVector<F32>(part.At(index, 2 * sizeof(float)), sum, !whole);
                F32 inverse = k.Reciprocal(k.Load<F32>(_sharedWeights.At(query, sizeof(float)) + (k.Warps * 16 * sizeof(float))));
                k.Store(rows.At(index, 2 * sizeof(ushort)), k.Pack(_shape.Type, sum[0] * inverse, sum[1] * inverse).AsU32, whole);
            }

            using (k.If(!whole, uniform: true))
            {
                U32 first = _schedule.BlockOf(start);
                _merge.Merge(first, (_schedule.BlockOf(start + (place.Rounds - 1)) - first) + 1, rows);
            }

            k.Barrier(); // before shared memory is written again
        }

        private F32 MaximumOfWarps(U32 query)
        {
            F32 maximum = k.Load<F32>(_sharedMaxima.At(query, sizeof(float)));
            for (int w = 1; w < k.Warps; w++)
                maximum = k.Max(maximum, k.Load<F32>(_sharedMaxima.At(query, sizeof(float)) + (w * 16 * sizeof(float))));
            return maximum;
        }
    }
}
