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

    /// <summary>The units of this warp in a row.</summary>
    /// <param name="slot">Where it is: this lane's first 16 bytes.</param>
    /// <param name="unit">The unit.</param>
    /// <param name="next">The one after it; the first of a row after the last.</param>
    public PtxBuilder.Scope Units(out Shared slot, out U32 unit, out U32 next)
    {
        U32 current = unit = _k.Variable(_k.Warp);
        PtxBuilder.Scope loop = _k.While(() => current < _units);
        U32 following = current + _k.Warps;
        next = _k.Select(following < _units, following, _k.Warp);
        _k.WaitForCopies(_slots - 2);
        _k.WarpBarrier(); // and all lanes are done with the slot that is filled now
        Fill(new Shared(_filled, _first.Offset));
        slot = new Shared(_taken, _first.Offset);
        return new PtxBuilder.Scope(() =>
        {
            _k.Set(_filled, _taken);
            _k.Set(_taken, _taken + _slotBytes);
            _k.Set(_taken, _k.Select(_taken.Is(_end), _first.Base, _taken));
            _k.Set(current, following);
            loop.Dispose();
        });
    }

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
