using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>How the blocks of <see cref="PackedGemvKernel"/> cover a matrix.</summary>
/// <param name="RowTiles">Tiles of 16 outputs that a warp multiplies at once: 1 or 2 (always 2 where the product is gated: one of the gate, one of the up projection).</param>
/// <param name="Warps">Warps that share a row: 4, 8 or 16.</param>
/// <param name="Slots">Units of 128 inputs in a warp's ring: all but one are under way.</param>
/// <param name="Blocks">Blocks that a multiprocessor shall have at once; what is more waits its turn in the blocks that there are.</param>
public readonly record struct PackedTiling(int RowTiles, int Warps, int Slots, int Blocks)
{
    private const int LeastSlots = 3, RingBytesOfWarp = 9 << 10, RingBytesOfBlock = 57 << 10; // a block fits what an Ampere or Ada multiprocessor has

    /// <summary>
    /// The tiling for a matrix: more warps a row as long as all blocks still run at once, so that even few outputs keep enough bytes under way and
    /// are soon done when their inputs are there; two tiles, which halve the loads of x, where there are many.
    /// </summary>
    public static PackedTiling For(PackedProduct product, PackedMatrix matrix, int multiprocessors)
    {
        int tiles = (matrix.Outputs + PackedMatrix.TileOutputs - 1) / PackedMatrix.TileOutputs, rowTiles = product.Gated || tiles >= 8 * multiprocessors ? 2 : 1, warps = 4;
        int groups = (tiles + rowTiles - 1) / rowTiles, slotBytes = PackedGemvKernel.SlotBytes(product.Format, rowTiles);
        while (warps < 16 && groups <= PackedGemvKernel.MostBlocks(2 * warps) * multiprocessors && RingBytesOfBlock / (2 * warps) >= LeastSlots * slotBytes)
            warps *= 2;
        int slots = Math.Max(LeastSlots, Math.Min(RingBytesOfWarp, RingBytesOfBlock / warps) / slotBytes);
        return new PackedTiling(rowTiles, warps, slots, warps == 4 ? 3 : PackedGemvKernel.MostBlocks(warps));
    }
}

/// <summary>y[r, o] (+)= sum over i of W[o, i] x[r, i] (+ bias[o]) for 1 to 8 rows and a <see cref="PackedMatrix"/> W; or, W a gate and an up projection, y = SiLU(gate) * up.</summary>
/// <remarks>
/// Bound by memory, so all is about bytes under way and few instructions a weight. The weights are the A operand (16 outputs) of mma.m16n8k16 and
/// the rows its B (8): one instruction multiplies 256 weights by all rows.
/// A block takes a row of tiles (or two), or several in turn; its warps share the inputs, a unit of 128 at a time. Each warp has a ring in shared
/// memory, which cp.async fills with codes and scales, slots ahead of what it multiplies, past the ends of rows: it waits for the oldest unit alone,
/// and for no other warp until a row's sums are added. Registers hold only x, a unit ahead. So a multiprocessor has room for the blocks of the next
/// kernel beside this one's: they fill their rings before they wait for this kernel's end, and memory is busy across kernels.
/// Codes stay whole numbers plus a bias in the product, and scale and offset are applied to a group's sums in F32: s (P - (bias + z) X), P the sum of
/// biased codes times x, X the sum of x, from another product with ones. So weights are not rounded to 16 bits.
/// An output's sum has one order, whatever the rows: a row gets the same bits alone as among eight.
/// </remarks>
public sealed class PackedGemvKernel(KernelCache cache, PackedProduct product, PackedTiling tiling) : Kernel(cache, Build(cache.Target, product, tiling))
{
    /// <summary>Most rows of x.</summary>
    public const int MostRows = 8;

    private const int UnitInputs = 128;

    private readonly int _multiprocessors = cache.Device.Info.Multiprocessors;

    /// <summary>The kernel for a matrix.</summary>
    public PackedGemvKernel(KernelCache cache, PackedProduct product, PackedMatrix matrix)
        : this(cache, product, PackedTiling.For(product, matrix, cache.Device.Info.Multiprocessors))
    {
    }

    /// <summary>Blocks of so many warps that a multiprocessor's registers hold, the next kernel's included: 96, 80 or 128 a thread.</summary>
    internal static int MostBlocks(int warps) => warps == 4 ? 5 : 24 / warps;

    /// <summary>Bytes of a unit of some row tiles: codes, then scales and offsets.</summary>
    internal static int SlotBytes(PackedFormat format, int rowTiles) => rowTiles * (CodeBytes(format) + ScaleBytes(format));

    private static int CodeBytes(PackedFormat format) => UnitInputs / format.TileInputs * PackedMatrix.TileBytes;

    private static int ScaleBytes(PackedFormat format) => (format.GroupSize == PackedFormat.WholeRow ? 1 : UnitInputs / format.GroupSize) * format.GroupBytes;

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, PackedProduct product, PackedTiling tiling)
    {
        product.Check();
        if (tiling.RowTiles != 2 && (tiling.RowTiles != 1 || product.Gated))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling, "has 1 or 2 row tiles, 2 where the product is gated.");
        if (tiling.Warps is not (4 or 8 or 16) || tiling.Slots < 2 || tiling.Blocks < 1)
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling, "has 4, 8 or 16 warps, at least 2 slots, and blocks.");
        var k = new PtxBuilder(target, $"packed_gemv_{product}_{tiling.RowTiles}x{tiling.Warps}x{tiling.Slots}", tiling.Warps * 32, MostBlocks(tiling.Warps));
        new Body(k, product, tiling).Emit();
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="matrix">W.</param>
    /// <param name="weights">W's bytes, as <see cref="PackedMatrix"/> lays them out, aligned to 16.</param>
    /// <param name="x">[rows, Inputs], aligned to 16.</param>
    /// <param name="bias">F32 [Outputs], where the product has a bias.</param>
    /// <param name="y">[rows, Outputs]; [rows, Outputs / 2] where the product is gated.</param>
    /// <param name="rows">1 to 8.</param>
    public void Launch(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer x, DevicePointer bias, DevicePointer y, int rows)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(matrix.Format, product.Format, nameof(matrix));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(rows - 1), (uint)MostRows - 1, nameof(rows));
        if (product.Gated && !CanGate(matrix))
            throw new ArgumentOutOfRangeException(nameof(matrix), matrix.Outputs, "outputs of a gate and an up projection must be whole tiles each.");
        int results = product.Gated ? matrix.Outputs / 2 : matrix.Outputs, resultsOfGroup = product.Gated ? PackedMatrix.TileOutputs : tiling.RowTiles * PackedMatrix.TileOutputs;
        int groups = (results + resultsOfGroup - 1) / resultsOfGroup, turns = (groups + (tiling.Blocks * _multiprocessors) - 1) / (tiling.Blocks * _multiprocessors);
        Launch(
            stream, (groups + turns - 1) / turns,
            [
                Argument.Of(weights), Argument.Of(weights + matrix.CodeBytes), Argument.Of(x), Argument.Of(bias), Argument.Of(y),
                Argument.Of(results), Argument.Of(groups), Argument.Of(matrix.Inputs), Argument.Of(matrix.ColumnTiles), Argument.Of(rows),
            ],
            overlapPrevious: true);
    }

    /// <summary>Whether the two halves of a matrix, a gate and an up projection, can be multiplied as a gated product: each is whole tiles.</summary>
    public static bool CanGate(PackedMatrix matrix) => matrix.Outputs % (2 * PackedMatrix.TileOutputs) == 0;

    /// <summary>The kernel's text, with what its parts share.</summary>
    private sealed class Body(PtxBuilder k, PackedProduct product, PackedTiling tiling)
    {
        private readonly Global _weights = k.Pointer("weights"), _scales = k.Pointer("scales"), _x = k.Pointer("x"), _bias = k.Pointer("bias"), _y = k.Pointer("y");
        private readonly U32 _results = k.Number("results"), _groups = k.Number("groups"), _inputs = k.Number("inputs"), _columnTiles = k.Number("column_tiles"), _rows = k.Number("rows");
        private readonly PackedFormat _format = product.Format;
        private readonly PackedCodes _codes = new(k, product.Activations, product.Format.Bits);
        private readonly int _rowTiles = tiling.RowTiles, _codeBytes = CodeBytes(product.Format), _scaleBytes = ScaleBytes(product.Format), _slotBytes = SlotBytes(product.Format, tiling.RowTiles);
        private readonly int _outputs = tiling.RowTiles * PackedMatrix.TileOutputs, _resultsOfGroup = product.Gated ? PackedMatrix.TileOutputs : tiling.RowTiles * PackedMatrix.TileOutputs;

        private bool WholeRow => _format.GroupSize == PackedFormat.WholeRow;

        private int TilesOfUnit => UnitInputs / _format.TileInputs;

        /// <summary>Rows may end within a unit. Groups of 128 fill them.</summary>
        private bool HasPartialUnits => _format.GroupSize != UnitInputs;

        /// <summary>Inputs whose products are added before they are scaled: a group, or of a row in one group a tile.</summary>
        private int PartInputs => WholeRow ? _format.TileInputs : _format.GroupSize;

        /// <summary>What decoded codes have too much, besides a zero point that their group brings.</summary>
        private int Excess => _codes.Bias + (_format.Offset == PackedOffset.None ? _format.Middle : 0);

        private bool NeedsSumOfX => Excess != 0 || _format.Offset != PackedOffset.None;

        public void Emit()
        {
            k.LetNextKernelStart(); // it waits itself for what this one writes; until then it fills its ring
            U32 units = (_inputs + (UnitInputs - 1)) / UnitInputs;
            U32 group = k.Lane >> 2, member = k.Lane & 3; // g and t of the fragments
            Shared ring = k.AllocateShared(k.Warps * tiling.Slots * _slotBytes).At(k.Warp, tiling.Slots * _slotBytes).At(k.Lane, 16);
            var fill = new Fill(
                k.Variable(k.Select(k.Warp < units, k.BlockX, _groups)), k.Variable(k.Warp), k.Variable<U32>(0), product.Gated ? _groups : 1,
                _weights.At(k.Lane, 16), _scales.At(k.Lane, 16), (k.Lane / (_format.GroupBytes / 16)) * Math.Max(1, PartInputs) / _format.TileInputs);
            StartRow(fill);
            k.Comment("what the kernel before does not write: the first weights");
            for (int slot = 0; slot < tiling.Slots - 1; slot++)
                Copy(fill, ring + (slot * _slotBytes), units);
            k.WaitForPreviousKernel();

            // A lane whose row of x does not exist keeps zeros and loads nothing.
            U32 inputsOfRow = k.Select<U32>((group < _rows) & (k.Warp < units), _inputs, 0);
            Global row = _x.At(k.Min(group, _rows - 1), _inputs * 2).At(member, 16);
            U32[][] x = [.. Enumerable.Range(0, UnitInputs / 32).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<U32>(0)).ToArray())];
            for (int piece = 0; piece < x.Length; piece++)
                LoadX(x, piece, row, k.Warp, inputsOfRow);

            F32[][] sums = [.. Enumerable.Range(0, _rowTiles).Select(_ => Zeros())];
            Shared partial = k.AllocateShared(2 * PartialBytes);
            U32 rowGroup = k.Variable(k.BlockX), inTurn = k.Variable<U32>(0);
            U32 taken = k.Variable(ring.Base), filled = k.Variable(ring.Base + ((tiling.Slots - 1) * _slotBytes)), end = ring.Base + (tiling.Slots * _slotBytes);
            U32 toScales = (group * (_format.GroupBytes / 8)) + (_rowTiles * _codeBytes) - (k.Lane * 16);
            using (k.While(() => rowGroup < _groups))
            {
                F32[][] addends = Addends(rowGroup);
                U32 unit = k.Variable(k.Warp);
                using (k.While(() => unit < units))
                {
                    U32 next = unit + k.Warps, nextInRow = k.Select(next < units, next, k.Warp);
                    k.WaitForCopies(tiling.Slots - 2);
                    k.WarpBarrier(); // scales come from other lanes; and all are done with the slot that is filled now
                    Copy(fill, new Shared(filled, ring.Offset), units);
                    Multiply(new Shared(taken, ring.Offset), new Shared(taken + toScales, ring.Offset), x, sums, unit, piece => LoadX(x, piece, row, nextInRow, inputsOfRow));
                    k.Set(filled, taken);
                    k.Set(taken, taken + _slotBytes);
                    k.Set(taken, k.Select(taken.Is(end), ring.Base, taken));
                    k.Set(unit, next);
                }

                AddAndStore(sums, partial + inTurn, rowGroup, addends, group, member);
                k.Set(inTurn, PartialBytes - inTurn); // so that one barrier a row will do
                k.Set(rowGroup, rowGroup + k.GridX);
                foreach (F32 sum in sums.SelectMany(sum => sum))
                    k.Set(sum, 0f);
            }
        }

        /// <summary>Starts the copies of the next unit, if there is one.</summary>
        private void Copy(Fill fill, Shared slot, U32 units)
        {
            Pred exists = fill.RowGroup < _groups;
            for (int i = 0; i < _rowTiles; i++)
            {
                U32 first = fill.Tile + (i == 0 ? 0 : fill.TileGap * _columnTiles);
                for (int tile = 0; tile < TilesOfUnit; tile++)
                {
                    Pred here = tile == 0 || !HasPartialUnits ? exists : exists & ((fill.Unit * TilesOfUnit) + tile < _columnTiles);
                    k.CopyAsync(slot + ((i * _codeBytes) + (tile * PackedMatrix.TileBytes)), fill.Codes.At(first, PackedMatrix.TileBytes) + (tile * PackedMatrix.TileBytes), 16, when: here, readAhead: true);
                }

                Pred hasScales = exists & (k.Lane < _scaleBytes / 16);
                if (HasPartialUnits && !WholeRow)
                    hasScales &= (fill.Unit * TilesOfUnit) + fill.TileOfScales < _columnTiles;
                Global scales = WholeRow
                    ? fill.Scales.At((fill.RowGroup * (product.Gated ? 1 : _rowTiles)) + (i == 0 ? 0 : fill.TileGap), _format.GroupBytes)
                    : fill.Scales.At(first, _format.SegmentsOfTile * _format.GroupBytes / _format.TilesOfGroup);
                k.CopyAsync(slot + ((_rowTiles * _codeBytes) + (i * _scaleBytes)), scales, 16, when: hasScales);
            }

            k.CommitCopies();
            k.Set(fill.Unit, fill.Unit + k.Warps);
            k.Set(fill.Tile, fill.Tile + (k.Warps * TilesOfUnit));
            using (k.If(fill.Unit >= units, uniform: true))
            {
                k.Set(fill.Unit, k.Warp);
                k.Set(fill.RowGroup, fill.RowGroup + k.GridX);
                StartRow(fill);
            }
        }

        private void StartRow(Fill fill) =>
            k.Set(fill.Tile, (fill.RowGroup * (product.Gated ? 1 : _rowTiles) * _columnTiles) + (k.Warp * TilesOfUnit));

        /// <summary>A lane's 16 bytes of 32 inputs. Past the inputs they keep what was there: such inputs have the scale and the offset zero, or are not multiplied.</summary>
        private void LoadX(U32[][] x, int piece, Global row, U32 unit, U32 inputsOfRow)
        {
            Pred exists = HasPartialUnits ? (unit * UnitInputs) + (piece * 32) < inputsOfRow : inputsOfRow > 0;
            k.LoadInto<U32>(x[piece], row.At(unit, UnitInputs * 2) + (piece * 64), when: exists);
        }

        /// <summary>Adds the products of a unit, and has each piece of x replaced when it was used.</summary>
        private void Multiply(Shared codes, Shared scales, U32[][] x, F32[][] sums, U32 unit, Action<int> replace)
        {
            int guarded = Math.Max(PartInputs, _format.TileInputs);
            for (int input = 0; input < UnitInputs; input += guarded)
            {
                PtxBuilder.Scope? scope = HasPartialUnits && input > 0 ? k.If((unit * UnitInputs) + input < _inputs, uniform: true) : null;
                U32[][][] words = [.. Enumerable.Range(0, guarded / _format.TileInputs).Select(tile => Enumerable.Range(0, _rowTiles)
                    .Select(i => k.LoadVector<U32>(codes + ((i * _codeBytes) + (((input / _format.TileInputs) + tile) * PackedMatrix.TileBytes)), 4)).ToArray())];
                for (int part = 0; part < guarded; part += PartInputs)
                {
                    F32[] sumOfX = Zeros();
                    F32[][] products = [.. sums.Select(_ => Zeros())];
                    for (int step = part / 16; step < (part + PartInputs) / 16; step++)
                    {
                        // A lane's 16 bytes of x are B registers 0 and 1 of two steps.
                        ReadOnlySpan<U32> b = x[(input / 32) + (step / 2)].AsSpan(step % 2 * 2, 2);
                        for (int i = 0; i < _rowTiles; i++)
                            k.Mma(product.Activations, products[i], [.. words[step / _codes.Steps][i].Select(word => _codes.Decode(word, step % _codes.Steps).AsU32)], b);
                        if (NeedsSumOfX)
                        {
                            U32 ones = k.Variable<U32>(product.Activations == ElementType.F16 ? 0x3c003c00u : 0x3f803f80u);
                            k.Mma(product.Activations, sumOfX, [ones, ones, ones, ones], b);
                        }
                    }

                    for (int i = 0; i < _rowTiles; i++)
                    {
                        int at = (i * _scaleBytes) + (WholeRow ? 0 : (input + part) / PartInputs * _format.GroupBytes);
                        Scale(k.LoadVector<U32>(scales + at, _format.GroupBytes / 32), products[i], sumOfX, sums[i]);
                    }
                }

                scope?.Dispose();
                for (int piece = input / 32; piece < (input + guarded) / 32; piece++)
                    replace(piece);
            }
        }

        /// <summary>sums += scale * (products - (excess + zero point) * sumOfX), or + offset * sumOfX.</summary>
        private void Scale(U32[] ofGroup, F32[] products, F32[] sumOfX, F32[] sums)
        {
            (F32 low, F32 high) = k.Unpack(ofGroup[0].AsHalf2(ElementType.F16)); // of rows g and g + 8
            F32 lowExcess = -(float)Excess, highExcess = lowExcess, lowMinimum = 0, highMinimum = 0;
            if (_format.Offset != PackedOffset.None)
                (lowMinimum, highMinimum) = k.Unpack(ofGroup[1].AsHalf2(ElementType.F16));
            if (_format.Offset == PackedOffset.ZeroPoint)
                (lowExcess, highExcess) = (lowExcess - lowMinimum, highExcess - highMinimum);
            for (int c = 0; c < 4; c++)
            {
                F32 centred = Excess == 0 && _format.Offset != PackedOffset.ZeroPoint ? products[c] : k.Fma(sumOfX[c], c < 2 ? lowExcess : highExcess, products[c]);
                k.FmaInto(sums[c], c < 2 ? low : high, centred);
                if (_format.Offset == PackedOffset.Minimum)
                    k.FmaInto(sums[c], c < 2 ? lowMinimum : highMinimum, sumOfX[c]);
            }
        }

        /// <summary>The outputs of a row of tiles that this thread adds up and stores.</summary>
        private Result[] Results(U32 rowGroup) =>
        [
            .. Enumerable.Range(0, ((MostRows * _resultsOfGroup) + k.Threads - 1) / k.Threads).Select(i =>
            {
                U32 index = k.Thread + (i * k.Threads), inGroup = index % _resultsOfGroup, token = index / _resultsOfGroup, output = (rowGroup * _resultsOfGroup) + inGroup;
                return new Result((token < _rows) & (output < _results), output, _y.At((token * _results) + output, product.Result.Bytes()), (token * Stride) + inGroup);
            }),
        ];

        /// <summary>What is added to results, loaded before they are there: biases, and what y holds.</summary>
        private F32[][] Addends(U32 rowGroup)
        {
            if (!product.Bias && !product.Accumulate)
                return [];
            return [.. Results(rowGroup).Select(result => (F32[])
            [
                .. (product.Gated ? [result.Output, result.Output + _results] : (U32[])[result.Output]).Where(_ => product.Bias)
                    .Select(output => k.Load<F32>(_bias.At(output, sizeof(float)), CacheHint.ReadOnly, result.Exists)),
                .. product.Accumulate ? [k.Load<F32>(result.To, when: result.Exists)] : (F32[])[],
            ])];
        }

        /// <summary>Floats from a token to the next in the warps' sums. 4: a warp's stores fall in 32 banks.</summary>
        private int Stride => _outputs + 4;

        private int PartialBytes => k.Warps * MostRows * Stride * sizeof(float);

        private void AddAndStore(F32[][] sums, Shared partial, U32 rowGroup, F32[][] addends, U32 group, U32 member)
        {
            k.Comment("the warps' sums, in the order of the warps");
            Shared ofLane = partial.At((((k.Warp * MostRows) + (member * 2)) * Stride) + group, sizeof(float));
            for (int i = 0; i < _rowTiles; i++)
            {
                for (int c = 0; c < 4; c++)
                    k.Store(ofLane + (((c % 2 * Stride) + (c / 2 * 8) + (i * PackedMatrix.TileOutputs)) * sizeof(float)), sums[i][c]);
            }

            k.Barrier();
            foreach ((Result result, int i) in Results(rowGroup).Select((result, i) => (result, i)))
            {
                using (k.If(result.Exists))
                {
                    Shared column = partial.At(result.Column, sizeof(float));
                    F32 sum = product.Gated ? SwiGluKernel.Gated(k, [Sum(column, i, 0)], [Sum(column, i, 1)])[0] : Sum(column, i, 0);
                    k.StoreElements(product.Result, result.To, [product.Accumulate ? sum + addends[i][^1] : sum]);
                }
            }

            F32 Sum(Shared column, int i, int half)
            {
                column += half * PackedMatrix.TileOutputs * sizeof(float);
                F32 sum = k.Load<F32>(column);
                for (int warp = 1; warp < k.Warps; warp++)
                    sum += k.Load<F32>(column + (warp * MostRows * Stride * sizeof(float)));
                return product.Bias ? sum + addends[i][half] : sum;
            }
        }

        private F32[] Zeros() => [k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f)];

        /// <summary>What a warp copies next: a unit of a row of tiles; its first tile in the matrix, and how many rows of tiles further the second one is.</summary>
        private sealed record Fill(U32 RowGroup, U32 Unit, U32 Tile, U32 TileGap, Global Codes, Global Scales, U32 TileOfScales);

        /// <summary>An output of a token: where it goes, and where its sums are.</summary>
        private sealed record Result(Pred Exists, U32 Output, Global To, U32 Column);
    }
}
