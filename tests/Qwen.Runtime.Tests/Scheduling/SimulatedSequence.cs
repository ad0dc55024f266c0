using Qwen.Runtime.Cache;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Scheduling;

/// <summary>A sequence of a simulated request.</summary>
internal sealed class SimulatedSequence(int[] prompt, int maxLength, BlockPool pool, UInt128 root, bool wantsPromptLogits = false) : Sequence(prompt, maxLength, pool, root)
{
    private int _promptRows;

    public UInt128 Root { get; } = root;

    public int[] Prompt { get; } = prompt;

    /// <summary>Sequences that will fork from this one.</summary>
    public int Forks { get; init; }

    /// <summary>Tells forks of a prompt apart.</summary>
    public int Index { get; init; }

    /// <summary>Steps it stays paused.</summary>
    public int PauseLeft { get; set; }

    /// <summary>It leaves by itself when it has this length.</summary>
    public int StopsAt { get; init; } = int.MaxValue;

    public override int LogitsFrom => WantsPromptLogits ? _promptRows : Length - 1;

    public override bool ReusesPrefix => !WantsPromptLogits;

    private bool WantsPromptLogits => wantsPromptLogits && _promptRows < PromptLength - 1;

    /// <summary>Logits after a token of the prompt came; they must come once each and in order.</summary>
    public void TakePromptRow(int position) => Assert.Equal(_promptRows++, position);

    public bool IsPromptRow(int position) => wantsPromptLogits && position < PromptLength - 1;
}
