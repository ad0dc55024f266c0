using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[r, o] (+)= sum over i of W[o, i] x[r, i] (+ bias[o]) for 1 to 8 rows and a <see cref="PackedMatrix"/> W.</summary>
/// <remarks>
/// Bound by memory, so all is about loads in flight and few instructions a weight. The weights are the A operand (16 outputs) of mma.m16n8k16 and
/// the rows its B (8): one instruction multiplies 256 weights by all rows. A block has a few row tiles, and its warps take the tiles of
/// such a row in turn, so that together they read 4 KB in a stretch; each lane's codes, scales and activations are in registers, loaded several
/// tiles ahead of use and, for the first ones, before the kernel that makes x has ended. No shared memory, no barrier until the warps' sums are added.
/// Codes stay whole numbers plus a bias in the product, and scale and offset are applied to a group's sums in F32: s (P - (bias + z) X), P the sum of
/// biased codes times x, X the sum of x, from another product with ones. So weights are not rounded to 16 bits.
/// An output's sum has one order, whatever the rows: a row gets the same bits alone as among eight.
/// </remarks>
public sealed class PackedGemvKernel(KernelCache cache, PackedProduct product, int rowTiles) : Kernel(cache, Build(cache.Target, product, rowTiles))
{
    /// <summary>Most rows of x.</summary>
    public const int MostRows = 8;

    private const int BlockWarps = 8;

    /// <summary>The kernel for a matrix: with two row tiles a block, which halves the loads of x, where there are blocks enough anyhow.</summary>
    public PackedGemvKernel(KernelCache cache, PackedProduct product, PackedMatrix matrix)
        : this(cache, product, RowTilesFor(matrix, cache.Device.Info.Multiprocessors))
    {
    }

    /// <summary>Row tiles of a block for a matrix: 1 or 2.</summary>
    public static int RowTilesFor(PackedMatrix matrix, int multiprocessors) => matrix.RowTiles >= 8 * multiprocessors ? 2 : 1;

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, PackedProduct product, int rowTiles)
    {
        product.Check();
        var k = new PtxBuilder(target, $"packed_gemv_{product}_x{rowTiles}", BlockWarps * 32, blocksPerMultiprocessor: 2);
        Global weights = k.Pointer("weights"), scales = k.Pointer("scales"), x = k.Pointer("x"), bias = product.Bias ? k.Pointer("bias") : default, y = k.Pointer("y");
        U32 outputs = k.Number("outputs"), inputs = k.Number("inputs"), rows = k.Number("rows");
        new Body(k, product, rowTiles).Emit(weights, scales, x, bias, y, outputs, inputs, rows);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="matrix">W.</param>
    /// <param name="weights">W's bytes, as <see cref="PackedMatrix"/> lays them out, aligned to 16.</param>
    /// <param name="x">[rows, Inputs], aligned to 16.</param>
    /// <param name="bias">F32 [Outputs], where the product has a bias.</param>
    /// <param name="y">[rows, Outputs].</param>
    /// <param name="rows">1 to 8.</param>
    public void Launch(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer x, DevicePointer bias, DevicePointer y, int rows)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(matrix.Format, product.Format, nameof(matrix));
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(rows - 1), (uint)MostRows - 1, nameof(rows));
        int outputsOfBlock = rowTiles * PackedMatrix.TileOutputs;
        int blocks = (matrix.Outputs + outputsOfBlock - 1) / outputsOfBlock;
        ulong w = Argument.Of(weights), s = Argument.Of(weights + matrix.CodeBytes), from = Argument.Of(x), to = Argument.Of(y);
        ulong o = Argument.Of(matrix.Outputs), i = Argument.Of(matrix.Inputs), r = Argument.Of(rows);
        if (product.Bias)
            Launch(stream, blocks, [w, s, from, Argument.Of(bias), to, o, i, r], overlapPrevious: true);
        else
            Launch(stream, blocks, [w, s, from, to, o, i, r], overlapPrevious: true);
    }

    /// <summary>The kernel's text, with what its parts share.</summary>
    private sealed class Body(PtxBuilder k, PackedProduct product, int rowTiles)
    {
        private readonly PackedFormat _format = product.Format;
        private readonly PackedCodes _codes = new(k, product.Activations, product.Format.Bits);

        // Tiles loaded ahead, as far as registers for 16 warps a multiprocessor go: 48 or 64 KB of codes under way, where 4.3 TB/s at 1 us ask for 32.
        private readonly int _ahead = (rowTiles, product.Format) switch { (1, { Bits: 4 }) => 6, (1, _) => 8, (_, { SegmentsOfTile: 2, Offset: not PackedOffset.None }) => 3, _ => 4 };

        private int TileInputs => _format.TileInputs;

        private bool WholeRow => _format.GroupSize == PackedFormat.WholeRow;

        /// <summary>What decoded codes have too much, besides a zero point that their group brings.</summary>
        private int Excess => _codes.Bias + (_format.Offset == PackedOffset.None ? _format.Middle : 0);

        private bool NeedsSumOfX => Excess != 0 || _format.Offset != PackedOffset.None;

        public void Emit(Global weights, Global scales, Global x, Global bias, Global y, U32 outputs, U32 inputs, U32 rows)
        {
            U32 columnTiles = (inputs + (TileInputs - 1)) / TileInputs;
            U32 group = k.Lane >> 2, member = k.Lane & 3; // g and t of the fragments
            U32 rowTile = k.BlockX * rowTiles, tile = k.Variable(k.Warp);
            var streams = new Stream[rowTiles];
            for (int i = 0; i < rowTiles; i++)
            {
                U32 firstGroup = WholeRow ? rowTile + i : (((rowTile + i) * columnTiles) + k.Warp) * _format.SegmentsOfTile / _format.TilesOfGroup;
                streams[i] = new Stream(
                    Moving(weights.At(((rowTile + i) * columnTiles) + k.Warp, PackedMatrix.TileBytes).At(k.Lane, 16)),
                    Moving(scales.At(firstGroup, _format.GroupBytes).At(group, _format.GroupBytes / 8)),
                    Words(_ahead, 4), Words(WholeRow ? 1 : _ahead * _format.SegmentsOfTile, _format.GroupBytes / 32), Zeros());
            }

            // A lane whose row does not exist keeps zeros and loads nothing.
            Pred hasRow = group < rows;
            U32 tilesOfRow = k.Select<U32>(hasRow, columnTiles, 0), wholeTilesOfRow = k.Select<U32>(hasRow, inputs / TileInputs, 0);
            Global row = Moving(x.At(k.Min(group, rows - 1), inputs * 2).At((k.Warp * TileInputs) + (member * 8), 2));
            U32[][] activations = Words(_ahead * (TileInputs / 32), 4, zero: true);

            k.Comment("what the kernel before does not write: the first weights");
            for (int slot = 0; slot < _ahead; slot++)
                LoadWeights(streams, slot, slot, tile, columnTiles);
            foreach (Stream stream in streams.Where(_ => WholeRow))
                k.LoadInto<U32>(stream.Scales[0], stream.ScalesAt, CacheHint.ReadOnly);
            k.LetNextKernelStart();
            k.WaitForPreviousKernel();
            for (int slot = 0; slot < _ahead; slot++)
                LoadActivations(activations, slot, slot, row, tile, tilesOfRow, wholeTilesOfRow);

            using (k.While(() => tile < columnTiles))
            {
                for (int slot = 0; slot < _ahead; slot++)
                {
                    using (k.If(tile + (slot * BlockWarps) < columnTiles, uniform: true))
                        MultiplyTile(streams, activations, slot);
                    LoadWeights(streams, slot, slot + _ahead, tile, columnTiles);
                    LoadActivations(activations, slot, slot + _ahead, row, tile, tilesOfRow, wholeTilesOfRow);
                }

                k.Set(tile, tile + (_ahead * BlockWarps));
                Advance(row, _ahead * BlockWarps * TileInputs * 2);
                foreach (Stream stream in streams)
                {
                    Advance(stream.CodesAt, _ahead * BlockWarps * PackedMatrix.TileBytes);
                    Advance(stream.ScalesAt, _ahead * ScaleBytes(BlockWarps));
                }
            }

            AddAndStore(streams, bias, y, outputs, rows, group, member, rowTile);
        }

        /// <summary>Bytes of scales from a tile to the one some tiles on, where that is a whole number of groups.</summary>
        private int ScaleBytes(int tiles) => WholeRow ? 0 : tiles * _format.SegmentsOfTile / _format.TilesOfGroup * _format.GroupBytes;

        private void LoadWeights(Stream[] streams, int slot, int ahead, U32 tile, U32 columnTiles)
        {
            Pred exists = tile + (ahead * BlockWarps) < columnTiles;
            foreach (Stream stream in streams)
            {
                k.LoadInto<U32>(stream.Codes[slot], stream.CodesAt + (ahead * BlockWarps * PackedMatrix.TileBytes), CacheHint.ReadOnce, exists);
                for (int s = 0; s < _format.SegmentsOfTile && !WholeRow; s++)
                    k.LoadInto<U32>(stream.Scales[(slot * _format.SegmentsOfTile) + s], stream.ScalesAt + ((ahead * ScaleBytes(BlockWarps)) + (s * _format.GroupBytes)), CacheHint.ReadOnly, exists);
            }
        }

        /// <summary>Of the last tile, half may lie past the inputs. It keeps what was there: its group has the scale and the offset zero.</summary>
        private void LoadActivations(U32[][] activations, int slot, int ahead, Global row, U32 tile, U32 tilesOfRow, U32 wholeTilesOfRow)
        {
            U32 loaded = tile + (ahead * BlockWarps);
            int halves = TileInputs / 32;
            for (int half = 0; half < halves; half++)
                k.LoadInto<U32>(activations[(slot * halves) + half], row + ((ahead * BlockWarps * TileInputs * 2) + (half * 64)), when: loaded < (half == 0 ? tilesOfRow : wholeTilesOfRow));
        }

        private void MultiplyTile(Stream[] streams, U32[][] activations, int slot)
        {
            int segments = _format.SegmentsOfTile, steps = _codes.Steps / segments;
            for (int s = 0; s < segments; s++)
            {
                F32[] sumOfX = Zeros();
                F32[][] products = [.. streams.Select(_ => Zeros())];
                for (int step = s * steps; step < (s + 1) * steps; step++)
                {
                    // A lane's 16 bytes of x are B registers 0 and 1 of two steps.
                    ReadOnlySpan<U32> b = activations[(slot * (TileInputs / 32)) + (step / 2)].AsSpan(step % 2 * 2, 2);
                    for (int i = 0; i < rowTiles; i++)
                        k.Mma(product.Activations, products[i], [.. streams[i].Codes[slot].Select(word => _codes.Decode(word, step).AsU32)], b);
                    if (NeedsSumOfX)
                    {
                        U32 one = product.Activations == ElementType.F16 ? 0x3c003c00u : 0x3f803f80u;
                        U32 ones = k.Variable(one);
                        k.Mma(product.Activations, sumOfX, [ones, ones, ones, ones], b);
                    }
                }

                for (int i = 0; i < rowTiles; i++)
                    Scale(streams[i], products[i], sumOfX, WholeRow ? 0 : (slot * segments) + s);
            }
        }

        /// <summary>sums += scale * (products - (excess + zero point) * sumOfX), or + offset * sumOfX.</summary>
        private void Scale(Stream stream, F32[] products, F32[] sumOfX, int group)
        {
            (F32 low, F32 high) = k.Unpack(stream.Scales[group][0].AsHalf2(ElementType.F16)); // of rows g and g + 8
            F32 lowExcess = -(float)Excess, highExcess = lowExcess, lowMinimum = 0, highMinimum = 0;
            if (_format.Offset != PackedOffset.None)
                (lowMinimum, highMinimum) = k.Unpack(stream.Scales[group][1].AsHalf2(ElementType.F16));
            if (_format.Offset == PackedOffset.ZeroPoint)
                (lowExcess, highExcess) = (lowExcess - lowMinimum, highExcess - highMinimum);
            for (int c = 0; c < 4; c++)
            {
                F32 centred = Excess == 0 && _format.Offset != PackedOffset.ZeroPoint ? products[c] : k.Fma(sumOfX[c], c < 2 ? lowExcess : highExcess, products[c]);
                k.FmaInto(stream.Sums[c], c < 2 ? low : high, centred);
                if (_format.Offset == PackedOffset.Minimum)
                    k.FmaInto(stream.Sums[c], c < 2 ? lowMinimum : highMinimum, sumOfX[c]);
            }
        }

        private void AddAndStore(Stream[] streams, Global bias, Global y, U32 outputs, U32 rows, U32 group, U32 member, U32 rowTile)
        {
            k.Comment("the warps' sums, in the order of the warps");
            int outputsOfBlock = rowTiles * PackedMatrix.TileOutputs, stride = outputsOfBlock + 4; // 4: a warp's stores fall in 32 banks
            Shared partial = k.AllocateShared(BlockWarps * MostRows * stride * sizeof(float));
            Shared ofLane = partial.At((((k.Warp * MostRows) + (member * 2)) * stride) + group, sizeof(float));
            for (int i = 0; i < rowTiles; i++)
            {
                for (int c = 0; c < 4; c++)
                    k.Store(ofLane + (((c % 2 * stride) + (c / 2 * 8) + (i * PackedMatrix.TileOutputs)) * sizeof(float)), streams[i].Sums[c]);
            }

            k.Barrier();
            U32 inBlock = k.Thread % outputsOfBlock, token = k.Thread / outputsOfBlock, output = (rowTile * PackedMatrix.TileOutputs) + inBlock;
            k.ReturnIf((token >= rows) | (output >= outputs));
            Shared column = partial.At((token * stride) + inBlock, sizeof(float));
            F32 sum = k.Load<F32>(column);
            for (int warp = 1; warp < BlockWarps; warp++)
                sum += k.Load<F32>(column + (warp * MostRows * stride * sizeof(float)));
            if (product.Bias)
                sum += k.Load<F32>(bias.At(output, sizeof(float)), CacheHint.ReadOnly);
            Global to = y.At((token * outputs) + output, product.Result.Bytes());
            if (product.Accumulate)
                sum += k.Load<F32>(to);
            k.StoreElements(product.Result, to, [sum]);
        }

        private Global Moving(Global address) => address with { Base = k.Variable(address.Base) };

        private void Advance(Global address, int bytes) => k.Set(address.Base, address.Base + (ulong)bytes);

        private F32[] Zeros() => [k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f), k.Variable<F32>(0f)];

        private U32[][] Words(int count, int words, bool zero = false) =>
            [.. Enumerable.Range(0, count).Select(_ => Enumerable.Range(0, words).Select(_ => zero ? k.Variable<U32>(0) : k.Variable<U32>()).ToArray())];

        /// <summary>A row tile on its way through the multiplier: where its codes and scales are, what is loaded of them, and its sums.</summary>
        private sealed record Stream(Global CodesAt, Global ScalesAt, U32[][] Codes, U32[][] Scales, F32[] Sums);
    }
}
