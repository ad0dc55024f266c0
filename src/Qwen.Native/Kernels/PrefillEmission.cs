using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Writes <see cref="PrefillAttentionKernel"/>.</summary>
/// <remarks>Lane 4g + t of a warp has rows g and g + 8 of each of its sixteens of rows, and columns 2t and 2t + 1 of each eight.</remarks>
internal sealed class PrefillEmission(PtxBuilder k, AttentionShape shape, PrefillTile tile)
{
    private readonly int _columnTiles = shape.HeadDim / 16, _group = shape.Group;

    // Of row [sixteenth][g or g + 8]: positions, maxima and sums of weights; of [sixteenth][eight columns], sums as C fragments.
    private readonly U32[][] _positions = [.. Enumerable.Range(0, tile.RowTiles).Select(_ => (U32[])[k.Variable<U32>(), k.Variable<U32>()])];
    private readonly F32[][] _maxima = Variables(k, tile.RowTiles, 2), _weights = Variables(k, tile.RowTiles, 2);
    private readonly F32[][][] _sums = [.. Enumerable.Range(0, tile.RowTiles).Select(_ => Variables(k, shape.HeadDim / 8, 4))];

    public void Emit()
    {
        var arguments = new AttentionArguments(k);
        U32 head = k.BlockY;
        k.WaitForPreviousKernel();
        k.LetNextKernelStart();
        U32 sequence = k.Load<U32>(arguments.Sequences.At(k.BlockZ, sizeof(int)));
        U32 rows = k.Load<U32>(arguments.Tokens.At(sequence, sizeof(int))) * _group;
        U32 tiles = (rows + (tile.Rows - 1)) / tile.Rows;
        k.ReturnIf(k.BlockX >= tiles);
        U32 firstRow = ((tiles - 1) - k.BlockX) * tile.Rows, lastRow = k.Min(firstRow + (tile.Rows - 1), rows - 1);
        U32 firstPosition = k.Load<U32>(arguments.FirstPositions.At(sequence, sizeof(int)));
        U32 first = firstPosition + (firstRow / _group), last = firstPosition + (lastRow / _group); // positions of the block's tokens
        U32 from = shape.SlidingWindow == 0 ? 0 : (first + 1) - k.Min(first + 1, shape.SlidingWindow);

        Shared queries = tile.Allocate(k, tile.Rows);
        Global table = arguments.BlockTables.At(sequence, arguments.BlocksPerSequence * sizeof(int));
        U32 InRange(U32 position) => shape.SlidingWindow == 0 ? k.Min(position, last) : k.Max(k.Min(position, last), from);
        var keys = new PrefillCopies(k, arguments, tile, areKeys: true, table, head, InRange);
        var values = new PrefillCopies(k, arguments, tile, areKeys: false, table, head, InRange);
        U32 position = k.Variable(from / tile.Positions * tile.Positions);
        keys.Start(position);

        U32 token = k.Load<U32>(arguments.FirstTokens.At(sequence, sizeof(int)));
        StoreQueries(queries, arguments.Qkv.At(token, shape.QkvWidth * sizeof(ushort)).At(head, _group * shape.HeadDim * sizeof(ushort)), firstRow, lastRow);
        Reset(firstPosition, firstRow);
        k.Barrier(); // queries and bias are seen

        using (k.While(() => position <= last))
        {
            keys.Finish(position);
            values.Start(position);
            F32[][][] scores = Scores(queries, keys.Rows);
            values.Finish(position);
            U32 next = position + tile.Positions;
            using (k.If(next <= last, uniform: true))
                keys.Start(next);
            Mask(scores, position, first);
            Weigh(scores);
            AddValues(scores, values.Rows);
            k.Set(position, next);
        }

        StoreRows(arguments.Attended.At(token, shape.Heads * shape.HeadDim * sizeof(ushort)).At(head, _group * shape.HeadDim * sizeof(ushort)), firstRow, rows);
    }

    private static F32[][] Variables(PtxBuilder k, int rows, int columns) =>
        [.. Enumerable.Range(0, rows).Select(_ => Enumerable.Range(0, columns).Select(_ => k.Variable<F32>()).ToArray())];

    /// <summary>Rows past the last are copies of it, whose results nobody stores.</summary>
    private void StoreQueries(Shared queries, Global from, U32 firstRow, U32 lastRow)
    {
        int chunks = shape.HeadDim / 8;
        using (k.For(k.Thread, tile.Rows * chunks, k.Threads, out U32 index))
        {
            U32 row = index / chunks, chunk = index % chunks, source = k.Min(firstRow + row, lastRow);
            Global at = from.At(source / _group, shape.QkvWidth * sizeof(ushort)).At(((source % _group) * chunks) + chunk, 16);
            k.StoreVector<U32>(tile.At(queries, row, chunk), (U32[])[.. QueryRows.Load(k, shape, at), .. QueryRows.Load(k, shape, at + 8)]);
        }
    }

    private void Reset(U32 firstPosition, U32 firstRow)
    {
        for (int m = 0; m < tile.RowTiles; m++)
        {
            for (int h = 0; h < 2; h++)
                k.Set(_positions[m][h], firstPosition + ((firstRow + Row(m, h)) / _group));
        }

        foreach (F32 maximum in _maxima.SelectMany(m => m))
            k.Set(maximum, float.NegativeInfinity);
        foreach (F32 sum in _weights.SelectMany(w => w).Concat(_sums.SelectMany(s => s).SelectMany(s => s)))
            k.Set(sum, 0f);
    }

    // A lane's rows in the block.
    private U32 Row(int m, int h) => (k.Warp * tile.WarpRows) + (k.Lane >> 2) + ((16 * m) + (8 * h));

    /// <summary>S = Q K^T: C fragments [sixteenth of rows][eight positions].</summary>
    private F32[][][] Scores(Shared queries, Shared keys)
    {
        F32[][][] scores = [.. Enumerable.Range(0, tile.RowTiles).Select(_ => Variables(k, tile.Positions / 8, 4))];
        foreach (F32 score in scores.SelectMany(s => s).SelectMany(s => s))
            k.Set(score, 0f);
        // ldmatrix addresses: of queries, rows lane % 16 and chunk lane / 16; of keys, two eights of positions, each with both chunks of a step.
        U32 queryRow = (k.Warp * tile.WarpRows) + (k.Lane & 15), keyRow = (k.Lane & 7) + ((k.Lane >> 4) * 8);
        Func<int, Shared> queriesAt = tile.Steps(queries, queryRow, k.Lane >> 4), keysAt = tile.Steps(keys, keyRow, (k.Lane >> 3) & 1);
        for (int step = 0; step < _columnTiles; step++)
        {
            Shared queryAt = queriesAt(step), keyAt = keysAt(step);
            U32[][] a = [.. Enumerable.Range(0, tile.RowTiles).Select(m => k.LoadMatrix(queryAt + (16 * m * tile.RowBytes), 4))];
            for (int n = 0; n < tile.Positions / 8; n += 2)
            {
                U32[] b = k.LoadMatrix(keyAt + (8 * n * tile.RowBytes), 4);
                for (int m = 0; m < tile.RowTiles; m++)
                {
                    k.Mma(shape.Operands, scores[m][n], a[m], b.AsSpan(0, 2));
                    k.Mma(shape.Operands, scores[m][n + 1], a[m], b.AsSpan(2, 2));
                }
            }
        }

        return scores;
    }

    /// <summary>Takes away what a row must not see: behind the block's first token, which few tiles reach, and, if there is a window, before it.</summary>
    private void Mask(F32[][][] scores, U32 position, U32 first)
    {
        using (k.If(position + (tile.Positions - 1) > (shape.SlidingWindow > 0 ? (U32)0 : first), uniform: true))
        {
            for (int n = 0; n < tile.Positions / 8; n++)
            {
                for (int c = 0; c < 2; c++)
                {
                    U32 at = position + ((k.Lane & 3) * 2) + ((8 * n) + c);
                    for (int m = 0; m < tile.RowTiles; m++)
                    {
                        for (int h = 0; h < 2; h++)
                        {
                            Pred hidden = at > _positions[m][h];
                            if (shape.SlidingWindow > 0)
                                hidden |= at + shape.SlidingWindow <= _positions[m][h];
                            F32 score = scores[m][n][(2 * h) + c];
                            k.Set(score, k.Select<F32>(hidden, float.NegativeInfinity, score));
                        }
                    }
                }
            }
        }
    }

    /// <summary>Scores become weights 2^(scale (score - maximum)), and what was summed before is scaled down to a maximum that has risen.</summary>
    private void Weigh(F32[][][] scores)
    {
        for (int m = 0; m < tile.RowTiles; m++)
        {
            F32[] shrink = new F32[2];
            for (int h = 0; h < 2; h++)
            {
                F32 maximum = _maxima[m][h];
                foreach (F32[] fragment in scores[m])
                    maximum = k.Max(maximum, k.Max(fragment[2 * h], fragment[(2 * h) + 1]));
                maximum = k.MaxLanes(maximum, 4);
                // A row whose window begins behind this tile has seen nothing yet.
                F32 reference = shape.SlidingWindow == 0 ? maximum : k.Select<F32>(maximum.Is(float.NegativeInfinity), 0f, maximum);
                F32 offset = reference * -shape.ScoreScale;
                shrink[h] = k.Exp2(k.Fma(_maxima[m][h], shape.ScoreScale, offset));
                k.Set(_maxima[m][h], maximum);
                k.MultiplyInto(_weights[m][h], shrink[h]);
                foreach (F32[] fragment in scores[m])
                {
                    for (int c = 2 * h; c < (2 * h) + 2; c++)
                    {
                        k.Set(fragment[c], k.Exp2(k.Fma(fragment[c], shape.ScoreScale, offset)));
                        k.AddInto(_weights[m][h], fragment[c]);
                    }
                }
            }

            using (k.If(k.Any((shrink[0] < 1f) | (shrink[1] < 1f)), uniform: true))
            {
                foreach (F32[] fragment in _sums[m])
                {
                    for (int c = 0; c < 4; c++)
                        k.MultiplyInto(fragment[c], shrink[c / 2]);
                }
            }
        }
    }

    /// <summary>O += P V: the C fragments of the weights are A fragments as they lie.</summary>
    private void AddValues(F32[][][] weights, Shared values)
    {
        Func<int, Shared> valuesAt = tile.Steps(values, k.Lane & 15, k.Lane >> 4); // ldmatrix addresses, transposed: sixteen positions, two eights of columns
        for (int step = 0; step < tile.Positions / 16; step++)
        {
            U32[][] a = [.. weights.Select(w => (U32[])[Packed(w[2 * step], 0), Packed(w[2 * step], 2), Packed(w[(2 * step) + 1], 0), Packed(w[(2 * step) + 1], 2)])];
            for (int pair = 0; pair < _columnTiles; pair++)
            {
                U32[] b = k.LoadMatrix(valuesAt(pair) + (16 * step * tile.RowBytes), 4, transposed: true);
                for (int m = 0; m < tile.RowTiles; m++)
                {
                    k.Mma(shape.Operands, _sums[m][2 * pair], a[m], b.AsSpan(0, 2));
                    k.Mma(shape.Operands, _sums[m][(2 * pair) + 1], a[m], b.AsSpan(2, 2));
                }
            }
        }

        U32 Packed(F32[] fragment, int c) => k.Pack(shape.Operands, fragment[c], fragment[c + 1], saturate: false).AsU32;
    }

    private void StoreRows(Global attended, U32 firstRow, U32 rows)
    {
        for (int m = 0; m < tile.RowTiles; m++)
        {
            for (int h = 0; h < 2; h++)
            {
                U32 row = firstRow + Row(m, h);
                F32 inverse = k.Reciprocal(k.SumLanes(_weights[m][h], 4));
                Global to = attended.At(row / _group, shape.Heads * shape.HeadDim * sizeof(ushort)).At(((row % _group) * (shape.HeadDim / 2)) + (k.Lane & 3), 2 * sizeof(ushort));
                for (int n = 0; n < _sums[m].Length; n++)
                {
                    F32[] sums = _sums[m][n];
                    k.Store(to + (8 * n * sizeof(ushort)), k.Pack(shape.Type, sums[2 * h] * inverse, sums[(2 * h) + 1] * inverse).AsU32, row < rows);
                }
            }
        }
    }
}
