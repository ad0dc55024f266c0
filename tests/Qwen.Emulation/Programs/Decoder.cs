using Qwen.Emulation.Text;

namespace Qwen.Emulation.Programs;

/// <summary>
/// One instruction on its way from text to a decoded <see cref="Instructions.Instruction"/>: takes modifiers off the opcode, binds operands to rows of the
/// register file and checks their types as the assembler does. Modifiers that nobody took are an error, so nothing is skipped silently.
/// </summary>
internal sealed class Decoder
{
    private readonly EntryScope _scope;
    private readonly List<string> _modifiers;

    public Decoder(PtxInstruction instruction, EntryScope scope)
    {
        _scope = scope;
        Instruction = instruction;
        string[] parts = instruction.Opcode.Split('.');
        Name = parts[0];
        _modifiers = [.. parts.Skip(1)];
    }

    public PtxInstruction Instruction { get; }

    public string Name { get; }

    public int Count => Instruction.Operands.Count;

    public RegisterLayout Layout => _scope.Layout;

    public EntryScope Scope => _scope;

    public bool Has(string modifier) => _modifiers.Contains(modifier);

    public bool Take(string modifier) => _modifiers.Remove(modifier);

    public string? TakeAny(params ReadOnlySpan<string> modifiers)
    {
        foreach (string modifier in modifiers)
        {
            if (Take(modifier))
                return modifier;
        }

        return null;
    }

    /// <summary>Takes what only guides caches and ordering of a machine that runs one instruction after the other.</summary>
    public void TakeHints()
    {
        _modifiers.RemoveAll(m => m.StartsWith("L1::", StringComparison.Ordinal) || m is "L2::64B" or "L2::128B" or "L2::256B" or "L2::evict_last"
            or "L2::evict_normal" or "L2::evict_first");
    }

    /// <summary>The types among the modifiers, in order.</summary>
    public PtxType[] TakeTypes()
    {
        PtxType[] types = [.. _modifiers.Select(PtxType.Find).OfType<PtxType?>().Select(t => t!.Value)];
        _modifiers.RemoveAll(m => PtxType.Find(m) is not null);
        return types;
    }

    public PtxType TakeType()
    {
        PtxType[] types = TakeTypes();
        return types.Length == 1 ? types[0] : throw Error("the instruction needs one type.");
    }

    public void Finish()
    {
        if (_modifiers.Count > 0)
            throw Error($"the modifier .{_modifiers[0]} is not known here.");
    }

    public void Expect(int least, int most = -1)
    {
        if (Count < least || Count > Math.Max(least, most))
            throw Error($"{least}{(most > least ? $" to {most}" : "")} operands are expected, not {Count}.");
    }

    public Source Read(int operand, PtxType type, bool wider = false) => Read(At(operand), type, wider);

    public Source Read(Operand operand, PtxType type, bool wider = false)
    {
        switch (operand)
        {
            case RegisterOperand { Negated: false } register:
                Check(register.Register, type, wider);
                return Layout.Row(register.Register);
            case NumberOperand number:
                return Layout.Constant(Number(number, type), Math.Max(type.Bits, 8));
            case NameOperand name:
                if (type.Bits is not (32 or 64) || type.Kind == TypeKind.Float)
                    throw Error($"the address of {name.Name} is no {type.Name}.");
                return Layout.Constant(unchecked(Address(name.Name) + (ulong)name.Offset), type.Bits);
            case SpecialOperand special:
                Source row = Layout.Special(special.Name) ?? throw Error($"the register {special.Name} is not declared.");
                return row.Bits == Math.Max(type.Bits, 32) || (wider && row.Bits > type.Bits) ? row : throw Error($"{special.Name} is no {type.Name}.");
            default:
                throw Error("an operand is not of a kind that fits here.");
        }
    }

    public Target Write(int operand, PtxType type, bool wider = false) => Write(At(operand), type, wider);

    public Target Write(Operand operand, PtxType type, bool wider = false)
    {
        if (operand is SinkOperand)
            return new(-1, -1, Math.Max(type.Bits, 32));
        if (operand is not RegisterOperand { Negated: false } register)
            throw Error("the destination is no register.");
        Check(register.Register, type, wider);
        Source row = Layout.Row(register.Register);
        return new(row.Offset, row.Slot, row.Bits);
    }

    public PredicateSource ReadPredicate(int operand)
    {
        return At(operand) switch
        {
            RegisterOperand { Register.Type.Kind: TypeKind.Predicate } register => new(Layout.Predicate(register.Register), register.Negated),
            NumberOperand { Float: null, Bits: 0 or 1 } number => new(-1, number.Bits == 0),
            _ => throw Error("a predicate is expected."),
        };
    }

    /// <summary>The index of a destination predicate; -1 for nowhere.</summary>
    public int WritePredicate(Operand operand)
    {
        return operand switch
        {
            SinkOperand => -1,
            RegisterOperand { Negated: false, Register.Type.Kind: TypeKind.Predicate } register => Layout.Predicate(register.Register),
            _ => throw Error("a predicate is expected as the destination."),
        };
    }

    public Operand At(int operand) => operand < Count ? Instruction.Operands[operand] : throw Error("an operand is missing.");

    public Operand[] Vector(int operand) => At(operand) is VectorOperand vector ? [.. vector.Items] : [At(operand)];

    public bool IsPredicate(int operand) => operand < Count && At(operand) is RegisterOperand { Register.Type.Kind: TypeKind.Predicate };

    public ulong Number(int operand) => At(operand) is NumberOperand { Float: null } number ? number.Bits : throw Error("a number is expected.");

    public int LabelAt(int operand) =>
        At(operand) is NameOperand { Offset: 0 } name && Instruction.Scope.Label(name.Name) is { } at ? at : throw Error("the label is not there.");

    /// <summary>Binds an address operand: the row that holds it (32 or 64 bits) and the distance from it.</summary>
    public (Source Row, long Offset) Address(int operand)
    {
        if (At(operand) is not AddressOperand address)
            throw Error("an address in brackets is expected.");
        switch (address.Base)
        {
            case RegisterOperand { Negated: false, Register.Type: { Bits: 32 or 64, Kind: not TypeKind.Float } } register:
                return (Layout.Row(register.Register), address.Offset);
            case NameOperand name:
                return (Layout.Constant(Address(name.Name), 64), address.Offset + name.Offset);
            case NumberOperand { Float: null } number:
                return (Layout.Constant(number.Bits, 64), address.Offset);
            default:
                throw Error("the address is no 32-bit or 64-bit register, name or number.");
        }
    }

    public PtxException Error(string reason) => new(Instruction.Line, Instruction.Text, reason);

    private ulong Address(string name) => _scope.Symbols.TryGetValue(name, out ulong address) ? address : throw Error($"{name} is not declared.");

    private ulong Number(NumberOperand number, PtxType type)
    {
        if (type.Kind == TypeKind.Float && number.Float is { } value)
        {
            return type.Bits switch
            {
                64 => BitConverter.DoubleToUInt64Bits(value),
                32 when type.Name == "f32" => BitConverter.SingleToUInt32Bits((float)value),
                _ => throw Error($"a {type.Name} is not written as a floating-point number."),
            };
        }

        if (type.Name is "f32" or "f64")
            throw Error("a floating-point number is expected.");
        if (number.Float is not null && type.Kind != TypeKind.Bits)
            throw Error("an integer is expected.");
        long signed = unchecked((long)number.Bits);
        if (type.Bits < 64 && number.Bits >> type.Bits != 0 && signed < -(1L << (type.Bits - 1)))
            throw Error($"the number does not fit {type.Name}.");
        if (type.Bits < 64 && signed > 0 && number.Bits >> type.Bits != 0)
            throw Error($"the number does not fit {type.Name}.");
        return number.Bits;
    }

    private void Check(PtxRegister register, PtxType type, bool wider)
    {
        PtxType have = register.Type;
        bool fits = have.Kind != TypeKind.Predicate && (have.Bits == type.Bits || (wider && have.Bits > type.Bits))
            && !(have.Kind == TypeKind.Float && type.Kind is (TypeKind.Signed or TypeKind.Unsigned))
            && !(type.Kind == TypeKind.Float && have.Kind is (TypeKind.Signed or TypeKind.Unsigned));
        if (!fits)
            throw Error($"the register {register.Name} of type .{have.Name} does not hold a .{type.Name}.");
    }
}

/// <summary>What the instructions of an entry can name: registers, variables (as addresses) and parameters.</summary>
internal sealed record EntryScope(RegisterLayout Layout, IReadOnlyDictionary<string, ulong> Symbols, IReadOnlyDictionary<string, PtxParameter> Parameters)
{
    /// <summary>The carry of <c>add.cc</c> and its like.</summary>
    public PtxRegister CarryFlag { get; } = new("%cc", PtxType.Predicate);
}
