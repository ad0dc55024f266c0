using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;

namespace Qwen.Emulation.Instructions;

/// <summary>What a warp's loop does after an instruction.</summary>
internal enum Flow
{
    Next,
    Branch,
    Exit,
    Barrier,

    /// <summary>Lets other warps run: the instruction polls for something that they do.</summary>
    Yield,
}

/// <summary>A decoded instruction. One object serves all warps of all launches: its state is only what the text says.</summary>
internal abstract class Instruction
{
    public int Line { get; set; }

    public string Text { get; set; } = "";

    public PredicateSource Guard { get; set; } = new(-1, false);

    public virtual Flow Flow => Flow.Next;

    /// <summary>Whether blocks see each other's doing through it, so that their order matters.</summary>
    public virtual bool OrdersBlocks => false;

    /// <summary>Runs it.</summary>
    /// <param name="warp">The warp.</param>
    /// <param name="mask">The lanes that take part; at least one.</param>
    public abstract void Execute(Warp warp, uint mask);
}
