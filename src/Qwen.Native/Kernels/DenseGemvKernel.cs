using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[t, o] (+)= sum over i of W[o, i] x[t, i] (+ bias[o]) for 1 to 8 tokens and W row-major, as it is stored and as the matrix library takes it.</summary>
/// <remarks>
/// Bound by memory: all is about bytes under way. W is the A operand (16 outputs) of mma.m16n8k16 and the tokens its B (8), so that a multiplication
/// costs next to no instructions for any number of tokens. Which inputs are the k of an mma is free as long as A and B agree: a lane takes
/// 16 consecutive bytes of a row for its fragments, which then need no shuffle. They come through a <see cref="WarpRing"/>, in units of 128 bytes
/// of each of 16 (or 32) rows: a line, and in E4M3 the width of a block of scales. Registers hold x, a unit or two ahead.
/// E4M3 becomes x's type exactly, x is not quantized: F16 by conversion, BF16 by moving the bits and a product with 2^120.
/// An output's sum has one order for any number of tokens: a token gets the same bits alone as among eight.
/// </remarks>
public sealed class DenseGemvKernel(KernelCache cache, DenseProduct product, GemvTiling tiling) : Kernel(cache, Build(cache.Target, product, tiling))
{
    /// <summary>Most tokens.</summary>
    public const int MostTokens = GemvEpilogue.MostTokens;

    private const int UnitRowBytes = 128, PieceBytes = 512; // a piece is 16 bytes a lane: 8 rows, half a unit
    private const int RegisterWarps = 16; // of a multiprocessor, where weights go straight to registers: 128 a thread

    /// <summary>Tilings that were measured to be the best here, of products without and with norms.</summary>
    internal static Dictionary<(ElementType Weights, MatmulScale Scale, int Outputs, int Inputs), GemvTiling> Tuned { get; } = [];

    /// <summary>
    /// The tiling for a matrix: weights go straight to registers, which 7B on an H200 was faster with than with rings as they were measured. More warps
    /// share a row as long as all blocks still run at once; two tiles, which halve the loads of x, where there are many, and for E4M3, whose x has twice the bytes of its weights.
    /// </summary>
    public static GemvTiling TilingFor(DenseProduct product, int outputs, int inputs, DeviceInfo device)
    {
        if (Tuned.TryGetValue((product.Weights, product.Scale, outputs, inputs), out GemvTiling tuned))
            return tuned;
        int tiles = (outputs + GemvTiling.TileOutputs - 1) / GemvTiling.TileOutputs, warps = 4;
        int rowTiles = product.Gated || product.Weights == ElementType.E4M3 || tiles >= 8 * device.Multiprocessors ? 2 : 1;
        while (warps < 16 && (tiles + rowTiles - 1) / rowTiles * 2 * warps <= RegisterWarps * device.Multiprocessors)
            warps *= 2;
        return new GemvTiling(rowTiles, warps, 0, RegisterWarps / warps);
    }

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, DenseProduct product, GemvTiling tiling)
    {
        product.Check();
        GemvTiling.Check(tiling, product.Gated, mayUseRegisters: true);
        var k = new PtxBuilder(target, $"dense_gemv_{product}_{tiling}", tiling.Warps * 32, tiling.Blocks);
        var body = new Body(k, product, tiling);
        if (tiling.Slots == 0)
            body.EmitWithRegisters();
        else
            body.Emit();
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="weights">W [outputs, inputs], aligned to 16.</param>
    /// <param name="scales">Scales of E4M3, as <see cref="MatmulScale"/> lays them out.</param>
    /// <param name="x">[tokens, inputs], aligned to 16.</param>
    /// <param name="bias">F32 [outputs], where the product has a bias.</param>
    /// <param name="y">[tokens, outputs]; [tokens, outputs / 2] where the product is gated.</param>
    /// <param name="outputs">Rows of W.</param>
    /// <param name="inputs">Columns of W, a multiple of <see cref="DenseProduct.InputsMultiple"/>.</param>
    /// <param name="tokens">1 to 8.</param>
    /// <param name="norm">Where the product has part in a norm.</param>
    public void Launch(IDeviceStream stream, DevicePointer weights, DevicePointer scales, DevicePointer x, DevicePointer bias, DevicePointer y, int outputs, int inputs, int tokens, in FusedNormArguments norm = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(outputs);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(inputs);
        ArgumentOutOfRangeException.ThrowIfNotEqual(inputs % product.InputsMultiple, 0, nameof(inputs));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(tokens - 1), (uint)MostTokens - 1, nameof(tokens));
        norm.Check(product.Norm);
        if (product.Gated)
            ArgumentOutOfRangeException.ThrowIfNotEqual(outputs % 2, 0, nameof(outputs));
        if (product is { Gated: true, Scale: MatmulScale.Block128 })
            ArgumentOutOfRangeException.ThrowIfNotEqual(outputs / 2 % GemvTiling.TileOutputs, 0, nameof(outputs)); // a tile has one scale
        int groups = tiling.Groups(outputs, product.Gated);
        Launch(
            stream, tiling.Grid(groups),
            [
                Argument.Of(weights), Argument.Of(scales), Argument.Of(x), Argument.Of(bias), Argument.Of(y), Argument.Of(product.Gated ? outputs / 2 : outputs), Argument.Of(groups), Argument.Of(inputs),
                Argument.Of(tokens), Argument.Of(norm.Squares), Argument.Of(norm.Weight), Argument.Of(norm.Scaled), Argument.Of(norm.Epsilon),
            ],
            overlapPrevious: true);
    }

    /// <summary>Bytes of a unit of one row tile: four pieces of weights, and of block scales one, with others around it.</summary>
    internal static int UnitBytes(DenseProduct product) => (4 * PieceBytes) + (product.Scale == MatmulScale.Block128 ? 16 : 0);

    /// <summary>The kernel's text, with what its parts share.</summary>
    private sealed class Body(PtxBuilder k, DenseProduct product, GemvTiling tiling)
    {
        private readonly Global _weights = k.Pointer("weights"), _scales = k.Pointer("scales"), _x = k.Pointer("x"), _bias = k.Pointer("bias"), _y = k.Pointer("y");
        private readonly U32 _results = k.Number("results"), _groups = k.Number("groups"), _inputs = k.Number("inputs"), _tokens = k.Number("tokens");
        private readonly FusedNormEmission _norm = new(k, product.Norm, product.Activations);
        private readonly int _rowTiles = tiling.RowTiles, _xBytes = 2 / product.Weights.Bytes(); // bytes of x for a byte of a row of W

        private bool IsFloat8 => product.Weights == ElementType.E4M3;

        private bool HasBlockScales => product.Scale == MatmulScale.Block128;

        public void Emit()
        {
            k.LetNextKernelStart(); // it waits itself for what this one writes; until then it fills its ring
            U32 group = k.Lane >> 2, member = k.Lane & 3; // g and t of the fragments
            U32 rowBytes = _inputs * product.Weights.Bytes(), units = (rowBytes + (UnitRowBytes - 1)) / UnitRowBytes;
            WarpRing ring = Ring(group, member, rowBytes, units);
            k.Comment("what the kernel before does not write: the first weights");
            ring.Prefill();
            k.WaitForPreviousKernel();

            // A lane whose token does not exist has zeros.
            U32 bytesOfToken = k.Select<U32>(group < _tokens, rowBytes, 0);
            Global token = _x.At(k.Min(group, _tokens - 1), _inputs * 2).At(member, 16 * _xBytes);
            U32[][][] x = [.. Enumerable.Range(0, tiling.Turns).Select(_ => Enumerable.Range(0, 2 * _xBytes).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<U32>(0)).ToArray()).ToArray())];
            for (int turn = 0; turn < x.Length; turn++)
            {
                for (int half = 0; half < 2; half++)
                    LoadX(x[turn], half, token, ring.First(turn), member, bytesOfToken);
            }

            GemvEpilogue epilogue = Epilogue();
            _norm.LoadInverses(_tokens, _inputs);
            F32[][] sums = [.. Enumerable.Range(0, _rowTiles).Select(_ => Zeros())];
            using (ring.Rows(out U32 rowGroup))
            {
                GemvEpilogue.Terms[] terms = epilogue.Load(rowGroup);
                ring.Units(x.Length, (slot, _, turn, next) => Multiply(slot, x[turn], sums, half => LoadX(x[turn], half, token, next, member, bytesOfToken)));
                epilogue.Store(rowGroup, sums, terms);
                foreach (F32 sum in sums.SelectMany(sum => sum))
                    k.Set(sum, 0f);
            }
        }

        private GemvEpilogue Epilogue() => new GemvEpilogue(k, tiling, product.Gated, product.Result, _y, _results, _tokens)
        {
            Norm = _norm,
            Scale = product.Scale is MatmulScale.Row or MatmulScale.Tensor
                ? (output, exists) => k.Load<F32>(product.Scale == MatmulScale.Row ? _scales.At(output, sizeof(float)) : _scales, CacheHint.ReadOnly, exists)
                : null,
            Bias = product.Bias ? (output, exists) => k.Load<F32>(_bias.At(output, sizeof(float)), CacheHint.ReadOnly, exists) : null,
            Accumulate = product.Accumulate,
        };

        /// <summary>Without a ring: 8 KB of weights a warp go straight to registers, the first of them before the kernel before has ended.</summary>
        public void EmitWithRegisters()
        {
            // x comes from L2 wherever a multiprocessor has a block or two, later than weights that are already here: it is asked for at once for all that was
            // loaded. E4M3 takes twice the x for its bytes, and has registers for a unit's.
            int ahead = 4 / _rowTiles, withX = IsFloat8 ? 1 : ahead, stepBytes = k.Warps * UnitRowBytes;
            U32 group = k.Lane >> 2, member = k.Lane & 3;
            U32 rowBytes = _inputs * product.Weights.Bytes(), units = (rowBytes + (UnitRowBytes - 1)) / UnitRowBytes, at = k.Variable((k.Warp * UnitRowBytes) + (member * 16)); // this lane's bytes in a row
            Global[] rows = [.. Enumerable.Range(0, _rowTiles * 2).Select(i => Moving(_weights.At(Row(i / 2, First(k.BlockX, i / 2) + group + (i % 2 * 8)), rowBytes) + k.Widen(at)))];
            Global[] scales = [.. Enumerable.Range(0, HasBlockScales ? _rowTiles : 0).Select(i => Moving(_scales.At((Row(i, First(k.BlockX, i)) / 128 * ((((_inputs + 127) / 128) + 3) & ~3u)) + k.Warp, sizeof(float))))];
            U32[][] words = [.. Enumerable.Range(0, ahead * rows.Length * 2).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<U32>(0)).ToArray())]; // slot, row, half
            for (int slot = 0; slot < ahead; slot++)
                LoadWeights(slot, slot);
            k.LetNextKernelStart();
            k.WaitForPreviousKernel();

            U32 bytesOfToken = k.Select<U32>(group < _tokens, rowBytes, 0);
            Global token = Moving(_x.At(k.Min(group, _tokens - 1), _inputs * 2).At(at, _xBytes));
            GemvEpilogue epilogue = Epilogue();
            _norm.LoadInverses(_tokens, _inputs);
            GemvEpilogue.Terms[] terms = epilogue.Load(k.BlockX);
            F32[][] sums = [.. Enumerable.Range(0, _rowTiles).Select(_ => Zeros())];
            U32 unit = k.Variable(k.Warp);
            using (k.While(() => unit < units))
            {
                U32[][][] xs = [];
                for (int slot = 0; slot < ahead; slot++)
                {
                    if (slot % withX == 0)
                        xs = [.. Enumerable.Range(slot, withX).Select(XOf)];
                    U32[][] x = xs[slot % withX];
                    using (k.If(unit + (slot * k.Warps) < units, uniform: true))
                    {
                        F32[] ofBlock = [.. scales.Select(from => k.Load<F32>(from + (slot * k.Warps * sizeof(float)), CacheHint.ReadOnly))];
                        F32[][] products = [.. sums.Select(sum => HasBlockScales ? Zeros() : sum)];
                        for (int half = 0; half < 2; half++)
                        {
                            for (int i = 0; i < _rowTiles; i++)
                            {
                                U32[] low = Decode(words[(((slot * rows.Length) + (i * 2)) * 2) + half]), high = Decode(words[(((slot * rows.Length) + (i * 2) + 1) * 2) + half]);
                                for (int word = 0; word < low.Length; word += 2)
                                    k.Mma(product.Activations, products[i], [low[word], high[word], low[word + 1], high[word + 1]], x[half].AsSpan(word, 2));
                            }
                        }

                        for (int i = 0; i < ofBlock.Length; i++)
                        {
                            for (int c = 0; c < 4; c++)
                                k.FmaInto(sums[i][c], ofBlock[i], products[i][c]);
                        }
                    }

                    LoadWeights(slot, slot + ahead);
                }

                k.Set(unit, unit + (ahead * k.Warps));
                k.Set(at, at + (ahead * stepBytes));
                Advance(token, ahead * stepBytes * _xBytes);
                foreach (Global row in rows)
                    Advance(row, ahead * stepBytes);
                foreach (Global scale in scales)
                    Advance(scale, ahead * k.Warps * sizeof(float));
            }

            epilogue.Store(k.BlockX, sums, terms);

            void LoadWeights(int slot, int step)
            {
                for (int i = 0; i < rows.Length * 2; i++)
                {
                    int offset = (step * stepBytes) + (i % 2 * 64);
                    k.LoadInto<U32>(words[(slot * rows.Length * 2) + i], rows[i / 2] + offset, CacheHint.ReadOnce, at + offset < rowBytes);
                }
            }

            // Of each half of 64 bytes; zeros past the token's end.
            U32[][] XOf(int slot) => [.. Enumerable.Range(0, 2).Select(half =>
            {
                int offset = (slot * stepBytes) + (half * 64);
                Pred exists = at + offset < bytesOfToken;
                return Enumerable.Range(0, _xBytes).SelectMany(i => k.LoadVector<U32>(token + ((offset * _xBytes) + (i * 16)), 4, when: exists)).ToArray();
            })];

            Global Moving(Global address) => address with { Base = k.Variable(address.Base) };

            void Advance(Global address, int bytes) => k.Set(address.Base, address.Base + (ulong)bytes);
        }

        private U32 First(U32 rowGroup, int tile) => product.Gated ? rowGroup * GemvTiling.TileOutputs : (rowGroup * (_rowTiles * GemvTiling.TileOutputs)) + (tile * GemvTiling.TileOutputs);

        /// <summary>The row of W that an output of a tile is: the last, where there is no such output.</summary>
        private U32 Row(int tile, U32 output)
        {
            U32 row = k.Min(output, _results - 1);
            return product.Gated && tile == 1 ? row + _results : row;
        }

        private WarpRing Ring(U32 group, U32 member, U32 rowBytes, U32 units)
        {
            // Rows g and g + 8 of each tile; beyond the last output they are the last.
            Global[] rows = [.. Enumerable.Range(0, _rowTiles * 2).Select(_ => new Global(k.Variable<U64>()))];
            Global[] scales = [.. Enumerable.Range(0, HasBlockScales ? _rowTiles : 0).Select(_ => new Global(k.Variable<U64>()))];
            WarpRing ring = null!;
            return ring = new WarpRing(k, tiling, _rowTiles * UnitBytes(product), _groups, units)
            {
                StartRow = () =>
                {
                    for (int i = 0; i < rows.Length; i++)
                        k.Set(rows[i].Base, _weights.At(Row(i / 2, First(ring.FillGroup, i / 2) + group + (i % 2 * 8)), rowBytes).At(member, 16).Base);
                    for (int i = 0; i < scales.Length; i++)
                        k.Set(scales[i].Base, _scales.At(Row(i, First(ring.FillGroup, i)) / 128 * ((((_inputs + 127) / 128) + 3) & ~3u), sizeof(float)).Base);
                },
                Copy = (slot, exists) =>
                {
                    for (int half = 0; half < 2; half++)
                    {
                        // Past the row's end there are zeros.
                        U32 at = (ring.FillUnit * UnitRowBytes) + (half * 64);
                        Pred inRow = at + (member * 16) < rowBytes;
                        U64 offset = k.Widen(k.Select<U32>(inRow, at, 0));
                        U32 valid = k.Select<U32>(inRow, 16, 0);
                        for (int i = 0; i < rows.Length; i++)
                            k.CopyAsync(slot + (((i * 2) + half) * PieceBytes), rows[i] + offset, 16, valid, exists, readAhead: true);
                    }

                    for (int i = 0; i < scales.Length; i++)
                        k.CopyAsync(slot + ((_rowTiles * 4 * PieceBytes) + (i * 16)), scales[i].At(ring.FillUnit, sizeof(float)), sizeof(float), when: exists & k.Lane.Is(0));
                },
            };
        }

        /// <summary>The token's values for a lane's weights of half a unit: 8 or 16. Past their end they keep what they had, of the same token: there weights are zeros.</summary>
        private void LoadX(U32[][] x, int half, Global token, U32 unit, U32 member, U32 bytesOfToken)
        {
            Pred exists = (unit * UnitRowBytes) + (half * 64) + (member * 16) < bytesOfToken;
            for (int i = 0; i < _xBytes; i++)
                k.LoadInto<U32>(x[(half * _xBytes) + i], token.At(unit, UnitRowBytes * _xBytes) + ((half * 64 * _xBytes) + (i * 16)), when: exists);
        }

        /// <summary>Adds the products of a unit, and has each half of x replaced when it was used.</summary>
        private void Multiply(Shared slot, U32[][] x, F32[][] sums, Action<int> replace)
        {
            F32[] scales = [.. sums.Where(_ => HasBlockScales).Select((_, i) => k.Load<F32>(slot + (k.Lane * -16) + ((_rowTiles * 4 * PieceBytes) + (i * 16))))];
            F32[][] products = [.. sums.Select(sum => HasBlockScales ? Zeros() : sum)];
            for (int half = 0; half < 2; half++)
            {
                U32[] ofHalf = [.. x.Skip(half * _xBytes).Take(_xBytes).SelectMany(words => words)];
                for (int i = 0; i < _rowTiles; i++)
                {
                    U32[] low = Decode(k.LoadVector<U32>(slot + (((i * 4) + half) * PieceBytes), 4)), high = Decode(k.LoadVector<U32>(slot + (((i * 4) + 2 + half) * PieceBytes), 4));
                    for (int word = 0; word < low.Length; word += 2)
                        k.Mma(product.Activations, products[i], [low[word], high[word], low[word + 1], high[word + 1]], ofHalf.AsSpan(word, 2));
                }

                replace(half);
            }

            for (int i = 0; i < scales.Length; i++)
            {
                for (int c = 0; c < 4; c++)
                    k.FmaInto(sums[i][c], scales[i], products[i][c]);
            }
        }

        /// <summary>Words of weights as words of the activations' type, values in order.</summary>
        private U32[] Decode(U32[] words) => !IsFloat8 ? words
            : product.Activations == ElementType.F16 ? [.. words.SelectMany(word => new[] { k.Float8ToHalf2(ElementType.E4M3, word).AsU32, k.Float8ToHalf2(ElementType.E4M3, word >> 16).AsU32 })]
            : [.. words.SelectMany(word => new[] { k.E4M3ToBFloat16(word, 0).AsU32, k.E4M3ToBFloat16(word, 2).AsU32 })];

        private F32[] Zeros() => [k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f)];
    }
}
