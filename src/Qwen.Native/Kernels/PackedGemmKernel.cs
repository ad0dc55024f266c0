using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[r, o] (+)= sum over i of W[o, i] x[r, i] (+ bias[o]) for any number of rows and a <see cref="PackedMatrix"/> W.</summary>
/// <remarks>
/// A block multiplies 128 outputs by 16, 32 or 64 rows of x. As in <see cref="PackedGemvKernel"/> the weights are the A operand of mma.m16n8k16:
/// a warp owns two row tiles, whose codes go from global memory straight into its registers, some steps of 64 inputs ahead. x goes by asynchronous
/// copies into a ring of as many steps in shared memory, where eight lanes find their 16 bytes in 32 different banks. A step's codes
/// become whole numbers less their zero point, exact in 16 bits, once for all rows; its products are scaled in F32 as they are added up.
/// Where there are too few such blocks to fill the device, several share one's inputs: each writes its sums to the workspace, and the last
/// to come adds them up, in the order of the inputs, so that the result doesn't depend on who came last.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="product">What it computes.</param>
/// <param name="tileRows">Rows of x of a block: 16, 32 or 64.</param>
public sealed class PackedGemmKernel(KernelCache cache, PackedProduct product, int tileRows) : Kernel(cache, Build(cache.Target, product, tileRows))
{
    private const int BlockWarps = 4, WarpTiles = 2, BlockTiles = BlockWarps * WarpTiles, BlockOutputs = BlockTiles * PackedMatrix.TileOutputs;
    private const int StepInputs = 64, StepBytes = StepInputs * 2; // of a row of x
    private const int FewestSteps = 4, MostSplits = 32; // of a block that shares inputs; shorter ones would be all prologue
    private const int Stride = BlockOutputs + 4; // floats of a row of sums in shared memory; 4: a warp's stores fall in 32 banks
    private const int MostTileRows = 64;
    private const int Tickets = 4096, TicketBytes = Tickets * sizeof(uint);

    private readonly int _multiprocessors = cache.Device.Info.Multiprocessors;

    /// <summary>The tile for a number of rows: 16, 32 or 64; 32 at most where groups of 32 have offsets, as registers then go to their scales.</summary>
    public static int TileRowsFor(PackedFormat format, int rows) =>
        rows <= 16 ? 16 : rows <= 32 || format is { GroupSize: 32, Offset: not PackedOffset.None } ? 32 : 64;

    /// <summary>Bytes of workspace that products of a matrix with a number of rows need. It starts as zeros; kernels of one stream may share it.</summary>
    public long WorkspaceBytes(PackedMatrix matrix, int rows)
    {
        (int rowBlocks, int tokenBlocks, int splits, _) = Plan(matrix, rows);
        return splits == 1 ? 0 : TicketBytes + ((long)rowBlocks * tokenBlocks * splits * BlockOutputs * tileRows * sizeof(float));
    }

    /// <summary>The most that <see cref="WorkspaceBytes"/> is for any product: inputs are split only as far as two blocks for each multiprocessor go.</summary>
    public static long MostWorkspaceBytes(int multiprocessors) => TicketBytes + (2L * multiprocessors * BlockOutputs * MostTileRows * sizeof(float));

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, PackedProduct product, int tileRows)
    {
        product.Check();
        ArgumentOutOfRangeException.ThrowIfEqual(product.Gated, true, nameof(product));
        if (tileRows is not (16 or 32 or 64) || tileRows > TileRowsFor(product.Format, tileRows))
            throw new ArgumentOutOfRangeException(nameof(tileRows), tileRows, "must be 16, 32 or 64, as the format allows.");
        var k = new PtxBuilder(target, $"packed_gemm_{product}_x{tileRows}", BlockWarps * 32, blocksPerMultiprocessor: 2);
        new Body(k, product, tileRows).Emit();
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="matrix">W.</param>
    /// <param name="weights">W's bytes, as <see cref="PackedMatrix"/> lays them out, aligned to 16.</param>
    /// <param name="x">[rows, Inputs], aligned to 16.</param>
    /// <param name="bias">F32 [Outputs], where the product has a bias.</param>
    /// <param name="y">[rows, Outputs].</param>
    /// <param name="rows">At least 1.</param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, aligned to 16.</param>
    public void Launch(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer x, DevicePointer bias, DevicePointer y, int rows, DevicePointer workspace)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(matrix.Format, product.Format, nameof(matrix));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)rows * matrix.Outputs, uint.MaxValue, nameof(rows));
        (int rowBlocks, int tokenBlocks, int splits, int stepsOfSplit) = Plan(matrix, rows);
        // Blocks of the same weights are neighbours: the second reads them from L2.
        Launch(
            stream, new Dim3(tokenBlocks, rowBlocks, splits),
            [
                Argument.Of(weights), Argument.Of(weights + matrix.CodeBytes), Argument.Of(x), Argument.Of(bias), Argument.Of(y), Argument.Of(workspace),
                Argument.Of(matrix.Outputs), Argument.Of(matrix.Inputs), Argument.Of(rows), Argument.Of(stepsOfSplit), Argument.Of(splits),
            ],
            overlapPrevious: true);
    }

    /// <summary>Two blocks for each multiprocessor, if the inputs are many enough.</summary>
    private (int RowBlocks, int TokenBlocks, int Splits, int StepsOfSplit) Plan(PackedMatrix matrix, int rows)
    {
        int rowBlocks = (matrix.Outputs + BlockOutputs - 1) / BlockOutputs, tokenBlocks = (rows + tileRows - 1) / tileRows;
        int steps = (matrix.Inputs + StepInputs - 1) / StepInputs;
        long blocks = (long)rowBlocks * tokenBlocks;
        int splits = (int)Math.Clamp(2 * _multiprocessors / blocks, 1, Math.Clamp(steps / FewestSteps, 1, MostSplits));
        if (blocks > Tickets)
            splits = 1;
        int stepsOfSplit = (steps + splits - 1) / splits;
        return (rowBlocks, tokenBlocks, (steps + stepsOfSplit - 1) / stepsOfSplit, stepsOfSplit);
    }

    /// <summary>The kernel's text, with what its parts share.</summary>
    private sealed class Body(PtxBuilder k, PackedProduct product, int tileRows)
    {
        private readonly PackedFormat _format = product.Format;
        private readonly PackedCodes _codes = new(k, product.Activations, product.Format.Bits);

        // Steps loaded ahead, as far as registers for eight warps a multiprocessor go: 32 KB of codes under way, less with 64 rows, which are bound by arithmetic.
        private readonly int _ahead = (product.Format, tileRows) switch { ({ Bits: 4 }, 64) => 3, ({ Bits: 4 }, _) => 4, (_, 16) => 3, _ => 2 };
        private readonly Global _weights = k.Pointer("weights"), _scales = k.Pointer("scales"), _x = k.Pointer("x"), _bias = k.Pointer("bias"), _y = k.Pointer("y"), _workspace = k.Pointer("workspace");
        private readonly U32 _outputs = k.Number("outputs"), _inputs = k.Number("inputs"), _rows = k.Number("rows"), _stepsOfSplit = k.Number("steps_of_split"), _splits = k.Number("splits");
        private readonly U32 _group = k.Lane >> 2, _member = k.Lane & 3; // g and t of the fragments
        private readonly F32[][][] _sums = [.. Enumerable.Range(0, WarpTiles).Select(_ => Enumerable.Range(0, tileRows / 8).Select(_ => Zeros(k)).ToArray())];

        private int ColumnTiles => tileRows / 8;

        private int TilesOfStep => StepInputs / _format.TileInputs;

        private bool WholeRow => _format.GroupSize == PackedFormat.WholeRow;

        private int Segments => _format.GroupSize == 32 ? 2 : 1; // groups that begin in a step, at most

        private int CopiesOfThread => tileRows * (StepBytes / 16) / k.Threads;

        public void Emit()
        {
            U32 steps = (_inputs + (StepInputs - 1)) / StepInputs, columnTiles = (_inputs + (_format.TileInputs - 1)) / _format.TileInputs;
            U32 step = k.Variable(k.BlockZ * _stepsOfSplit), end = k.Min(step + _stepsOfSplit, steps);
            U32 firstTile = (k.BlockY * BlockTiles) + (k.Warp * WarpTiles), firstRow = k.BlockX * tileRows;
            Weights[] weights = [.. Enumerable.Range(0, WarpTiles).Select(i => WeightsOf(firstTile + i, step, columnTiles))];
            Shared ring = k.AllocateShared(Math.Max(_ahead * StepBytes, Stride * sizeof(float)) * tileRows, 128);
            (Global Row, U32 Steps)[] copies = [.. Enumerable.Range(0, CopiesOfThread).Select(i => CopyOf(firstRow + (k.Thread / 8) + (i * (k.Threads / 8)), steps))];
            Shared copyTo = ring + ((k.Thread / 8 * StepBytes) + Place(k.Thread / 8, k.Thread & 7));
            Shared[] fragments = [.. Enumerable.Range(0, 2).Select(half => ring + ((_group * StepBytes) + Place(_group, _member + (half * 4))))];

            k.Comment("what the kernel before does not write: the first weights");
            for (int slot = 0; slot < _ahead; slot++)
                LoadWeights(weights, slot, step, slot, end, columnTiles);
            k.LetNextKernelStart();
            k.WaitForPreviousKernel();
            for (int slot = 0; slot < _ahead - 1; slot++)
                CopyRows(copies, copyTo, slot, step + slot, end);

            using (k.While(() => step < end))
            {
                for (int slot = 0; slot < _ahead; slot++)
                {
                    k.WaitForCopies(_ahead - 2);
                    k.Barrier();
                    CopyRows(copies, copyTo, (slot + _ahead - 1) % _ahead, step + (slot + _ahead - 1), end);
                    using (k.If(step + slot < end, uniform: true))
                        MultiplyStep(weights, fragments, slot);
                    LoadWeights(weights, slot, step, slot + _ahead, end, columnTiles);
                }

                k.Set(step, step + _ahead);
                foreach (Weights w in weights)
                    k.Set(w.CodesAt.Base, w.CodesAt.Base + (ulong)(_ahead * TilesOfStep * PackedMatrix.TileBytes));
            }

            using (k.If(_splits > 1, uniform: true))
                AddSplits();
            Store(ring, firstRow);
        }

        private Weights WeightsOf(U32 rowTile, U32 step, U32 columnTiles)
        {
            Global codes = _weights.At((rowTile * columnTiles) + (step * TilesOfStep), PackedMatrix.TileBytes).At(k.Lane, 16);
            U32 firstGroup = WholeRow ? rowTile : rowTile * columnTiles * _format.SegmentsOfTile / _format.TilesOfGroup;
            Global scales = _scales.At(firstGroup, _format.GroupBytes).At(_group, _format.GroupBytes / 8);
            return new Weights(codes with { Base = k.Variable(codes.Base) }, scales, Words(_ahead * TilesOfStep, 4), Words(_ahead * Segments, _format.GroupBytes / 32));
        }

        /// <summary>Codes and scales of a step into a slot. A group that lies past the inputs keeps what was there: x is zero.</summary>
        private void LoadWeights(Weights[] weights, int slot, U32 step, int ahead, U32 end, U32 columnTiles)
        {
            U32 loaded = step + ahead;
            Pred exists = loaded < end;
            Pred[] tileExists = [exists, .. TilesOfStep == 2 ? [exists & ((loaded * 2) + 1 < columnTiles)] : Array.Empty<Pred>()];
            foreach (Weights w in weights)
            {
                for (int tile = 0; tile < TilesOfStep; tile++)
                    k.LoadInto<U32>(w.Codes[(slot * TilesOfStep) + tile], w.CodesAt + (((ahead * TilesOfStep) + tile) * PackedMatrix.TileBytes), CacheHint.ReadOnce, tileExists[tile]);
                Global scales = WholeRow ? w.Scales : w.Scales.At(_format.GroupSize == 128 ? loaded >> 1 : loaded * Segments, _format.GroupBytes);
                for (int s = 0; s < Segments; s++)
                    k.LoadInto<U32>(w.ScaleWords[(slot * Segments) + s], scales + (s * _format.GroupBytes), CacheHint.ReadOnly, tileExists[Math.Min(s, TilesOfStep - 1)]);
            }
        }

        /// <summary>A row of x that this thread copies a chunk of, and the step where that chunk's inputs end: 0 for rows that do not exist.</summary>
        private (Global Row, U32 Steps) CopyOf(U32 row, U32 steps)
        {
            U32 stepsOfChunk = k.Select((k.Thread & 7) < 4, steps, _inputs / StepInputs); // of the last step, half may lie past the inputs
            return (_x.At(k.Min(row, _rows - 1), _inputs * 2).At(k.Thread & 7, 16), k.Select<U32>(row < _rows, stepsOfChunk, 0));
        }

        private void CopyRows((Global Row, U32 Steps)[] copies, Shared to, int slot, U32 step, U32 end)
        {
            for (int i = 0; i < copies.Length; i++)
            {
                Pred exists = step < copies[i].Steps;
                Global from = copies[i].Row.At(k.Select<U32>(exists, step, 0), StepBytes);
                k.CopyAsync(to + (((slot * tileRows) + (i * (k.Threads / 8))) * StepBytes), from, 16, k.Select<U32>(exists, 16, 0), step < end);
            }

            k.CommitCopies();
        }

        private void MultiplyStep(Weights[] weights, Shared[] fragments, int slot)
        {
            U32[][][] a = [.. weights.Select(w => Decode(w, slot))];
            int stepsOfSegment = 4 / Segments;
            for (int column = 0; column < ColumnTiles; column++)
            {
                if (column % 2 == 0 && column > 0)
                    k.WarpBarrier(); // else the assembler loads all of x at once, for which there are no registers
                U32[][] b = [.. fragments.Select(f => k.LoadVector<U32>(f + (((slot * tileRows) + (column * 8)) * StepBytes), 4))];
                for (int s = 0; s < Segments; s++)
                {
                    F32[] sumOfX = Zeros(k);
                    F32[][] products = [.. weights.Select(_ => Zeros(k))];
                    for (int q = s * stepsOfSegment; q < (s + 1) * stepsOfSegment; q++)
                    {
                        ReadOnlySpan<U32> two = b[q / 2].AsSpan(q % 2 * 2, 2);
                        for (int i = 0; i < WarpTiles; i++)
                            k.Mma(product.Activations, products[i], a[i][q], two);
                        if (_format.Offset == PackedOffset.Minimum)
                        {
                            U32 ones = k.Variable<U32>(product.Activations == ElementType.F16 ? 0x3c003c00u : 0x3f803f80u);
                            k.Mma(product.Activations, sumOfX, [ones, ones, ones, ones], two);
                        }
                    }

                    for (int i = 0; i < WarpTiles; i++)
                        Scale(_sums[i][column], products[i], sumOfX, weights[i].ScaleWords[(slot * Segments) + s]);
                }
            }
        }

        /// <summary>The A registers of a step's four products: codes less their zero points.</summary>
        private U32[][] Decode(Weights weights, int slot)
        {
            (Half2 Low, Half2 High)?[] negative = [.. Enumerable.Range(0, Segments).Select(s => Negative(weights.ScaleWords[(slot * Segments) + s]))];
            var a = new U32[4][];
            for (int q = 0; q < 4; q++)
            {
                U32[] words = weights.Codes[(slot * TilesOfStep) + (q / _codes.Steps)];
                a[q] = new U32[4];
                for (int r = 0; r < 4; r++)
                {
                    Half2 codes = _codes.Decode(words[r], q % _codes.Steps);
                    a[q][r] = (negative[q * Segments / 4] is { } n ? codes + (r % 2 == 0 ? n.Low : n.High) : codes).AsU32;
                }
            }

            return a;
        }

        /// <summary>What is added to decoded codes of rows g and g + 8; null for nothing.</summary>
        private (Half2 Low, Half2 High)? Negative(U32[] scaleWords)
        {
            int excess = _codes.Bias + (_format.Offset == PackedOffset.None ? _format.Middle : 0);
            if (_format.Offset != PackedOffset.ZeroPoint)
                return excess == 0 ? null : (k.Constant(product.Activations, -excess), k.Constant(product.Activations, -excess));
            (F32 low, F32 high) = k.Unpack(scaleWords[1].AsHalf2(ElementType.F16));
            (low, high) = (-(float)excess - low, -(float)excess - high);
            return (k.Pack(product.Activations, low, low), k.Pack(product.Activations, high, high));
        }

        private void Scale(F32[] sums, F32[] products, F32[] sumOfX, U32[] scaleWords)
        {
            (F32 low, F32 high) = k.Unpack(scaleWords[0].AsHalf2(ElementType.F16)); // of rows g and g + 8
            for (int c = 0; c < 4; c++)
                k.FmaInto(sums[c], c < 2 ? low : high, products[c]);
            if (_format.Offset != PackedOffset.Minimum)
                return;
            (low, high) = k.Unpack(scaleWords[1].AsHalf2(ElementType.F16));
            for (int c = 0; c < 4; c++)
                k.FmaInto(sums[c], c < 2 ? low : high, sumOfX[c]);
        }

        /// <summary>Leaves this block's sums in the workspace; in the last block that comes, the sums of all take their place, the others end.</summary>
        private void AddSplits()
        {
            int fragmentsOfWarp = WarpTiles * ColumnTiles, bytesOfWarp = fragmentsOfWarp * 32 * 16;
            U32 tile = (k.BlockY * k.GridX) + k.BlockX;
            Global partials = (_workspace + TicketBytes).At(tile * _splits, BlockWarps * bytesOfWarp).At(k.Warp, bytesOfWarp).At(k.Lane, 16);
            Global mine = partials.At(k.BlockZ, BlockWarps * bytesOfWarp);
            Each((sums, i) => k.StoreVector<F32>(mine + (i * 32 * 16), sums));
            k.FenceDevice();
            k.Barrier();
            Shared ticket = k.AllocateShared(sizeof(uint));
            using (k.If(k.Thread.Is(0)))
                k.Store(ticket, k.AtomicIncrement(_workspace.At(tile, sizeof(uint)), _splits - 1));
            k.Barrier();
            k.ReturnIf(k.Load<U32>(ticket).IsNot(_splits - 1));
            k.FenceDevice();
            Each((sums, _) => Array.ForEach(sums, sum => k.Set<F32>(sum, 0f)));
            using (k.For(0, _splits, out U32 split))
            {
                Global of = partials.At(split, BlockWarps * bytesOfWarp);
                Each((sums, i) =>
                {
                    F32[] part = k.LoadVector<F32>(of + (i * 32 * 16), 4, CacheHint.L2Only);
                    for (int c = 0; c < 4; c++)
                        k.AddInto(sums[c], part[c]);
                });
            }

            void Each(Action<F32[], int> action)
            {
                for (int i = 0; i < fragmentsOfWarp; i++)
                    action(_sums[i / ColumnTiles][i % ColumnTiles], i);
            }
        }

        /// <summary>Through shared memory, where the ring was: a warp then stores 32 outputs of a row side by side.</summary>
        private void Store(Shared tile, U32 firstRow)
        {

            const int AtOnce = 16; // rows whose old values are on their way together
            k.Barrier();
            Shared ofLane = tile.At((_member * 2 * Stride) + (k.Warp * (WarpTiles * PackedMatrix.TileOutputs)) + _group, sizeof(float));
            for (int i = 0; i < WarpTiles; i++)
            {
                for (int c = 0; c < ColumnTiles * 4; c++)
                    k.Store(ofLane + ((((c / 4 * 8) + (c % 2)) * Stride) + (i * PackedMatrix.TileOutputs) + (c % 4 / 2 * 8)) * sizeof(float), _sums[i][c / 4][c % 4]);
            }

            k.Barrier();
            U32 output = (k.BlockY * BlockOutputs) + k.Thread, rows = k.Min(_rows - firstRow, tileRows);
            k.ReturnIf(output >= _outputs);
            F32 bias = product.Bias ? k.Load<F32>(_bias.At(output, sizeof(float)), CacheHint.ReadOnly) : 0f;
            using (k.For(0, rows, AtOnce, out U32 first))
            {
                Shared column = tile.At((first * Stride) + k.Thread, sizeof(float));
                Pred[] exists = [.. Enumerable.Range(0, AtOnce).Select(row => first + row < rows)];
                Global[] to = [.. Enumerable.Range(0, AtOnce).Select(row => _y.At(((firstRow + first + row) * _outputs) + output, product.Result.Bytes()))];
                F32[] sums = [.. Enumerable.Range(0, AtOnce).Select(row => k.Load<F32>(column + (row * Stride * sizeof(float))))];
                if (product.Bias)
                    sums = [.. sums.Select(sum => sum + bias)];
                if (product.Accumulate)
                    sums = [.. sums.Zip(to.Select((old, row) => k.Load<F32>(old, when: exists[row])).ToArray(), (sum, old) => sum + old)];
                for (int row = 0; row < AtOnce; row++)
                    k.StoreElements(product.Result, to[row], [sums[row]], exists[row]);
            }
        }

        /// <summary>Where a row of a step keeps a chunk of 16 bytes: even and odd rows in different halves, which makes 8 lanes' 16 bytes 32 banks.</summary>
        private static U32 Place(U32 row, U32 chunk) => (chunk ^ ((row & 1) * 4)) * 16;

        private static F32[] Zeros(PtxBuilder k) => [k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f)];

        private U32[][] Words(int count, int words) =>
            [.. Enumerable.Range(0, count).Select(_ => Enumerable.Range(0, words).Select(_ => k.Variable<U32>(0)).ToArray())];

        /// <summary>A row tile of a warp: where its codes and scales are, and what is loaded of them.</summary>
        private sealed record Weights(Global CodesAt, Global Scales, U32[][] Codes, U32[][] ScaleWords);
    }
}
