using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Writes <see cref="PrefillAttentionKernel"/> with products of warps, mma.</summary>
internal sealed class PrefillEmission(PtxBuilder k, AttentionShape shape, PrefillTile tile)
{
    private readonly int _columnTiles = shape.HeadDim / 16;

    public void Emit()
    {
        var arguments = new AttentionArguments(k);
        k.WaitForPreviousKernel();
        k.LetNextKernelStart();
        var block = new PrefillBlock(k, shape, arguments, tile.Rows, k.BlockX, k.BlockY, k.BlockZ);
        k.ReturnIf(block.IsEmpty);
        Shared queries = tile.Allocate(k, tile.Rows);
        var keys = new PrefillCopies(k, block, tile, areKeys: true);
        var values = new PrefillCopies(k, block, tile, areKeys: false);
        U32 position = k.Variable(block.From / tile.Positions * tile.Positions);
        keys.Start(position);

        block.StoreQueries(0, tile.Rows, k.Thread, k.Threads, (row, chunk) => tile.At(queries, row, chunk));
        var rows = new PrefillRows(k, shape, tile.RowTiles, k.Warp * tile.WarpRows);
        rows.Reset(block);
        k.Barrier(); // queries and bias are seen

        using (k.While(() => position <= block.Last))
        {
            keys.Finish(position);
            values.Start(position);
            F32[][][] scores = Scores(queries, keys.Rows);
            values.Finish(position);
            U32 next = position + tile.Positions;
            using (k.If(next <= block.Last, uniform: true))
                keys.Start(next);
            using (k.If(position + (tile.Positions - 1) > (shape.SlidingWindow > 0 ? (U32)0 : block.First), uniform: true)) // few tiles reach behind the first token
                rows.Mask(scores, position);
            for (int m = 0; m < tile.RowTiles; m++)
                rows.Shrink(rows.Weigh(scores[m], m), m);
            AddValues(rows, scores, values.Rows);
            k.Set(position, next);
        }

        rows.Store(block);
    }

    /// <summary>S = Q K^T: C fragments [sixteenth of rows][eight positions].</summary>
    private F32[][][] Scores(Shared queries, Shared keys)
    {
        F32[][][] scores = [.. Enumerable.Range(0, tile.RowTiles).Select(_ => PrefillRows.Variables(k, tile.Positions / 8, 4))];
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

    /// <summary>O += P V.</summary>
    private void AddValues(PrefillRows rows, F32[][][] weights, Shared values)
    {
        Func<int, Shared> valuesAt = tile.Steps(values, k.Lane & 15, k.Lane >> 4); // ldmatrix addresses, transposed: sixteen positions, two eights of columns
        for (int step = 0; step < tile.Positions / 16; step++)
        {
            U32[][] a = [.. weights.Select(w => rows.Operand(w, step))];
            for (int pair = 0; pair < _columnTiles; pair++)
            {
                U32[] b = k.LoadMatrix(valuesAt(pair) + (16 * step * tile.RowBytes), 4, transposed: true);
                for (int m = 0; m < tile.RowTiles; m++)
                {
                    k.Mma(shape.Operands, rows.Sums[m][2 * pair], a[m], b.AsSpan(0, 2));
                    k.Mma(shape.Operands, rows.Sums[m][(2 * pair) + 1], a[m], b.AsSpan(2, 2));
                }
            }
        }
    }
}
