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
        _sumsOfX = Registers(_weights.HasMinimum ? Math.Min(PassRows, tiling.Rows) / 2 : 0);
    }

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
            ahead.Next(slot);

        U32 here = _k.Variable<U32>(0), free = _k.Variable<U32>((_ringStages - 1) * _stageBytes); // the stage's slot in the ring, and the one before, which is copied to
        U32 hasEnd = _k.Variable(_k.Select<U32>(stage.Is(_stages - 1), 1, 0)); // of the tile
        using (_k.While(() => left > 0))
        {
            _k.WaitForCopies(_ringStages - 2);
            if (_hasWarpGroups && _tiling.IsFenced)
                _k.FenceAsyncProxy();
            _k.Barrier();
            ahead.Next(free);
            Multiply(ring, here);
            _k.Set(free, here);
            _k.Set(here, here + _stageBytes);
            using (_k.If(here.Is(_ringStages * _stageBytes), uniform: true))
                _k.Set<U32>(here, 0);
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

    private void Multiply(Shared ring, U32 here)
    {
        Shared pieces = (ring + here + _piecesAt).At(_k.Warp, PieceBytes).At(_k.Lane, 16);
        U32[][] words = _weights.LoadPieces(pieces);
        U32[][] scales = _weights.LoadScales((ring + here + _scalesAt).At(_k.Warp, _weights.ScaleBytes));
        int steps = _weights.StageInputs / 16 / _weights.Segments;
        for (int segment = 0; segment < _weights.Segments; segment++)
        {
            var a = new U32[steps][];
            for (int row = 0; row < _tiling.Rows; row += PassRows)
            {
                F32[] sums = _sums[(row / 2)..Math.Min((row + PassRows) / 2, _sums.Length)];
                F32[] products = IsScaled ? _products[..sums.Length] : sums;
                U32[] Decode(int step) => a[step] ??= _weights.Decode(words, scales, (segment * steps) + step);
                if (_hasWarpGroups)
                    MultiplyGroup(_layout.Describe(_k, ring).Further(here).Further(row * _layout.PanelWidth), products, segment * steps, steps, Decode);
                else
                    MultiplyWarp(ring + here + (row * _layout.PanelWidth), products, segment * steps, steps, Decode);
                if (IsScaled)
                    AddScaled(sums, products, _weights.Scale(scales, segment));
                if (_weights.HasMinimum)
                    AddScaled(sums, _sumsOfX, _weights.Minimum(scales, segment));
            }
        }
    }

    /// <summary>Products of four warps, some steps decoded while those before are multiplied.</summary>
    private void MultiplyGroup(MatrixDescriptor x, F32[] products, int firstStep, int steps, Func<int, U32[]> decode)
    {
        const int StepsOfGroup = 4;
        U32 one = Ones;
        for (int step = 0; step < steps; step += StepsOfGroup)
        {
            int end = Math.Min(steps, step + StepsOfGroup);
            U32[][] a = [.. Enumerable.Range(step, end - step).Select(decode)];
            _k.FenceProducts();
            for (int s = step; s < end; s++)
            {
                _k.Product(_result.Activations, products, a[s - step], x.Step(firstStep + s), accumulate: !IsScaled || s > 0);
                if (_weights.HasMinimum)
                    _k.Product(_result.Activations, _sumsOfX, [one, one, one, one], x.Step(firstStep + s), accumulate: s > 0);
            }

            _k.CommitProducts();
        }

        _k.WaitForProducts(0);
    }

    /// <summary>Products of a warp, two steps at a time, which are four chunks of a row of x.</summary>
    private void MultiplyWarp(Shared x, F32[] products, int firstStep, int steps, Func<int, U32[]> decode)
    {
        U32 one = Ones, row = _k.Lane & 7, chunk = _k.Lane >> 3;
        foreach (F32 sum in (F32[])[.. IsScaled ? products : [], .. _sumsOfX])
            _k.Set<F32>(sum, 0f);
        for (int step = 0; step < steps; step += 2)
        {
            U32[][] a = [decode(step), decode(step + 1)];
            Shared matrices = x + _layout.Offset(row, chunk + ((firstStep + step) * 2));
            for (int column = 0; column < products.Length / 4; column++)
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
        int atOnce = Math.Max(1, 128 / _tiling.Rows); // whose sums are on their way together, in 64 registers
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
