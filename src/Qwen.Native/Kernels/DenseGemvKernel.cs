using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>How the blocks of <see cref="DenseGemvKernel"/> cover a matrix.</summary>
/// <param name="RowTiles">Tiles of 16 outputs of a block: 1 or 2 (always 2 where the product is gated: one of the gate, one of the up projection).</param>
/// <param name="Warps">Warps that share a row: 4, 8 or 16.</param>
public readonly record struct DenseTiling(int RowTiles, int Warps)
{
    /// <summary>
    /// The tiling for a matrix: more warps a row as long as all blocks still run at once, so that even few outputs keep enough bytes under way;
    /// two tiles, which halve the loads of x, where there are many, and for E4M3, whose x has twice the bytes of its weights.
    /// </summary>
    public static DenseTiling For(DenseProduct product, int outputs, int multiprocessors)
    {
        int tiles = (outputs + DenseGemvKernel.TileOutputs - 1) / DenseGemvKernel.TileOutputs, rowTiles = product.Gated || product.Weights == ElementType.E4M3 || tiles >= 8 * multiprocessors ? 2 : 1, warps = 4;
        while (warps < 16 && (tiles + rowTiles - 1) / rowTiles * 2 * warps <= DenseGemvKernel.WarpsPerMultiprocessor * multiprocessors)
            warps *= 2;
        return new DenseTiling(rowTiles, warps);
    }
}

/// <summary>y[t, o] (+)= sum over i of W[o, i] x[t, i] (+ bias[o]) for 1 to 8 tokens and W row-major, as it is stored and as the matrix library takes it.</summary>
/// <remarks>
/// Bound by memory: all is about bytes under way. W is the A operand (16 outputs) of mma.m16n8k16 and the tokens its B (8), so that a multiplication
/// costs next to no instructions for any number of tokens. Which inputs are the k of an mma is free as long as A and B agree: a lane takes
/// 16 consecutive bytes of a row for its fragments, which then need no shuffle and no shared memory. A warp's step is 128 bytes of each of 16 (or 32) rows;
/// the warps of a block take the steps of its rows in turn, 8 KB ahead each, the first before the kernel that makes x has ended.
/// E4M3 becomes x's type exactly, x is not quantized: F16 by conversion, BF16 by moving the bits and a product with 2^120.
/// An output's sum has one order for any number of tokens: a token gets the same bits alone as among eight.
/// </remarks>
public sealed class DenseGemvKernel(KernelCache cache, DenseProduct product, DenseTiling tiling) : Kernel(cache, Build(cache.Target, product, tiling))
{
    /// <summary>Most tokens.</summary>
    public const int MostTokens = 8;

    /// <summary>Outputs of a tile.</summary>
    internal const int TileOutputs = 16;

    /// <summary>Warps that a multiprocessor shall hold: 128 registers a thread.</summary>
    internal const int WarpsPerMultiprocessor = 16;

    private const int StepBytes = 128;

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, DenseProduct product, DenseTiling tiling)
    {
        product.Check();
        if (tiling.RowTiles != 2 && (tiling.RowTiles != 1 || product.Gated))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling, "has 1 or 2 row tiles, 2 where the product is gated.");
        if (tiling.Warps is not (4 or 8 or 16))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling, "has 4, 8 or 16 warps.");
        var k = new PtxBuilder(target, $"dense_gemv_{product}_{tiling.RowTiles}x{tiling.Warps}", tiling.Warps * 32, WarpsPerMultiprocessor / tiling.Warps);
        new Body(k, product, tiling.RowTiles).Emit();
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
    public void Launch(IDeviceStream stream, DevicePointer weights, DevicePointer scales, DevicePointer x, DevicePointer bias, DevicePointer y, int outputs, int inputs, int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(outputs);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(inputs);
        ArgumentOutOfRangeException.ThrowIfNotEqual(inputs % product.InputsMultiple, 0, nameof(inputs));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(tokens - 1), (uint)MostTokens - 1, nameof(tokens));
        if (product.Gated)
            ArgumentOutOfRangeException.ThrowIfNotEqual(outputs % 2, 0, nameof(outputs));
        if (product is { Gated: true, Scale: MatmulScale.Block128 })
            ArgumentOutOfRangeException.ThrowIfNotEqual(outputs / 2 % TileOutputs, 0, nameof(outputs)); // a tile has one scale
        int results = product.Gated ? outputs / 2 : outputs, resultsOfBlock = product.Gated ? TileOutputs : tiling.RowTiles * TileOutputs;
        Launch(
            stream, (results + resultsOfBlock - 1) / resultsOfBlock,
            [Argument.Of(weights), Argument.Of(scales), Argument.Of(x), Argument.Of(bias), Argument.Of(y), Argument.Of(results), Argument.Of(inputs), Argument.Of(tokens)], overlapPrevious: true);
    }

    /// <summary>The kernel's text, with what its parts share.</summary>
    private sealed class Body(PtxBuilder k, DenseProduct product, int rowTiles)
    {
        private readonly Global _weights = k.Pointer("weights"), _scales = k.Pointer("scales"), _x = k.Pointer("x"), _bias = k.Pointer("bias"), _y = k.Pointer("y");
        private readonly U32 _results = k.Number("results"), _inputs = k.Number("inputs"), _tokens = k.Number("tokens");

        /// <summary>Steps loaded ahead: 8 KB a warp and 128 a multiprocessor, four times what 4.3 TB/s at 1 us ask for, as a warp waits for all of them and then for x.</summary>
        private readonly int _ahead = 4 / rowTiles;

        /// <summary>
        /// Steps whose x is loaded at once. It comes from L2 wherever a multiprocessor has a block or two, later than weights that are already here:
        /// one such wait for each step would cost more than the weights. E4M3 takes twice the x for its bytes, and has registers for a step.
        /// </summary>
        private int TokenSteps => IsFloat8 ? 1 : _ahead;

        private bool IsFloat8 => product.Weights == ElementType.E4M3;

        /// <summary>The first output of the block's tile. Gated, the tiles are the same outputs of the gate and the up projection.</summary>
        private U32 FirstOutput(int tile) => product.Gated ? k.BlockX * TileOutputs : (k.BlockX * (rowTiles * TileOutputs)) + (tile * TileOutputs);

        /// <summary>The row of W that an output of a tile is: the last, where there is no such output.</summary>
        private U32 Row(int tile, U32 output)
        {
            U32 row = k.Min(output, _results - 1);
            return product.Gated && tile == 1 ? row + _results : row;
        }

        public void Emit()
        {
            U32 group = k.Lane >> 2, member = k.Lane & 3; // g and t of the fragments
            U32 rowBytes = _inputs * product.Weights.Bytes(), at = k.Variable((k.Warp * StepBytes) + (member * 16)); // this lane's bytes in a row
            var tiles = new Tile[rowTiles];
            for (int i = 0; i < rowTiles; i++)
            {
                U32 low = Row(i, FirstOutput(i) + group), high = Row(i, FirstOutput(i) + group + 8);
                Global scales = product.Scale == MatmulScale.Block128 ? BlockScales(Row(i, FirstOutput(i))) : default;
                tiles[i] = new Tile([Moving(_weights.At(low, rowBytes) + k.Widen(at)), Moving(_weights.At(high, rowBytes) + k.Widen(at))], Words(_ahead * 4), scales, Zeros());
            }

            k.Comment("what the kernel before does not write: the first weights");
            for (int slot = 0; slot < _ahead; slot++)
                LoadWeights(tiles, slot, slot, at, rowBytes);
            k.LetNextKernelStart();
            k.WaitForPreviousKernel();

            // A lane whose token does not exist has zeros.
            U32 bytesOfToken = k.Select<U32>(group < _tokens, rowBytes, 0);
            Global token = Moving(_x.At(k.Min(group, _tokens - 1), _inputs * 2).At(at, 2 / product.Weights.Bytes()));
            U32 step = k.Variable(k.Warp), steps = (rowBytes + (StepBytes - 1)) / StepBytes;
            using (k.While(() => step < steps))
            {
                U32[][][] x = new U32[_ahead][][];
                for (int slot = 0; slot < _ahead; slot++)
                {
                    for (int next = slot; slot % TokenSteps == 0 && next < slot + TokenSteps; next++)
                        x[next] = LoadTokens(next, token, at, bytesOfToken);
                    using (k.If(step + (slot * k.Warps) < steps, uniform: true))
                        Multiply(tiles, slot, x[slot]);
                    LoadWeights(tiles, slot, slot + _ahead, at, rowBytes);
                }

                int bytes = _ahead * k.Warps * StepBytes;
                k.Set(step, step + (_ahead * k.Warps));
                k.Set(at, at + bytes);
                Advance(token, bytes * (2 / product.Weights.Bytes()));
                foreach (Tile tile in tiles)
                {
                    foreach (Global row in tile.Rows)
                        Advance(row, bytes);
                    if (product.Scale == MatmulScale.Block128)
                        Advance(tile.Scales, _ahead * k.Warps * sizeof(float));
                }
            }

            AddAndStore(tiles, group, member);
        }

        /// <summary>The scales of the row of blocks that has an output's, from this warp's first: a step of 128 bytes is the width of a block.</summary>
        private Global BlockScales(U32 row) => Moving(_scales.At((row / 128 * ((((_inputs + 127) / 128) + 3) & ~3u)) + k.Warp, sizeof(float)));

        /// <summary>Words 4 (2 slot + half) of a tile are its rows g and g + 8 for 64 bytes. Past the row's end they keep what they had, a number that zeros of x meet.</summary>
        private void LoadWeights(Tile[] tiles, int slot, int ahead, U32 at, U32 rowBytes)
        {
            foreach (Tile tile in tiles)
            {
                for (int i = 0; i < 4; i++)
                {
                    int offset = (ahead * k.Warps * StepBytes) + (i % 2 * 64);
                    k.LoadInto<U32>(tile.Words[(slot * 4) + i], tile.Rows[i / 2] + offset, CacheHint.ReadOnce, at + offset < rowBytes);
                }
            }
        }

        /// <summary>The token's values for a lane's weights of a step, for each half of 64 bytes: 8 or 16. Zeros past their end.</summary>
        private U32[][] LoadTokens(int slot, Global token, U32 at, U32 bytesOfToken)
        {
            var x = new U32[2][];
            for (int half = 0; half < 2; half++)
            {
                int offset = (slot * k.Warps * StepBytes) + (half * 64);
                Global from = token + (offset * (2 / product.Weights.Bytes()));
                Pred exists = at + offset < bytesOfToken;
                x[half] = IsFloat8 ? [.. k.LoadVector<U32>(from, 4, when: exists), .. k.LoadVector<U32>(from + 16, 4, when: exists)] : k.LoadVector<U32>(from, 4, when: exists);
            }

            return x;
        }

        private void Multiply(Tile[] tiles, int slot, U32[][] x)
        {
            bool scaled = product.Scale == MatmulScale.Block128;
            F32[] scales = scaled ? [.. tiles.Select(tile => k.Load<F32>(tile.Scales + (slot * k.Warps * sizeof(float)), CacheHint.ReadOnly))] : [];
            F32[][] sums = [.. tiles.Select(tile => scaled ? Zeros() : tile.Sums)];
            for (int half = 0; half < 2; half++)
            {
                for (int i = 0; i < tiles.Length; i++)
                {
                    U32[] low = Decode(tiles[i].Words[(slot * 4) + half]), high = Decode(tiles[i].Words[(slot * 4) + 2 + half]);
                    for (int word = 0; word < low.Length; word += 2)
                        k.Mma(product.Activations, sums[i], [low[word], high[word], low[word + 1], high[word + 1]], x[half].AsSpan(word, 2));
                }
            }

            for (int i = 0; i < tiles.Length && scaled; i++)
            {
                for (int c = 0; c < 4; c++)
                    k.FmaInto(tiles[i].Sums[c], scales[i], sums[i][c]);
            }
        }

        /// <summary>Words of weights as words of the activations' type, values in order.</summary>
        private U32[] Decode(U32[] words) => !IsFloat8 ? words
            : product.Activations == ElementType.F16 ? [.. words.SelectMany(word => new[] { k.Float8ToHalf2(ElementType.E4M3, word).AsU32, k.Float8ToHalf2(ElementType.E4M3, word >> 16).AsU32 })]
            : [.. words.SelectMany(word => new[] { k.E4M3ToBFloat16(word, 0).AsU32, k.E4M3ToBFloat16(word, 2).AsU32 })];

        private void AddAndStore(Tile[] tiles, U32 group, U32 member)
        {
            k.Comment("the warps' sums, in the order of the warps");
            int outputs = rowTiles * TileOutputs, stride = outputs + 4; // 4: a warp's stores fall in 32 banks
            Shared partial = k.AllocateShared(k.Warps * MostTokens * stride * sizeof(float));
            Shared ofLane = partial.At((((k.Warp * MostTokens) + (member * 2)) * stride) + group, sizeof(float));
            for (int i = 0; i < rowTiles; i++)
            {
                for (int c = 0; c < 4; c++)
                    k.Store(ofLane + (((c % 2 * stride) + (c / 2 * 8) + (i * TileOutputs)) * sizeof(float)), tiles[i].Sums[c]);
            }

            k.Barrier();
            int results = product.Gated ? TileOutputs : outputs;
            using (k.For(k.Thread, _tokens * results, k.Threads, out U32 index))
            {
                U32 inBlock = index % results, token = index / results, output = FirstOutput(0) + inBlock;
                using (k.If(output < _results))
                {
                    Shared column = partial.At((token * stride) + inBlock, sizeof(float));
                    F32 result = product.Gated
                        ? SwiGluKernel.Gated(k, [Sum(column, output)], [Sum(column + (TileOutputs * sizeof(float)), output + _results)])[0]
                        : Sum(column, output);
                    Global to = _y.At((token * _results) + output, product.Result.Bytes());
                    if (product.Accumulate)
                        result += k.Load<F32>(to);
                    k.StoreElements(product.Result, to, [result]);
                }
            }

            F32 Sum(Shared column, U32 row)
            {
                F32 sum = k.Load<F32>(column);
                for (int warp = 1; warp < k.Warps; warp++)
                    sum += k.Load<F32>(column + (warp * MostTokens * stride * sizeof(float)));
                if (product.Scale is MatmulScale.Row or MatmulScale.Tensor)
                    sum *= k.Load<F32>(product.Scale == MatmulScale.Row ? _scales.At(row, sizeof(float)) : _scales, CacheHint.ReadOnly);
                if (product.Bias)
                    sum += k.Load<F32>(_bias.At(row, sizeof(float)), CacheHint.ReadOnly);
                return sum;
            }
        }

        private Global Moving(Global address) => address with { Base = k.Variable(address.Base) };

        private void Advance(Global address, int bytes) => k.Set(address.Base, address.Base + (ulong)bytes);

        private F32[] Zeros() => [k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f)];

        private U32[][] Words(int count) => [.. Enumerable.Range(0, count).Select(_ => Enumerable.Range(0, 4).Select(_ => k.Variable<U32>(0)).ToArray())];

        /// <summary>16 outputs on their way through the multiplier: where their rows are (g and g + 8), what is loaded of them, their scales, and their sums.</summary>
        private sealed record Tile(Global[] Rows, U32[][] Words, Global Scales, F32[] Sums);
    }
}
