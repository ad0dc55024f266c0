using System.Numerics;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Instructions;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Programs;

/// <summary>The instructions that are known, by name.</summary>
internal static class InstructionSet
{
    private static readonly Dictionary<string, Func<Decoder, Instruction>> ByName = new()
    {
        ["add"] = d => Carry.Is(d) ? Carry.Decode(d, subtract: false) : ByType(d, IntegerInstructions.Add, FloatInstructions.Add),
        ["sub"] = d => Carry.Is(d) ? Carry.Decode(d, subtract: true) : ByType(d, IntegerInstructions.Subtract, FloatInstructions.Subtract),
        ["addc"] = d => Carry.Decode(d, subtract: false),
        ["subc"] = d => Carry.Decode(d, subtract: true),
        ["mul"] = d => ByType(d, IntegerInstructions.Multiply, FloatInstructions.Multiply),
        ["mad"] = d => ByType(d, IntegerInstructions.MultiplyAdd, FloatInstructions.Fma),
        ["fma"] = d => ByType(d, (e, _) => throw e.Error("the type is no floating-point type."), FloatInstructions.Fma),
        ["div"] = d => IsFloat(d) ? FloatInstructions.Divide(d, d.TakeType()) : IntegerInstructions.Divide(d),
        ["rem"] = IntegerInstructions.Remainder,
        ["sad"] = IntegerInstructions.Sad,
        ["min"] = d => ByType(d, IntegerInstructions.Minimum, FloatInstructions.Minimum),
        ["max"] = d => ByType(d, IntegerInstructions.Maximum, FloatInstructions.Maximum),
        ["abs"] = d => ByType(d, IntegerInstructions.Absolute, FloatInstructions.Absolute),
        ["neg"] = d => ByType(d, IntegerInstructions.Negate, FloatInstructions.Negate),
        ["shl"] = d => IntegerInstructions.Shift(d, left: true),
        ["shr"] = d => IntegerInstructions.Shift(d, left: false),
        ["shf"] = IntegerInstructions.FunnelShift,
        ["bfe"] = IntegerInstructions.ExtractField,
        ["bfi"] = IntegerInstructions.InsertField,
        ["popc"] = d => IntegerInstructions.Bits(d, (a, _) => (ulong)BitOperations.PopCount(a), narrow: true),
        ["clz"] = d => IntegerInstructions.Bits(d, (a, t) => (ulong)(BitOperations.LeadingZeroCount(a) - (64 - t.Bits)), narrow: true),
        ["brev"] = d => IntegerInstructions.Bits(d, IntegerInstructions.Reverse, narrow: false),
        ["bfind"] = d =>
        {
            bool shift = d.Take("shiftamt");
            return IntegerInstructions.Bits(d, (a, t) => IntegerInstructions.FindHighest(a, t, shift), narrow: true);
        },
        ["dp4a"] = IntegerInstructions.DotProduct4,
        ["prmt"] = IntegerInstructions.Permute,
        ["lop3"] = IntegerInstructions.Logic3,
        ["and"] = d => IntegerInstructions.Logic(d, (a, b, _) => a & b, (a, b, _, _) => a & b, (a, b) => a & b),
        ["or"] = d => IntegerInstructions.Logic(d, (a, b, _) => a | b, (a, b, _, _) => a | b, (a, b) => a | b),
        ["xor"] = d => IntegerInstructions.Logic(d, (a, b, _) => a ^ b, (a, b, _, _) => a ^ b, (a, b) => a ^ b),
        ["not"] = IntegerInstructions.Not,
        ["rcp"] = FloatInstructions.Reciprocal,
        ["sqrt"] = FloatInstructions.SquareRoot,
        ["rsqrt"] = d => FloatInstructions.Function(d, x => 1 / Math.Sqrt(x)),
        ["ex2"] = d => FloatInstructions.Function(d, x => Math.Pow(2, x)),
        ["lg2"] = d => FloatInstructions.Function(d, Math.Log2),
        ["sin"] = d => FloatInstructions.Function(d, Math.Sin),
        ["cos"] = d => FloatInstructions.Function(d, Math.Cos),
        ["tanh"] = d => FloatInstructions.Function(d, Math.Tanh),
        ["copysign"] = FloatInstructions.CopySign,
        ["testp"] = FloatInstructions.TestProperty,
        ["setp"] = Comparisons.SetPredicate,
        ["selp"] = Comparisons.SelectByPredicate,
        ["slct"] = Comparisons.SelectBySign,
        ["cvt"] = Conversions.Convert,
        ["cvta"] = Moves.ConvertAddress,
        ["mov"] = Moves.Move,
        ["ld"] = MemoryInstructions.Load,
        ["ldu"] = MemoryInstructions.Load,
        ["st"] = MemoryInstructions.Store,
        ["atom"] = d => Atomics.Decode(d, returns: true),
        ["red"] = d => Atomics.Decode(d, returns: false),
        ["prefetch"] = Control.Prefetch,
        ["prefetchu"] = Control.Prefetch,
        ["createpolicy"] = Control.CreatePolicy,
        ["cp"] = AsyncInstructions.Copy,
        ["mbarrier"] = AsyncInstructions.Barrier,
        ["ldmatrix"] = MatrixMoves.Load,
        ["stmatrix"] = MatrixMoves.Store,
        ["movmatrix"] = MatrixMoves.Transpose,
        ["mma"] = MatrixMultiply.Decode,
        ["wgmma"] = WarpgroupMultiply.Decode,
        ["setmaxnreg"] = WarpgroupMultiply.SetRegisters,
        ["shfl"] = WarpInstructions.Shuffle,
        ["vote"] = WarpInstructions.Vote,
        ["match"] = WarpInstructions.Match,
        ["redux"] = WarpInstructions.Reduce,
        ["activemask"] = WarpInstructions.ActiveMask,
        ["elect"] = WarpInstructions.Elect,
        ["bar"] = Control.Barrier,
        ["barrier"] = Control.Barrier,
        ["membar"] = Control.Fence,
        ["fence"] = Control.Fence,
        ["nanosleep"] = Control.NanoSleep,
        ["griddepcontrol"] = Control.GridControl,
        ["bra"] = Control.Branch,
        ["ret"] = Control.Return,
        ["exit"] = Control.Return,
        ["trap"] = _ => new Trap(),
    };

    public static Instruction Decode(PtxInstruction text, EntryScope scope)
    {
        Decoder decoder = new(text, scope);
        if (!ByName.TryGetValue(decoder.Name, out Func<Decoder, Instruction>? decode))
            throw decoder.Error($"the instruction {decoder.Name} is not known.");
        Instruction instruction = decode(decoder);
        decoder.Finish();
        instruction.Line = text.Line;
        instruction.Text = text.Text;
        if (text.Guard is { } guard)
            instruction.Guard = new(scope.Layout.Predicate(guard), text.GuardNegated);
        return instruction;
    }

    private static bool IsFloat(Decoder d) => d.Instruction.Opcode.Split('.').Any(m => PtxType.Find(m) is { Kind: TypeKind.Float });

    private static Instruction ByType(Decoder d, Func<Decoder, PtxType, Instruction> integers, Func<Decoder, PtxType, Instruction> floats)
    {
        PtxType type = d.TakeType();
        return type.Kind == TypeKind.Float ? floats(d, type) : type.Kind == TypeKind.Predicate ? throw d.Error("the type is no number.") : integers(d, type);
    }
}
