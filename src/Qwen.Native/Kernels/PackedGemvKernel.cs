using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[r, o] (+)= sum over i of W[o, i] x[r, i] (+ bias[o]) for 1 to 8 rows and a <see cref="PackedMatrix"/> W; or, W a gate and an up projection, y = SiLU(gate) * up.</summary>
/// <remarks>
/// Bound by memory, so all is about bytes under way and few instructions a weight. The weights are the A operand (16 outputs) of mma.m16n8k16 and
/// the rows its B (8): one instruction multiplies 256 weights by all rows. Codes and scales come through a <see cref="WarpRing"/>, in units of 128
/// inputs; registers hold only x, a unit or two ahead. So a multiprocessor has room for the blocks of the next kernel beside this one's: they fill their
/// rings before they wait for this kernel's end, and memory is busy across kernels.
/// Codes stay whole numbers plus a bias in the product, and scale and offset are applied to a group's sums in F32: s (P - (bias + z) X), P the sum of
/// biased codes times x, X the sum of x, from another product with ones. So weights are not rounded to 16 bits.
/// An output's sum has one order, whatever the rows: a row gets the same bits alone as among eight.
/// </remarks>
public sealed class PackedGemvKernel(KernelCache cache, PackedProduct product, GemvTiling tiling) : Kernel(cache, Build(cache.Target, product, tiling))
{
    /// <summary>Most rows of x.</summary>
    public const int MostRows = GemvEpilogue.MostTokens;

    private const int UnitInputs = 128;

    /// <summary>The kernel for a matrix.</summary>
    public PackedGemvKernel(KernelCache cache, PackedProduct product, PackedMatrix matrix)
        : this(cache, product, TilingFor(product, matrix, cache.Device.Info))
    {
    }

    /// <summary>Tilings that were measured to be the best here, of products without and with norms.</summary>
    internal static Dictionary<(PackedFormat Format, int Outputs, int Inputs), GemvTiling> Tuned { get; } = [];

    /// <summary>The tiling for a matrix.</summary>
    public static GemvTiling TilingFor(PackedProduct product, PackedMatrix matrix, DeviceInfo device) =>
        Tuned.TryGetValue((product.Format, matrix.Outputs, matrix.Inputs), out GemvTiling tuned) ? tuned
        : GemvTiling.For(matrix.Outputs, product.Gated, (matrix.Inputs + UnitInputs - 1) / UnitInputs, UnitBytes(product.Format), device, isLarge: product.Format.GroupSize != UnitInputs);

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, PackedProduct product, GemvTiling tiling)
    {
        product.Check();
        GemvTiling.Check(tiling, product.Gated);
        var k = new PtxBuilder(target, $"packed_gemv_{product}_{tiling}", tiling.Warps * 32, tiling.Blocks);
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
    /// <param name="norm">Where the product has part in a norm.</param>
    public void Launch(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer x, DevicePointer bias, DevicePointer y, int rows, in FusedNormArguments norm = default)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(matrix.Format, product.Format, nameof(matrix));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(rows - 1), (uint)MostRows - 1, nameof(rows));
        norm.Check(product.Norm);
        if (product.Gated && !CanGate(matrix))
            throw new ArgumentOutOfRangeException(nameof(matrix), matrix.Outputs, "outputs of a gate and an up projection must be whole tiles each.");
        int groups = tiling.Groups(matrix.Outputs, product.Gated);
        Launch(
            stream, tiling.Grid(groups),
            [
                Argument.Of(weights), Argument.Of(weights + matrix.CodeBytes), Argument.Of(x), Argument.Of(bias), Argument.Of(y),
                Argument.Of(product.Gated ? matrix.Outputs / 2 : matrix.Outputs), Argument.Of(groups), Argument.Of(matrix.Inputs), Argument.Of(matrix.ColumnTiles), Argument.Of(rows),
                Argument.Of(norm.Squares), Argument.Of(norm.Weight), Argument.Of(norm.Scaled), Argument.Of(norm.Epsilon),
            ],
            overlapPrevious: true);
    }

    /// <summary>Whether the two halves of a matrix, a gate and an up projection, can be multiplied as a gated product: each is whole tiles.</summary>
    public static bool CanGate(PackedMatrix matrix) => matrix.Outputs % (2 * PackedMatrix.TileOutputs) == 0;

    /// <summary>Bytes of a unit of one row tile: codes, then scales and offsets.</summary>
    internal static int UnitBytes(PackedFormat format) => CodeBytes(format) + ScaleBytes(format);

    private static int CodeBytes(PackedFormat format) => UnitInputs / format.TileInputs * PackedMatrix.TileBytes;

    private static int ScaleBytes(PackedFormat format) => (format.GroupSize == PackedFormat.WholeRow ? 1 : UnitInputs / format.GroupSize) * format.GroupBytes;

    /// <summary>The kernel's text, with what its parts share.</summary>
    private sealed class Body(PtxBuilder k, PackedProduct product, GemvTiling tiling)
    {
        private readonly Global _weights = k.Pointer("weights"), _scales = k.Pointer("scales"), _x = k.Pointer("x"), _bias = k.Pointer("bias"), _y = k.Pointer("y");
        private readonly U32 _results = k.Number("results"), _groups = k.Number("groups"), _inputs = k.Number("inputs"), _columnTiles = k.Number("column_tiles"), _rows = k.Number("rows");
        private readonly FusedNormEmission _norm = new(k, product.Norm, product.Activations);
        private readonly PackedFormat _format = product.Format;
        private readonly PackedCodes _codes = new(k, product.Activations, product.Format.Bits);
        private readonly int _rowTiles = tiling.RowTiles, _codeBytes = CodeBytes(product.Format), _scaleBytes = ScaleBytes(product.Format);

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
            WarpRing ring = Ring(units);
            k.Comment("what the kernel before does not write: the first weights");
            ring.Prefill();
            k.WaitForPreviousKernel();

            // A lane whose row of x does not exist keeps zeros and loads nothing.
            U32 group = k.Lane >> 2, member = k.Lane & 3; // g and t of the fragments
            U32 inputsOfRow = k.Select<U32>(group < _rows, _inputs, 0);
            Global row = _x.At(k.Min(group, _rows - 1), _inputs * 2).At(member, 16);
            U32[][][] x = [.. Enumerable.Range(0, tiling.Turns).Select(_ => Enumerable.Range(0, UnitInputs / 32).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<U32>(0)).ToArray()).ToArray())];
            for (int turn = 0; turn < x.Length; turn++)
            {
                for (int piece = 0; piece < UnitInputs / 32; piece++)
                    LoadX(x[turn], piece, row, ring.First(turn), inputsOfRow);
            }

            var epilogue = new GemvEpilogue(k, tiling, product.Gated, product.Result, _y, _results, _rows)
            {
                Norm = _norm,
                Bias = product.Bias ? (output, exists) => k.Load<F32>(_bias.At(output, sizeof(float)), CacheHint.ReadOnly, exists) : null,
                Accumulate = product.Accumulate,
            };
            _norm.LoadInverses(_rows, _inputs);
            F32[][] sums = [.. Enumerable.Range(0, _rowTiles).Select(_ => Zeros())];
            U32 toScales = (group * (_format.GroupBytes / 8)) - (k.Lane * 16);
            using (ring.Rows(out U32 rowGroup))
            {
                GemvEpilogue.Terms[] terms = epilogue.Load(rowGroup);
                ring.Units(x.Length, (slot, unit, turn, next) =>
                    Multiply(slot, slot + toScales + (_rowTiles * _codeBytes), x[turn], sums, unit, piece => LoadX(x[turn], piece, row, next, inputsOfRow)));
                epilogue.Store(rowGroup, sums, terms);
                foreach (F32 sum in sums.SelectMany(sum => sum))
                    k.Set(sum, 0f);
            }
        }

        private WarpRing Ring(U32 units)
        {
            int step = product.Gated ? 1 : _rowTiles; // rows of tiles from a group to the next
            U32 gap = product.Gated ? _groups : 1; // and to the second of a group
            U32 firstTile = k.Variable<U32>(0);
            Global codes = _weights.At(k.Lane, 16), scales = _scales.At(k.Lane, 16);
            WarpRing ring = null!;
            return ring = new WarpRing(k, tiling, _rowTiles * UnitBytes(_format), _groups, units)
            {
                StartRow = () => k.Set(firstTile, ring.FillGroup * step * _columnTiles),
                Copy = (slot, exists) =>
                {
                    U32 inRow = ring.FillUnit * TilesOfUnit;
                    for (int i = 0; i < _rowTiles; i++)
                    {
                        U32 tile = firstTile + inRow + (i == 0 ? 0 : gap * _columnTiles);
                        Global from = codes.At(tile, PackedMatrix.TileBytes);
                        for (int j = 0; j < TilesOfUnit; j++)
                        {
                            Pred here = j == 0 || !HasPartialUnits ? exists : exists & (inRow + j < _columnTiles);
                            k.CopyAsync(slot + ((i * _codeBytes) + (j * PackedMatrix.TileBytes)), from + (j * PackedMatrix.TileBytes), 16, when: here, readAhead: true);
                        }

                        Pred hasScales = exists & (k.Lane < _scaleBytes / 16);
                        if (HasPartialUnits && !WholeRow)
                            hasScales &= inRow + (k.Lane / (_format.GroupBytes / 16) * _format.GroupSize / _format.TileInputs) < _columnTiles;
                        k.CopyAsync(
                            slot + ((_rowTiles * _codeBytes) + (i * _scaleBytes)),
                            WholeRow ? scales.At((ring.FillGroup * step) + (i == 0 ? 0 : gap), _format.GroupBytes) : scales.At(tile, _format.SegmentsOfTile * _format.GroupBytes / _format.TilesOfGroup),
                            16, when: hasScales);
                    }
                },
            };
        }

        /// <summary>A lane's 16 bytes of 32 inputs. Past the inputs they keep what was there: such inputs have the scale and the offset zero, or are not multiplied.</summary>
        private void LoadX(U32[][] x, int piece, Global row, U32 unit, U32 inputsOfRow)
        {
            Pred exists = (unit * UnitInputs) + (piece * 32) < inputsOfRow;
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

        private F32[] Zeros() => [k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f)];
    }
}
