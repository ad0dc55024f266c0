using Qwen.Emulation.Text;

namespace Qwen.Emulation.Programs;

/// <summary>Where an instruction finds a source: 32 lanes at a distance in a warp's register file, and the slot that says which lanes were written.</summary>
internal readonly record struct Source(int Offset, int Slot, int Bits);

/// <summary>Where an instruction leaves a result; a negative offset for nowhere.</summary>
internal readonly record struct Target(int Offset, int Slot, int Bits);

/// <summary>A register of a <c>wgmma</c> product: its row, and its number among all such.</summary>
internal readonly record struct ProductRow(Source Row, int Index);

/// <summary>A predicate to read: its index and whether it is negated. A negative index is the constant true.</summary>
internal readonly record struct PredicateSource(int Index, bool Negated);

/// <summary>
/// The register file of a warp: a row of 32 lanes for each register, 32 bits wide (64 for 64-bit registers), so that an instruction runs
/// over vectors. Numbers and special registers are rows too, filled in when a warp is set up, so that every source is read alike.
/// </summary>
internal sealed class RegisterLayout
{
    private readonly Dictionary<PtxRegister, Source> _rows = [];
    private readonly Dictionary<(ulong Bits, int Width), Source> _constants = [];
    private readonly Dictionary<string, Source> _specials = [];
    private readonly Dictionary<PtxRegister, int> _predicates = [];

    public RegisterLayout() => Zero = Constant(0, 64);

    /// <summary>A row of zeros, for sources an instruction lacks.</summary>
    public Source Zero { get; }

    public int Bytes { get; private set; }

    public int Slots { get; private set; }

    /// <summary>Registers that <c>wgmma</c> products use.</summary>
    public List<Source> Products { get; } = [];

    public int PredicateCount => _predicates.Count;

    /// <summary>32-bit registers a thread uses.</summary>
    public int RegisterCount => _rows.Values.Sum(r => r.Bits == 64 ? 2 : 1);

    public IEnumerable<(ulong Bits, Source Row)> Constants => _constants.Select(c => (c.Key.Bits, c.Value));

    public IEnumerable<(string Name, Source Row)> Specials => _specials.Select(s => (s.Key, s.Value));

    public Source Row(PtxRegister register)
    {
        if (!_rows.TryGetValue(register, out Source row))
            _rows.Add(register, row = Add(register.Type.Bits));
        return row;
    }

    public Source Constant(ulong bits, int width)
    {
        bits &= width >= 64 ? ulong.MaxValue : (1UL << width) - 1;
        int stored = width == 64 ? 64 : 32;
        if (!_constants.TryGetValue((bits, stored), out Source row))
            _constants.Add((bits, stored), row = Add(stored));
        return row;
    }

    public Source? Special(string name)
    {
        if (_specials.TryGetValue(name, out Source row))
            return row;
        if (!SpecialRegisters.IsKnown(name))
            return null;
        _specials.Add(name, row = Add(SpecialRegisters.Bits(name)));
        return row;
    }

    public int Predicate(PtxRegister register)
    {
        if (!_predicates.TryGetValue(register, out int index))
            _predicates.Add(register, index = _predicates.Count);
        return index;
    }

    /// <summary>Notes that a <c>wgmma</c> product uses a register.</summary>
    public ProductRow Product(Source row)
    {
        int index = Products.IndexOf(row);
        if (index < 0)
        {
            index = Products.Count;
            Products.Add(row);
        }

        return new(row, index);
    }

    private Source Add(int bits)
    {
        Source row = new(Bytes, Slots++, bits);
        Bytes += bits == 64 ? 256 : 128;
        return row;
    }
}
