using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The ring of a <see cref="GemmEmission"/> in shared memory: in a stage's slot x, then each tile's pieces, then their scales.</summary>
/// <param name="Start">The first slot.</param>
/// <param name="PiecesAt">Where pieces begin in a slot.</param>
/// <param name="ScalesAt">Where scales begin in a slot.</param>
/// <param name="PieceBytes">Of a tile.</param>
internal readonly record struct GemmRing(Shared Start, int PiecesAt, int ScalesAt, int PieceBytes);

/// <summary>What brings weights and x to the ring, stage after stage of a block's run, from its last to its first.</summary>
internal sealed class GemmCopies
{
    private readonly PtxBuilder _k;
    private readonly GemmWeights _weights;
    private readonly MatrixLayout _layout;
    private readonly GemmTiling _tiling;
    private readonly GemmRing _ring;
    private readonly Global _x;
    private readonly U32 _inputs, _rows, _stages, _tile, _stage, _left, _rowsHere;
    private readonly Func<U32, U32> _sixteen, _firstRow;
    private readonly Global[] _at; // the warp's weights
    private readonly Global _rowOfX;
    private readonly U32 _to;

    /// <summary>Warps that copy x: the swizzle repeats itself after eight rows.</summary>
    private int CopyWarps => _tiling.Warps / 8 * 8;

    public GemmCopies(
        PtxBuilder k, GemmWeights weights, MatrixLayout layout, GemmTiling tiling, GemmRing ring, Global x, U32 inputs, U32 rows, U32 stages,
        U32 tile, U32 stage, U32 left, Func<U32, U32> sixteen, Func<U32, U32> firstRow)
    {
        (_k, _weights, _layout, _tiling, _ring, _x, _inputs, _rows, _stages, _sixteen, _firstRow) = (k, weights, layout, tiling, ring, x, inputs, rows, stages, sixteen, firstRow);
        (_tile, _stage, _left) = (k.Variable(tile), k.Variable(stage), k.Variable(left));
        _at = [.. weights.At(sixteen(tile)).Select(at => new Global(k.Variable(at.Base), at.Offset))];
        _rowOfX = new Global(k.Variable<U64>());
        _rowsHere = k.Variable<U32>();
        SetRows();
        // A warp copies a row's 64 inputs at a time, a word a lane.
        (U32 chunk, U32 place) = weights.Deal(k.Lane);
        _to = layout.Offset(k.Warp, chunk) + (place * 4);
    }

    /// <summary>Brings the weights of the first stages to L2, as far as they are of the first tile.</summary>
    public void Prefetch(int stages)
    {
        for (int i = 0; i < stages; i++)
        {
            Pred exists = (_stage >= i) & (_left > i);
            _weights.Prefetch(_at, _stage - i, exists);
        }
    }

    /// <summary>Copies the next stage, if there is one, to a slot; a group of copies in any case. No branches: products may be under way.</summary>
    public void Copy(U32 slot)
    {
        Shared at = _ring.Start + slot;
        _weights.Copy(_at, _stage, (at + _ring.PiecesAt).At(_k.Warp, _ring.PieceBytes).At(_k.Lane, 16), (at + _ring.ScalesAt).At(_k.Warp, _weights.ScaleBytes), _left > 0);
        CopyRows(at);
        _k.CommitCopies();
    }

    /// <summary>On to the stage after.</summary>
    public void Advance()
    {
        _k.Set(_left, _k.Max(_left, 1) - 1);
        using (_k.If(_stage.Is(0) | _left.Is(0), uniform: true))
        {
            _k.Set<U32>(_rowsHere, 0);
            using (_k.If(_left > 0, uniform: true))
            {
                _k.Set(_stage, _stages);
                _k.Set(_tile, _tile - 1);
                Global[] next = _weights.At(_sixteen(_tile));
                for (int i = 0; i < next.Length; i++)
                    _k.Set(_at[i].Base, next[i].Base);
                SetRows();
            }
        }

        _k.Set(_stage, _stage - 1);
    }

    private void SetRows()
    {
        U32 row = _firstRow(_tile) + _k.Warp, first = _k.Min(_tiling.Warps == CopyWarps ? row : _k.Select(_k.Warp < CopyWarps, row, _rows), _rows);
        _k.Set(_rowOfX.Base, _x.At(first, _inputs * 2).Base);
        _k.Set(_rowsHere, _rows - first);
    }

    private void CopyRows(Shared at)
    {
        int panels = _weights.StageInputs / 64;
        U64 stride = _k.MultiplyWide(_inputs, 2 * CopyWarps);
        U32 first = (_stage * (_weights.StageInputs * 2)) + (_k.Lane * 4); // byte of a row
        U32[]? valid = _weights.HasWholeStages ? null : [.. Enumerable.Range(0, panels).Select(panel => _k.Select<U32>(first + (panel * 128) < _inputs * 2, 4, 0))];
        Global row = _rowOfX.At(first, 1);
        for (int r = 0; r < _tiling.Rows; r += CopyWarps)
        {
            Pred exists = _rowsHere > r;
            for (int panel = 0; panel < panels; panel++)
                _k.CopyAsync(at + _to + ((panel * _layout.PanelBytes) + (r * _layout.PanelWidth)), row + (panel * 128), 4, valid?[panel], exists);
            row += stride;
        }
    }
}
