using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Writes <see cref="PrefillAttentionKernel"/> with products of warp groups, for caches of 8 and 16 bits and heads of 64 or 128.</summary>
/// <remarks>
/// FlashAttention-3 (Shah et al., 2024). The first warp group brings tiles of keys and values into stages of shared memory, the other two have
/// 64 rows each. A group's scores of tile i and its sums over tile i - 1 are under way together; when the scores are there, their softmax runs beside
/// those sums and beside the other group's products. Where the groups take turns, each issues both while the other computes its softmax.
/// </remarks>
internal sealed class PrefillWarpGroups
{
    public const int Rows = 128, Threads = 384;

    private const int GroupThreads = 128, GroupRows = 64, Consumers = Rows / GroupRows;

    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly PrefillTiling _tiling;
    private readonly MatrixLayout _queryLayout;
    private readonly Shared _queries;
    private readonly AttentionArguments _arguments;
    private readonly U32 _works, _sequences;
    private readonly PrefillProducers _producers;
    private readonly PrefillStages _stages;

    /// <summary>Takes arguments and shared memory.</summary>
    public PrefillWarpGroups(PtxBuilder k, AttentionShape shape, PrefillTiling tiling)
    {
        (_k, _shape, _tiling, _arguments, _works, _sequences) = (k, shape, tiling, new AttentionArguments(k), k.Number("works"), k.Number("sequence_count"));
        _queryLayout = new MatrixLayout(Rows, shape.HeadDim * sizeof(ushort));
        _queries = _queryLayout.Allocate(k);
        _producers = new PrefillProducers(k, shape, _arguments, tiling.Positions, Consumers * 4);
        _stages = _producers.Stages;
    }

    public void Emit()
    {
        using (_k.If(_k.Thread.Is(0)))
            _stages.Initialize();
        _k.Barrier();
        _k.WaitForPreviousKernel();
        _k.LetNextKernelStart();
        U32 group = _k.ShuffleFrom(_k.Warp, 0) >> 2; // the same for all lanes, as the compiler sees too
        // For 128 threads that copy, or load and convert, and 256 that compute: not more than the 384 * 168 that the block begins with, or it waits for ever.
        (int producing, int consuming) = _shape.Cache.Bytes() == 2 ? (40, 232) : _shape.HasKeyBias ? (120, 192) : (104, 200);
        _k.If(group.Is(0), () =>
        {
            _k.SetRegisters(producing, more: false);
            _producers.Emit(ForEachWork);
        }, () =>
        {
            _k.SetRegisters(consuming, more: true);
            Consume(group - 1);
        });
    }

    /// <summary>
    /// A work is 128 rows of a head of a sequence, those that see the most first. Blocks that are fewer than works go through them to and fro, so that each gets
    /// long ones and short ones.
    /// </summary>
    private void ForEachWork(Action<PrefillBlock> emit)
    {
        U32 isBack = _k.Variable<U32>(0);
        using (_k.For(0, _works, _k.GridX, out U32 first))
        {
            U32 work = first + _k.Select(isBack.Is(0), _k.BlockX, (_k.GridX - 1) - _k.BlockX), ofTile = work % (_sequences * _shape.KvHeads);
            _k.Set(isBack, isBack ^ 1);
            var block = new PrefillBlock(_k, _shape, _arguments, Rows, work / (_sequences * _shape.KvHeads), ofTile % _shape.KvHeads, ofTile / _shape.KvHeads);
            using (_k.If(!block.IsEmpty, uniform: true))
                emit(block);
        }
    }

    private void Consume(U32 group)
    {
        U32 firstRow = group * GroupRows, thread = _k.Thread % GroupThreads;
        Shared own = _queries.At(firstRow, _queryLayout.PanelWidth);
        var rows = new PrefillRows(_k, _shape, 1, firstRow + ((_k.Warp & 3) * 16));
        F32[][] scores = PrefillRows.Variables(_k, _tiling.Positions / 8, 4);
        U32[][] weights = [.. Enumerable.Range(0, _tiling.Positions / 16).Select(_ => Enumerable.Range(0, 4).Select(_ => _k.Variable<U32>()).ToArray())];
        MatrixDescriptor queries = _queryLayout.Describe(_k, own), keys = _stages.Layout.Describe(_k, _stages.First(0)), values = _stages.Layout.Describe(_k, _stages.First(1), transposed: true);
        U32[][] held = [];
        U32 tile = _k.Variable<U32>(0), next = _k.Variable<U32>();
        ForEachWork(work =>
        {
            LoadQueries(work);
            rows.Reset(work);
            U32 start = work.From / _tiling.Positions * _tiling.Positions;
            _stages.WaitForTile(0, tile);
            _k.FenceProducts();
            Scores(tile);
            _k.WaitForProducts(0);
            _stages.Release(0, tile);
            rows.Mask([scores], start);
            rows.Weigh(scores, 0); // sums are zeros
            Pack();
            if (_tiling.TakesTurns)
            {
                using (_k.If(group.Is(1), uniform: true))
                    _k.BarrierArrive(Turn(0), Consumers * GroupThreads);
            }

            _k.Set(next, start + _tiling.Positions);
            WaitForKeys(work, tile + 1);
            if (_shape.SlidingWindow == 0)
                Tiles(work, () => next + (_tiling.Positions - 1) <= work.First, isMasked: false);
            Tiles(work, () => next <= work.Last, isMasked: true);

            _stages.WaitForTile(1, tile);
            _k.FenceProducts();
            AddValues(tile);
            _k.WaitForProducts(0);
            _stages.Release(1, tile);
            _k.AddInto(tile, 1);
            if (_tiling.TakesTurns)
            {
                using (_k.If(group.Is(0), uniform: true))
                    _k.Barrier(Turn(0), Consumers * GroupThreads); // the turn that the other group gave away last
            }

            rows.Store(work);
        });

        void LoadQueries(PrefillBlock work)
        {
            _k.Barrier(group + 1, GroupThreads); // the queries before are used up
            work.StoreQueries(firstRow, GroupRows, thread, GroupThreads, (row, chunk) => own + _queryLayout.Offset(row, chunk));
            _k.FenceAsyncProxy();
            _k.Barrier(group + 1, GroupThreads);
            // A fragments by ldmatrix: rows lane % 16, chunk lane / 16 of a step.
            if (_tiling.HoldsQueries)
                held = [.. Enumerable.Range(0, _shape.HeadDim / 16).Select(step => _k.LoadMatrix(own + _queryLayout.Offset(((_k.Warp & 3) * 16) + (_k.Lane & 15), (_k.Lane >> 4) + (2 * step)), 4))];
        }

        void Tiles(PrefillBlock work, Func<Pred> more, bool isMasked)
        {
            using (_k.While(more))
            {
                U32 ahead = tile + 1;
                if (_tiling.TakesTurns)
                    _k.Barrier(Turn(group), Consumers * GroupThreads);
                _k.FenceProducts();
                Scores(ahead);
                _stages.WaitForTile(1, tile);
                AddValues(tile);
                if (_tiling.TakesTurns)
                    _k.BarrierArrive(Turn(group ^ 1), Consumers * GroupThreads);
                _k.WaitForProducts(1);
                _stages.Release(0, ahead);
                if (isMasked)
                    rows.Mask([scores], next);
                F32[] shrink = rows.Weigh(scores, 0);
                _k.Set(next, next + _tiling.Positions);
                WaitForKeys(work, ahead + 1); // a branch, before which the compiler leaves the exponentials
                _k.WaitForProducts(0);
                _stages.Release(1, tile);
                rows.Shrink(shrink, 0);
                Pack();
                _k.Set(tile, ahead);
            }
        }

        // S = Q K^T.
        void Scores(U32 of)
        {
            MatrixDescriptor there = keys.Further(_stages.Further(of));
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
            MatrixDescriptor there = values.Further(_stages.Further(of));
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

        void WaitForKeys(PrefillBlock work, U32 of)
        {
            using (_k.If(next <= work.Last, uniform: true))
                _stages.WaitForTile(0, of);
        }

        U32 Turn(U32 of) => of + (1 + Consumers);
    }
}
