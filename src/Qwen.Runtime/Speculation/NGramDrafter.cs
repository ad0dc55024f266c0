using Qwen.Runtime.Engine;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Speculation;

/// <summary>
/// Prompt lookup (Saxena, 2023): where the last tokens stood before, in the prompt or in the answer, what followed them then is the
/// guess. It costs no model, and is right where an answer quotes: summaries, edits, code, structured data.
/// </summary>
internal sealed class NGramDrafter(SpeculationOptions options) : IDrafter
{
    public void Draft(List<Generation> generations)
    {
        foreach (Generation generation in generations)
            Draft(generation, options, Math.Min(options.Tokens, generation.DraftLimit));
    }

    public void Release(Generation generation)
    {
    }

    public void Dispose()
    {
    }

    /// <summary>Drafts what followed the latest earlier occurrence of the longest end that has one.</summary>
    internal static void Draft(Sequence sequence, SpeculationOptions options, int most)
    {
        ReadOnlySpan<int> tokens = sequence.Tokens;
        for (int n = Math.Min(options.MaxNGram, tokens.Length - 1); n >= options.MinNGram; n--)
        {
            int at = tokens[..^1].LastIndexOf(tokens[^n..]);
            if (at < 0)
                continue;
            sequence.DraftCopy(at + n, Math.Min(most, sequence.DraftRoom));
            return;
        }
    }
}
