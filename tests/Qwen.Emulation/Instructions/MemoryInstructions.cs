using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>Decodes <c>ld</c>, <c>st</c> and asynchronous copies (PTX ISA, "Data Movement and Conversion Instructions").</summary>
internal static class MemoryInstructions
{
    public static Addressing Addressing(this Decoder d, int operand, StateSpace space)
    {
        (Source row, long offset) = d.Address(operand);
        return new(row, offset, space);
    }

    public static Instruction Load(Decoder d)
    {
        bool ordered = d.TakeAny("relaxed", "acquire", "volatile", "weak") is { } order && order != "weak";
        d.TakeAny("cta", "gpu", "sys", "cluster");
        StateSpace space = Space(d);
        d.Take("nc");
        d.TakeAny("ca", "cg", "cs", "lu", "cv");
        d.TakeHints();
        bool hinted = d.Take("L2::cache_hint");
        int vector = d.TakeAny("v2", "v4") is { } v ? v[1] - '0' : 1;
        PtxType type = d.TakeType();
        d.Expect(hinted ? 3 : 2);
        Operand[] items = d.Vector(0);
        if (items.Length != vector || type.Bytes * vector > 16 || type.Bytes == 0)
            throw d.Error($"{vector} registers of at most 16 bytes are expected.");
        Target[] to = [.. items.Select(o => d.Write(o, type, wider: true))];
        if (hinted)
            d.Read(2, PtxType.B64);
        if (space == StateSpace.Parameter)
            return Parameter(d, type, to);
        return new Load(d.Addressing(1, space), type, to, ordered && space != StateSpace.Shared);
    }

    public static Instruction Store(Decoder d)
    {
        bool ordered = d.TakeAny("relaxed", "release", "volatile", "weak") is { } order && order != "weak";
        d.TakeAny("cta", "gpu", "sys", "cluster");
        StateSpace space = Space(d);
        d.TakeAny("wb", "cg", "cs", "wt");
        d.TakeHints();
        bool hinted = d.Take("L2::cache_hint");
        int vector = d.TakeAny("v2", "v4") is { } v ? v[1] - '0' : 1;
        PtxType type = d.TakeType();
        d.Expect(hinted ? 3 : 2);
        Operand[] items = d.Vector(1);
        if (items.Length != vector || type.Bytes * vector > 16 || type.Bytes == 0)
            throw d.Error($"{vector} registers of at most 16 bytes are expected.");
        if (space is StateSpace.Parameter or StateSpace.Constant)
            throw d.Error("parameters and constants are not written.");
        return new Store(d.Addressing(0, space), type, [.. items.Select(o => d.Read(o, type, wider: true))], ordered && space != StateSpace.Shared);
    }

    private static LoadParameter Parameter(Decoder d, PtxType type, Target[] to)
    {
        if (d.At(1) is not AddressOperand { Base: NameOperand name } address || !d.Scope.Parameters.TryGetValue(name.Name, out PtxParameter? parameter))
            throw d.Error("the parameter is not declared.");
        int bytes = type.Bytes * to.Length;
        if (address.Offset < 0 || address.Offset + bytes > parameter.Bytes || (parameter.Offset + address.Offset) % bytes != 0)
            throw d.Error($"{bytes} bytes at {address.Offset} are not in the parameter {name.Name} of {parameter.Bytes} bytes, or not aligned.");
        return new(parameter.Offset + (int)address.Offset, type, to);
    }

    private static StateSpace Space(Decoder d) => d.TakeAny("global", "shared", "shared::cta", "local", "const", "param") switch
    {
        "global" => StateSpace.Global,
        "shared" or "shared::cta" => StateSpace.Shared,
        "local" => StateSpace.Local,
        "const" => StateSpace.Constant,
        "param" => StateSpace.Parameter,
        _ => StateSpace.Generic,
    };
}
