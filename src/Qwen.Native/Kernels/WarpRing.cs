using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// The weights of a product of few tokens on their way to a warp. The rows of a matrix (groups of outputs) are dealt to the blocks in turn, the
/// units of a row (stretches of inputs) to the warps of a block. Each warp has a ring of slots in shared memory, which cp.async fills with the units
/// to come, past the ends of rows: it waits for the oldest alone, and never for another warp.
/// </summary>
/// <remarks>
/// So memory is asked for the same number of bytes all the time, and registers hold none of them. A lane that reads what it copied itself needs no
/// more than that wait; what others copied it sees after the warp's barrier.
/// </remarks>
internal sealed class WarpRing
{
    private readonly PtxBuilder _k;
    private readonly Shared _first; // slot; this lane's first 16 bytes
    private readonly U32 _groups, _units, _taken, _filled, _end;
    private readonly int _slots, _slotBytes;

    /// <summary>Takes its shared memory.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="tiling">Warps and slots.</param>
    /// <param name="slotBytes">Bytes of a unit, a multiple of 16.</param>
    /// <param name="groups">Rows of the matrix.</param>
    /// <param name="units">Units of a row.</param>
    public WarpRing(PtxBuilder k, GemvTiling tiling, int slotBytes, U32 groups, U32 units)
    {
        (_k, _slots, _slotBytes, _groups, _units) = (k, tiling.Slots, slotBytes, groups, units);
        _first = k.AllocateShared(k.Warps * _slots * slotBytes).At(k.Warp, _slots * slotBytes).At(k.Lane, 16);
        (_taken, _filled, _end) = (k.Variable(_first.Base), k.Variable(_first.Base + ((_slots - 1) * slotBytes)), _first.Base + (_slots * slotBytes));
        FillGroup = k.Variable(k.Select(k.Warp < units, k.BlockX, groups)); // a warp without units has nothing to fill
        FillUnit = k.Variable(k.Warp);
    }

    /// <summary>The row of the unit that is copied next.</summary>
    public U32 FillGroup { get; }

    /// <summary>The unit that is copied next.</summary>
    public U32 FillUnit { get; }

    /// <summary>Starts the copies of a unit to a slot, of which this lane's first 16 bytes are given, where there is one.</summary>
    public required Action<Shared, Pred> Copy { get; init; }

    /// <summary>Finds the row that is copied next.</summary>
    public required Action StartRow { get; init; }

    /// <summary>Starts copying as much as the ring holds.</summary>
    public void Prefill()
    {
        StartRow();
        for (int slot = 0; slot < _slots - 1; slot++)
            Fill(_first + (slot * _slotBytes));
    }

    /// <summary>The rows of this block.</summary>
    public PtxBuilder.Scope Rows(out U32 group)
    {
        U32 row = group = _k.Variable(_k.BlockX);
        PtxBuilder.Scope loop = _k.While(() => row < _groups);
        return new PtxBuilder.Scope(() =>
        {
            _k.Set(row, row + _k.GridX);
            loop.Dispose();
        });
    }

    /// <summary>The units of this warp in a row, of which a few in turn have an x of their own in registers.</summary>
    /// <param name="turns">How many.</param>
    /// <param name="multiply">Given where the unit is (this lane's first 16 bytes), the unit, whose turn it is, and the unit that is next in that turn: of the next row after the last.</param>
    public void Units(int turns, Action<Shared, U32, int, U32> multiply)
    {
        U32 current = _k.Variable(_k.Warp);
        using (_k.While(() => current < _units))
        {
            for (int turn = 0; turn < turns; turn++)
            {
                PtxBuilder.Scope? exists = turn > 0 ? _k.If(current < _units, uniform: true) : null;
                _k.WaitForCopies(_slots - 2);
                _k.WarpBarrier(); // and all lanes are done with the slot that is filled now
                Fill(new Shared(_filled, _first.Offset));
                U32 following = current + (turns * _k.Warps);
                multiply(new Shared(_taken, _first.Offset), current, turn, _k.Select(following < _units, following, First(turn)));
                _k.Set(_filled, _taken);
                _k.Set(_taken, _taken + _slotBytes);
                _k.Set(_taken, _k.Select(_taken.Is(_end), _first.Base, _taken));
                _k.Set(current, current + _k.Warps);
                exists?.Dispose();
            }
        }
    }

    /// <summary>The unit of a row that has a turn first. There may be none: then it is beyond the row.</summary>
    public U32 First(int turn) => turn == 0 ? _k.Warp : _k.Warp + (turn * _k.Warps);

    private void Fill(Shared slot)
    {
        Copy(slot, FillGroup < _groups);
        _k.CommitCopies();
        _k.Set(FillUnit, FillUnit + _k.Warps);
        using (_k.If(FillUnit >= _units, uniform: true))
        {
            _k.Set(FillUnit, _k.Warp);
            _k.Set(FillGroup, FillGroup + _k.GridX);
            StartRow();
        }
    }
}
