using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>What becomes of a product's sums.</summary>
/// <param name="Activations">Type of x: F16 or BF16.</param>
/// <param name="Result">Type of y.</param>
/// <param name="Accumulate">y += W x.</param>
/// <param name="Bias">A bias is added.</param>
/// <param name="Gated">W is a gate and an up projection, one above the other, and y = SiLU(gate) * up.</param>
internal readonly record struct GemmResult(ElementType Activations, ElementType Result, bool Accumulate, bool Bias, bool Gated);

/// <summary>The text of a <see cref="GemmKernel"/>.</summary>
/// <remarks>
/// The work is a line of stages: all stages of inputs of a tile (a block's outputs by its rows of x), then those of the next. Each block takes an equal run
/// of it (stream-K: Osama et al., arXiv 2301.03598), from its end to its start, and what it is to need goes ahead through a ring in shared memory,
/// across the tiles' borders. A block that has the last stages of a tile finishes it: it adds what the blocks before it made of the tile's earlier stages, which
/// they left in the workspace, in their order. So blocks wait only for those before them, which began when they did, and which each do that part first.
/// A warp's 16 outputs are rows of the A operand, decoded in registers; x, dealt in the order that weights come in, is B, for mma.sync, or from sm_90a
/// on for products of four warps, which read it from shared memory by themselves. Both leave the sums in the same registers. Where y is gated, a warp has
/// eight outputs of the gate and the same eight of the up projection as its rows g and g + 8, so that both sums of a result are in one lane.
/// </remarks>
internal sealed class GemmEmission
{
    /// <summary>Bytes at the start of the workspace where blocks say that they have left something.</summary>
    public const int FlagBytes = 1 << 14;

    private const int PassRows = 64; // of x, whose sums of a segment are in registers together
    private readonly PtxBuilder _k;
    private readonly GemmWeights _weights;
    private readonly GemmResult _result;
    private readonly GemmTiling _tiling;
    private readonly Global _x, _bias, _y, _workspace;
    private readonly U32 _outputs, _results, _inputs, _rows, _stages, _tokenTiles, _run, _units;
    private readonly MatrixLayout _layout;
    private readonly int _ringStages, _piecesAt, _scalesAt, _stageBytes;
    private readonly bool _hasWarpGroups;
    private readonly F32[] _sums; // [row of x / 8 * 4 + register of a C fragment]
    private readonly F32[] _products, _sumsOfX; // of a segment and some of the rows
    private readonly U32[][] _ahead; // the A registers of a stage's first steps

    /// <summary>Takes the kernel's parameters: the weights' own are there before.</summary>
    public GemmEmission(PtxBuilder k, GemmResult result, GemmTiling tiling, U32 outputs, U32 inputs, Func<GemmWeights> weights)
    {
        (_k, _result, _tiling, _outputs, _inputs) = (k, result, tiling, outputs, inputs);
        _results = result.Gated ? outputs / 2 : outputs;
        (_x, _bias, _y, _workspace) = (k.Pointer("x"), k.Pointer("bias"), k.Pointer("y"), k.Pointer("workspace"));
        (_rows, _stages, _tokenTiles, _run, _units) = (k.Number("rows"), k.Number("stages"), k.Number("token_tiles"), k.Number("run"), k.Number("units"));
        _weights = weights();
        _hasWarpGroups = k.Target.Has(PtxFeature.WarpGroupMma);
        _layout = new MatrixLayout(tiling.Rows, _weights.StageInputs * 2);
        _piecesAt = _layout.Bytes;
        _scalesAt = _piecesAt + (tiling.Warps * PieceBytes);
        _stageBytes = (_scalesAt + (tiling.Warps * _weights.ScaleBytes) + _layout.Alignment - 1) / _layout.Alignment * _layout.Alignment;
        _ringStages = tiling.Stages(k.Target, _stageBytes);
        _sums = [.. Enumerable.Range(0, tiling.Rows / 2).Select(_ => k.Variable<F32>(0f))];
        _products = Registers(IsScaled ? Math.Min(PassRows, tiling.Rows) / 2 : 0);
        _ahead = _hasWarpGroups ? [.. Enumerable.Range(0, Math.Min(4, StepsOfSegment)).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<U32>()).ToArray())] : [];
        _sumsOfX = Registers(_weights.HasMinimum ? Math.Min(PassRows, tiling.Rows) / 2 : 0);
    }

    /// <summary>Steps of 16 inputs whose sums have one scale.</summary>
    private int StepsOfSegment => _weights.StageInputs / 16 / _weights.Segments;

    /// <summary>Bytes of the pieces of a tile and stage.</summary>
    private int PieceBytes => _weights.Pieces * 32 * 16;

    private bool IsScaled => _weights.ScaleBytes > 0;

    private U32 Group => _k.Lane >> 2; // g and t of the fragments

    private U32 Member => _k.Lane & 3;

    /// <summary>Which sixteen rows of W are this warp's.</summary>
    private U32 Sixteen(U32 tile) => (tile / _tokenTiles * _tiling.Warps) + _k.Warp;

    private U32 FirstRow(U32 tile) => tile % _tokenTiles * _tiling.Rows;

    public void Emit()
    {
        Shared ring = _k.AllocateShared(_stageBytes * _ringStages, _layout.Alignment);
        U32 first = _k.BlockX * _run, last = _k.Min(first + _run, _units) - 1;
        U32 tile = _k.Variable(last / _stages), stage = _k.Variable(last % _stages), left = _k.Variable((last + 1) - first);
        var ahead = new GemmCopies(_k, _weights, _layout, _tiling, new GemmRing(ring, _piecesAt, _scalesAt, PieceBytes), _x, _inputs, _rows, _stages, tile, stage, left, Sixteen, FirstRow);

        _k.Comment("what the kernel before does not write: the first weights, to L2; rows of x that don't exist, which are copied from nowhere");
        ahead.Prefetch(_ringStages - 1);
        Clear(ring);
        _k.LetNextKernelStart();
        _k.Barrier();
        _k.WaitForPreviousKernel();
        using (_k.For(0, (_ringStages - 1) * _stageBytes, _stageBytes, out U32 slot))
        {
            ahead.Copy(slot);
            ahead.Advance();
        }

        // The stage's slot in the ring, and the one before, which is copied to.
        U32 here = _k.Variable<U32>(0), free = _k.Variable<U32>((_ringStages - 1) * _stageBytes);
        U32 hasEnd = _k.Variable(_k.Select<U32>(stage.Is(_stages - 1), 1, 0)); // of the tile
        if (_hasWarpGroups)
        {
            _k.WaitForCopies(_ringStages - 2);
            _k.Barrier();
            DecodeAhead(ring, here);
        }

        using (_k.While(() => left > 0))
        {
            _k.WaitForCopies(_ringStages - (_hasWarpGroups ? 3 : 2));
            if (_hasWarpGroups)
                _k.FenceAsyncProxy();
            _k.Barrier();
            U32 next = _k.Select(here.Is((_ringStages - 1) * _stageBytes), 0, here + _stageBytes);
            if (_hasWarpGroups)
            {
                MultiplyGroups(ring, here, () => ahead.Copy(free), next, left > 1);
            }
            else
            {
                ahead.Copy(free);
                MultiplyWarps(ring, here);
            }

            ahead.Advance();
            _k.Set(free, here);
            _k.Set(here, next);
            _k.Set(left, left - 1);
            using (_k.If(stage.Is(0) | left.Is(0), uniform: true))
            {
                Finish(tile, stage, hasEnd);
                _k.Set(tile, tile - 1);
                _k.Set(stage, _stages);
                _k.Set<U32>(hasEnd, 1);
            }

            _k.Set(stage, stage - 1);
        }
    }

    private void Clear(Shared ring)
    {
        U32 zero = _k.Variable<U32>(0);
        using (_k.For(_k.Thread * 16, _layout.Bytes, _k.Threads * 16, out U32 at))
        {
            for (int stage = 0; stage < _ringStages; stage++)
                _k.StoreVector<U32>(ring + at + (stage * _stageBytes), [zero, zero, zero, zero]);
        }
    }

    private U32[][] Words(Shared ring, U32 slot) => _weights.LoadPieces((ring + slot + _piecesAt).At(_k.Warp, PieceBytes).At(_k.Lane, 16));

    private U32[][] Scales(Shared ring, U32 slot) => _weights.LoadScales((ring + slot + _scalesAt).At(_k.Warp, _weights.ScaleBytes));

    /// <summary>The A registers of a stage's first steps.</summary>
    private void DecodeAhead(Shared ring, U32 slot)
    {
        U32[][] words = Words(ring, slot), scales = Scales(ring, slot);
        for (int step = 0; step < _ahead.Length; step++)
        {
            U32[] a = _weights.Decode(words, scales, step);
            for (int r = 0; r < 4; r++)
                _k.Set(_ahead[step][r], a[r]);
        }
    }

    /// <summary>
    /// Multiplies a stage by products of four warps, some steps decoded while those before are multiplied: those of the next stage, too, so that
    /// all warps can start when they have met.
    /// </summary>
    /// <param name="ring">The ring.</param>
    /// <param name="here">The stage's slot.</param>
    /// <param name="copy">Starts the copies of a later stage.</param>
    /// <param name="next">The next stage's slot.</param>
    /// <param name="hasNext">Whether there is a next stage. Asking keeps the assembler from decoding it only after all products.</param>
    private void MultiplyGroups(Shared ring, U32 here, Action copy, U32 next, Pred hasNext)
    {
        U32[][] words = Words(ring, here), scales = Scales(ring, here);
        U32 one = Ones;
        MatrixDescriptor x = _layout.Describe(_k, ring).Further(here);
        var a = new U32[_weights.StageInputs / 16][];
        _ahead.CopyTo(a, 0);
        for (int segment = 0; segment < _weights.Segments; segment++)
        {
            int first = segment * StepsOfSegment, end = first + StepsOfSegment;
            for (int row = 0; row < _tiling.Rows; row += PassRows)
            {
                F32[] sums = _sums[(row / 2)..Math.Min((row + PassRows) / 2, _sums.Length)], products = IsScaled ? _products[..sums.Length] : sums;
                MatrixDescriptor columns = x.Further(row * _layout.PanelWidth);
                for (int step = first; step < end; step += _ahead.Length)
                {
                    for (int s = step; s < step + _ahead.Length; s++)
                        a[s] ??= _weights.Decode(words, scales, s);
                    _k.FenceProducts();
                    for (int s = step; s < step + _ahead.Length; s++)
                    {
                        _k.Product(_result.Activations, products, a[s], columns.Step(s), accumulate: !IsScaled || s > first);
                        if (_weights.HasMinimum)
                            _k.Product(_result.Activations, _sumsOfX, [one, one, one, one], columns.Step(s), accumulate: s > first);
                    }

                    _k.CommitProducts();
                }

                if (segment + row == 0)
                    copy();
                if (end == a.Length && row + PassRows >= _tiling.Rows)
                {
                    _k.WaitForProducts(StepsOfSegment > _ahead.Length ? 1 : 0); // the first steps' registers are free
                    using (_k.If(hasNext, uniform: true))
                        DecodeAhead(ring, next);
                }

                _k.WaitForProducts(0);
                AddProducts(sums, products, scales, segment);
            }
        }
    }

    /// <summary>Multiplies a stage by products of a warp, two steps at a time, which are four chunks of a row of x.</summary>
    private void MultiplyWarps(Shared ring, U32 here)
    {
        U32[][] words = Words(ring, here), scales = Scales(ring, here);
        U32 one = Ones, row = _k.Lane & 7, chunk = _k.Lane >> 3;
        for (int segment = 0; segment < _weights.Segments; segment++)
        {
            F32[] products = IsScaled ? _products : _sums;
            foreach (F32 sum in (F32[])[.. IsScaled ? products : [], .. _sumsOfX])
                _k.Set<F32>(sum, 0f);
            for (int step = segment * StepsOfSegment; step < (segment + 1) * StepsOfSegment; step += 2)
            {
                U32[][] a = [_weights.Decode(words, scales, step), _weights.Decode(words, scales, step + 1)];
                Shared matrices = ring + here + _layout.Offset(row, chunk + (step * 2));
                for (int column = 0; column < _tiling.Rows / 8; column++)
                {
                    _k.WarpBarrier(); // else the assembler loads all of x at once, for which there are no registers
                    U32[] b = _k.LoadMatrix(matrices + (column * 8 * _layout.PanelWidth), 4);
                    for (int s = 0; s < 2; s++)
                    {
                        _k.Mma(_result.Activations, products.AsSpan(column * 4, 4), a[s], b.AsSpan(s * 2, 2));
                        if (_weights.HasMinimum)
                            _k.Mma(_result.Activations, _sumsOfX.AsSpan(column * 4, 4), [one, one, one, one], b.AsSpan(s * 2, 2));
                    }
                }
            }

            AddProducts(_sums, products, scales, segment);
        }
    }

    private void AddProducts(F32[] sums, F32[] products, U32[][] scales, int segment)
    {
        if (IsScaled)
            AddScaled(sums, products, _weights.Scale(scales, segment));
        if (_weights.HasMinimum)
            AddScaled(sums, _sumsOfX, _weights.Minimum(scales, segment));
    }

    /// <summary>Two of them, in the type of x.</summary>
    private U32 Ones => _k.Variable<U32>(_result.Activations == ElementType.F16 ? 0x3c003c00u : 0x3f803f80u);

    private void AddScaled(F32[] sums, F32[] products, (F32 Low, F32 High) scale)
    {
        for (int c = 0; c < sums.Length; c++)
            _k.FmaInto(sums[c], c % 4 < 2 ? scale.Low : scale.High, products[c]);
    }

    /// <summary>The block's part of a tile is done.</summary>
    /// <param name="tile">The tile.</param>
    /// <param name="stage">The first stage of the part.</param>
    /// <param name="hasEnd">Whether it has the tile's last.</param>
    private void Finish(U32 tile, U32 stage, U32 hasEnd)
    {
        int blockBytes = _tiling.Outputs * _tiling.Rows * sizeof(float);
        Global partial = (_workspace + FlagBytes).At(_k.Thread, 16);
        _k.If(
            hasEnd.Is(0),
            () =>
            {
                Global mine = partial.At(_k.BlockX, blockBytes);
                ForEach((sums, i) => _k.StoreVector<F32>(mine + (i * _k.Threads * 16), sums));
                _k.Barrier();
                using (_k.If(_k.Thread.Is(0)))
                {
                    _k.FenceDevice();
                    _k.StoreRelease(_workspace.At(_k.BlockX, sizeof(uint)), 1);
                }
            },
            () =>
            {
                using (_k.If(stage > 0, uniform: true))
                    AddParts(tile * _stages / _run, partial, blockBytes);
                Store(tile);
            });
        ForEach((sums, _) => Array.ForEach(sums, sum => _k.Set<F32>(sum, 0f)));
    }

    /// <summary>Adds what other blocks left of this tile, in their order, from the first on.</summary>
    private void AddParts(U32 first, Global partial, int blockBytes)
    {
        using (_k.For(first + _k.Thread, _k.BlockX, _k.Threads, out U32 block))
        {
            Global flag = _workspace.At(block, sizeof(uint));
            using (_k.While(() => _k.LoadAcquire(flag).Is(0)))
            {
            }

            _k.Store(flag, _k.Variable<U32>(0));
        }

        _k.Barrier();
        int atOnce = Math.Max(1, 64 / _tiling.Rows); // whose sums are on their way together, in 32 registers or more
        using (_k.For(first, _k.BlockX, atOnce, out U32 next))
        {
            var parts = new List<F32[]>[atOnce];
            for (int i = 0; i < atOnce; i++)
            {
                Pred exists = next + i < _k.BlockX;
                Global others = partial.At(_k.Min(next + i, _k.BlockX), blockBytes);
                parts[i] = [];
                ForEach((_, vector) => parts[i].Add(_k.LoadVector<F32>(others + (vector * _k.Threads * 16), 4, CacheHint.L2Only, exists)));
            }

            foreach (List<F32[]> part in parts)
            {
                ForEach((sums, vector) =>
                {
                    for (int c = 0; c < 4; c++)
                        _k.AddInto(sums[c], part[vector][c]);
                });
            }
        }
    }

    /// <summary>The sums, four of a C fragment at a time.</summary>
    private void ForEach(Action<F32[], int> action)
    {
        for (int i = 0; i < _sums.Length / 4; i++)
            action(_sums[(i * 4)..((i * 4) + 4)], i);
    }

    /// <summary>Stores the sums from where they are: a warp's store is eight outputs of four rows.</summary>
    private void Store(U32 tile)
    {
        int outputsOfWarp = _result.Gated ? 8 : 16, bytes = _result.Result.Bytes();
        U32 output = (Sixteen(tile) * outputsOfWarp) + Group, firstRow = FirstRow(tile) + (Member * 2);
        U32[] outputs = [_k.Min(output, _results - 1), _result.Gated ? _k.Min(output, _results - 1) + _results : _k.Min(output + 8, _results - 1)]; // rows of W, for what goes with their sums
        F32?[] scales = [.. outputs.Select(_weights.FinalScale)];
        F32[] biases = _result.Bias ? [.. outputs.Select(o => _k.Load<F32>(_bias.At(o, sizeof(float)), CacheHint.ReadOnly))] : [];
        Pred[] exists = [output < _results, output + 8 < _results];
        U64 rowBytes = _k.MultiplyWide(_results, bytes);
        Global row = _y.At(firstRow, _results * bytes).At(output, bytes);
        for (int column = 0; column < _tiling.Rows / 8; column++)
        {
            F32[] sums = [.. Enumerable.Range(0, 4).Select(c => Sum(_sums[(column * 4) + c], c / 2))];
            if (_result.Gated)
                sums = SwiGluKernel.Gated(_k, sums[..2], sums[2..]);
            Global[] to = [.. sums.Select((_, c) => row + (c % 2 == 0 ? 0 : rowBytes) + (c / 2 * 8 * bytes))];
            Pred[] when = [.. sums.Select((_, c) => exists[c / 2] & (firstRow + ((column * 8) + (c % 2)) < _rows))];
            if (_result.Accumulate)
                sums = [.. to.Select((at, c) => _k.Load<F32>(at, when: when[c])).ToArray().Zip(sums, (old, sum) => old + sum)];
            for (int c = 0; c < sums.Length; c++)
                _k.StoreElements(_result.Result, to[c], [sums[c]], when[c]);
            row += rowBytes << 3;
        }

        F32 Sum(F32 sum, int half)
        {
            if (scales[half] is { } scale)
                sum *= scale;
            return _result.Bias ? sum + biases[half] : sum;
        }
    }

    private F32[] Registers(int count) => [.. Enumerable.Range(0, count).Select(_ => _k.Variable<F32>())];
}
