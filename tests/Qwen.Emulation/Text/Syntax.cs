namespace Qwen.Emulation.Text;

internal enum TypeKind
{
    Predicate,
    Bits,
    Unsigned,
    Signed,
    Float,
}

/// <summary>A type of PTX: <c>.u32</c>, <c>.b16</c>, <c>.bf16x2</c>.</summary>
internal readonly record struct PtxType(TypeKind Kind, int Bits, string Name)
{
    public static PtxType Predicate { get; } = new(TypeKind.Predicate, 1, "pred");

    public static PtxType B16 { get; } = new(TypeKind.Bits, 16, "b16");

    public static PtxType B32 { get; } = new(TypeKind.Bits, 32, "b32");

    public static PtxType B64 { get; } = new(TypeKind.Bits, 64, "b64");

    public int Bytes => Bits / 8;

    public bool IsSigned => Kind == TypeKind.Signed;

    public static PtxType? Find(string name) => name switch
    {
        "pred" => Predicate,
        "b8" or "b16" or "b32" or "b64" => new(TypeKind.Bits, Width(name), name),
        "u8" or "u16" or "u32" or "u64" => new(TypeKind.Unsigned, Width(name), name),
        "s8" or "s16" or "s32" or "s64" => new(TypeKind.Signed, Width(name), name),
        "f16" or "f32" or "f64" => new(TypeKind.Float, Width(name), name),
        "bf16" or "e4m3x2" or "e5m2x2" => new(TypeKind.Float, 16, name),
        "f16x2" or "bf16x2" or "tf32" => new(TypeKind.Float, 32, name),
        _ => null,
    };

    private static int Width(string name) => int.Parse(name.AsSpan(1));
}

/// <summary>A declared register.</summary>
internal sealed class PtxRegister(string name, PtxType type)
{
    public string Name { get; } = name;

    public PtxType Type { get; } = type;
}

internal enum StateSpace
{
    Generic,
    Global,
    Shared,
    Local,
    Constant,
    Parameter,
}

/// <summary>A declared variable; <paramref name="Bytes"/> is 0 for the dynamic shared memory of a launch.</summary>
internal sealed record PtxVariable(string Name, StateSpace Space, int Alignment, int Bytes, byte[]? Initial, int Line);

/// <summary>A parameter of an entry and its place in the parameter bytes.</summary>
internal sealed record PtxParameter(string Name, PtxType Type, int Offset, int Bytes);

internal abstract record Operand;

internal sealed record RegisterOperand(PtxRegister Register, bool Negated) : Operand;

internal sealed record SpecialOperand(string Name) : Operand;

/// <summary>A number; <paramref name="Float"/> is the value where it is written as one, <paramref name="Bits"/> its bits at its own width otherwise.</summary>
internal sealed record NumberOperand(ulong Bits, double? Float) : Operand;

/// <summary>A label or a variable, with a distance in bytes.</summary>
internal sealed record NameOperand(string Name, long Offset) : Operand;

internal sealed record AddressOperand(Operand Base, long Offset) : Operand;

internal sealed record VectorOperand(IReadOnlyList<Operand> Items) : Operand;

/// <summary>Two destinations: <c>%r1|%p1</c>.</summary>
internal sealed record PairOperand(Operand First, Operand Second) : Operand;

/// <summary>A destination nobody reads: <c>_</c>.</summary>
internal sealed record SinkOperand : Operand;

/// <summary>A block of text between braces: what is declared in it is known in it.</summary>
internal sealed class Scope(Scope? outer)
{
    public Scope? Outer { get; } = outer;

    public Dictionary<string, int> Labels { get; } = [];

    public Dictionary<string, PtxRegister> Registers { get; } = [];

    public Dictionary<string, (PtxType Type, int Count)> RegisterFamilies { get; } = [];

    public int? Label(string name)
    {
        for (Scope? scope = this; scope is not null; scope = scope.Outer)
        {
            if (scope.Labels.TryGetValue(name, out int at))
                return at;
        }

        return null;
    }
}

internal sealed record PtxInstruction(int Line, string Text, PtxRegister? Guard, bool GuardNegated, string Opcode, IReadOnlyList<Operand> Operands, Scope Scope);

internal sealed class PtxEntry(string name, int line)
{
    public string Name { get; } = name;

    public int Line { get; } = line;

    public List<PtxParameter> Parameters { get; } = [];

    public int ParameterBytes { get; set; }

    public List<PtxVariable> Variables { get; } = [];

    public List<PtxInstruction> Instructions { get; } = [];

    /// <summary>The most threads a block may have (<c>.maxntid</c>), 0 if the text doesn't say.</summary>
    public int MaxThreads { get; set; }

    /// <summary>Blocks that shall fit a multiprocessor (<c>.minnctapersm</c>), 0 if the text doesn't say.</summary>
    public int BlocksPerMultiprocessor { get; set; }

    /// <summary>Whether a block has exactly <see cref="MaxThreads"/> (<c>.reqntid</c>).</summary>
    public bool ExactThreads { get; set; }
}

internal sealed class PtxModule
{
    /// <summary>Times ten.</summary>
    public int Version { get; set; }

    /// <summary><c>sm_80</c></summary>
    public string Target { get; set; } = "";

    public List<PtxEntry> Entries { get; } = [];

    public List<PtxVariable> Variables { get; } = [];
}
