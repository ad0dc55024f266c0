using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Writes <see cref="PrefillAttentionKernel"/> with products of warp groups, for caches of 16 bits and heads of 64 or 128.</summary>
/// <remarks>
/// FlashAttention-3 (Shah et al., 2024). The first warp group brings tiles of keys (two of its warps) and values (the other two) into stages of shared memory, the other two have
/// 64 rows each. A group's scores of tile i and its sums over tile i - 1 are under way together; when the scores are there, their softmax runs beside
/// those sums and beside the other group's products. Where the groups take turns, each issues both while the other computes its softmax.
/// </remarks>
internal sealed class PrefillWarpGroups
{
    public const int Rows = 128, Threads = 384;

    private const int Stages = 2, GroupThreads = 128, GroupRows = 64, Consumers = Rows / GroupRows, ConsumerWarps = Consumers * 4;
    private const int ConsumerRegisters = 232, ProducerRegisters = 40; // of 65536, for 256 and 128 threads

    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly PrefillTiling _tiling;
    private readonly PrefillBlock _block;
    private readonly MatrixLayout _queryLayout, _tileLayout;
    private readonly Shared _queries, _tiles, _barriers;
    private readonly U32 _start;

    /// <summary>Takes shared memory.</summary>
    public PrefillWarpGroups(PtxBuilder k, AttentionShape shape, PrefillTiling tiling)
    {
        (_k, _shape, _tiling) = (k, shape, tiling);
        _block = new PrefillBlock(k, shape, Rows);
        (_queryLayout, _tileLayout) = (new MatrixLayout(Rows, shape.RowBytes), new MatrixLayout(tiling.Positions, shape.RowBytes));
        _queries = _queryLayout.Allocate(k);
        _tiles = _tileLayout.Allocate(k);
        for (int i = 1; i < 2 * Stages; i++) // stages of keys, then of values
            _tileLayout.Allocate(k);
        _barriers = k.AllocateShared(4 * Stages * sizeof(long));
        _start = _block.From / tiling.Positions * tiling.Positions;
    }

    public void Emit()
    {
        using (_k.If(_k.Thread.Is(0)))
        {
            for (int kind = 0; kind < 2; kind++)
            {
                for (int stage = 0; stage < Stages; stage++)
                {
                    _k.InitializeBarrier(Full(kind, stage), GroupThreads / 2);
                    _k.InitializeBarrier(Empty(kind, stage), ConsumerWarps);
                }
            }

            _k.FenceBarriers();
        }

        _k.Barrier();
        U32 group = _k.ShuffleFrom(_k.Warp, 0) >> 2; // the same for all lanes, as the compiler sees too
        _k.If(group.Is(0), Produce, () => Consume(group - 1));
    }

    // The barriers that a tile of keys (kind 0) or values (1) has come to its stage, and that it can be overwritten.
    private Shared Full(U32 kind, U32 stage) => _barriers.At((kind * (2 * Stages)) + stage, sizeof(long));

    private Shared Empty(U32 kind, U32 stage) => Full(kind, stage) + (Stages * sizeof(long));

    private static U32 Stage(U32 tile) => tile % Stages;

    private static U32 Parity(U32 tile) => (tile / Stages) & 1;

    /// <summary>A thread has one chunk of 16 bytes, in each panel, of every eighth row.</summary>
    private void Produce()
    {
        _k.SetRegisters(ProducerRegisters, more: false);
        U32 kind = _k.Warp >> 1, thread = _k.Thread % (GroupThreads / 2), row = thread >> 3, chunk = thread & 7;
        Global from = new Global(_k.Select(kind.Is(0), _block.Arguments.Keys.Base, _block.Arguments.Values.Base)).At(chunk, 16);
        Shared to = _tiles.At(kind, Stages * _tileLayout.Bytes) + _tileLayout.Offset(row, chunk);
        U32 tile = _k.Variable<U32>(0);
        using (_k.For(_start, _block.Last + 1, _tiling.Positions, out U32 position))
        {
            U32 stage = Stage(tile);
            _k.WaitBarrier(Empty(kind, stage), Parity(tile) ^ 1);
            Shared tileAt = to.At(stage, _tileLayout.Bytes);
            for (int sixteen = 0; sixteen < _tiling.Positions; sixteen += 16)
            {
                // Positions 16 apart have blocks of their own, those in between don't.
                U32 block = _block.BlockOf(_block.InRange(position + row + sixteen));
                for (int eight = sixteen; eight < sixteen + 16; eight += 8)
                {
                    Global vector = from.At(_block.Vector(_block.InRange(position + row + eight), block), _shape.RowBytes);
                    for (int panel = 0; panel < _shape.RowBytes / _tileLayout.PanelWidth; panel++)
                        _k.CopyAsync(tileAt + ((panel * _tileLayout.PanelBytes) + (eight * _tileLayout.PanelWidth)), vector + (panel * _tileLayout.PanelWidth), 16);
                }
            }

            _k.CommitCopies();
            _k.WaitForCopies(0);
            _k.FenceAsyncProxy();
            _k.Arrive(Full(kind, stage));
            _k.AddInto(tile, 1);
        }
    }

    private void Consume(U32 group)
    {
        _k.SetRegisters(ConsumerRegisters, more: true);
        U32 firstRow = group * GroupRows, thread = _k.Thread % GroupThreads;
        Shared own = _queries.At(firstRow, _queryLayout.PanelWidth);
        _block.StoreQueries(firstRow, GroupRows, thread, GroupThreads, (row, chunk) => own + _queryLayout.Offset(row, chunk));
        _k.FenceAsyncProxy();
        _k.Barrier(group + 1, GroupThreads);

        var rows = new PrefillRows(_k, _shape, 1, firstRow + ((_k.Warp & 3) * 16));
        rows.Reset(_block);
        F32[][] scores = PrefillRows.Variables(_k, _tiling.Positions / 8, 4);
        U32[][] weights = [.. Enumerable.Range(0, _tiling.Positions / 16).Select(_ => Enumerable.Range(0, 4).Select(_ => _k.Variable<U32>()).ToArray())];
        MatrixDescriptor queries = _queryLayout.Describe(_k, own), keys = _tileLayout.Describe(_k, _tiles), values = _tileLayout.Describe(_k, _tiles + (Stages * _tileLayout.Bytes), transposed: true);
        // A fragments by ldmatrix: rows lane % 16, chunk lane / 16 of a step.
        U32[][] held = _tiling.HoldsQueries
            ? [.. Enumerable.Range(0, _shape.HeadDim / 16).Select(step => _k.LoadMatrix(own + _queryLayout.Offset(((_k.Warp & 3) * 16) + (_k.Lane & 15), (_k.Lane >> 4) + (2 * step)), 4))]
            : [];
        U32 position = _k.Variable(_start), tile = _k.Variable<U32>(0);

        WaitForTile(0, tile);
        _k.FenceProducts();
        Scores(0);
        _k.WaitForProducts(0);
        Release(0, tile);
        rows.Mask([scores], position);
        rows.Weigh(scores, 0); // sums are zeros
        Pack();
        if (_tiling.TakesTurns)
        {
            using (_k.If(group.Is(1), uniform: true))
                _k.BarrierArrive(Turn(0), Consumers * GroupThreads);
        }

        U32 next = _k.Variable(position + _tiling.Positions);
        WaitForKeys(next, tile + 1);
        if (_shape.SlidingWindow == 0)
            Tiles(() => next + (_tiling.Positions - 1) <= _block.First, isMasked: false);
        Tiles(() => next <= _block.Last, isMasked: true);

        WaitForTile(1, tile);
        _k.FenceProducts();
        AddValues(tile);
        _k.WaitForProducts(0);
        if (_tiling.TakesTurns)
        {
            using (_k.If(group.Is(0), uniform: true))
                _k.Barrier(Turn(0), Consumers * GroupThreads); // the turn that the other group gave away last
        }

        rows.Store(_block);

        void Tiles(Func<Pred> more, bool isMasked)
        {
            using (_k.While(more))
            {
                U32 ahead = tile + 1;
                if (_tiling.TakesTurns)
                    _k.Barrier(Turn(group), Consumers * GroupThreads);
                _k.FenceProducts();
                Scores(ahead);
                WaitForTile(1, tile);
                AddValues(tile);
                if (_tiling.TakesTurns)
                    _k.BarrierArrive(Turn(group ^ 1), Consumers * GroupThreads);
                _k.WaitForProducts(1);
                Release(0, ahead);
                if (isMasked)
                    rows.Mask([scores], next);
                F32[] shrink = rows.Weigh(scores, 0);
                _k.Set(next, next + _tiling.Positions);
                WaitForKeys(next, ahead + 1); // a branch, before which the compiler leaves the exponentials
                _k.WaitForProducts(0);
                Release(1, tile);
                rows.Shrink(shrink, 0);
                Pack();
                _k.Set(tile, ahead);
            }
        }

        // S = Q K^T.
        void Scores(U32 of)
        {
            MatrixDescriptor there = keys.Further(Stage(of) * _tileLayout.Bytes);
            F32[] all = [.. scores.SelectMany(s => s)];
            for (int step = 0; step < _shape.HeadDim / 16; step++)
            {
                if (_tiling.HoldsQueries)
                    _k.Product(_shape.Operands, all, held[step], there.Step(step), accumulate: step > 0);
                else
                    _k.Product(_shape.Operands, all, queries.Step(step), there.Step(step), accumulate: step > 0);
            }

            _k.CommitProducts();
        }

        // O += P V.
        void AddValues(U32 of)
        {
            MatrixDescriptor there = values.Further(Stage(of) * _tileLayout.Bytes);
            F32[] all = [.. rows.Sums[0].SelectMany(s => s)];
            for (int step = 0; step < weights.Length; step++)
                _k.Product(_shape.Operands, all, weights[step], there.Step(step));
            _k.CommitProducts();
        }

        void Pack()
        {
            for (int step = 0; step < weights.Length; step++)
            {
                U32[] operand = rows.Operand(scores, step);
                for (int r = 0; r < 4; r++)
                    _k.Set(weights[step][r], operand[r]);
            }
        }

        void WaitForTile(U32 kind, U32 of) => _k.WaitBarrier(Full(kind, Stage(of)), Parity(of));

        void WaitForKeys(U32 of, U32 tile)
        {
            using (_k.If(of <= _block.Last, uniform: true))
                WaitForTile(0, tile);
        }

        void Release(U32 kind, U32 of) => _k.Arrive(Empty(kind, Stage(of)), _k.Lane.Is(0));

        U32 Turn(U32 of) => of + (1 + Consumers);
    }
}
