using Qwen.Runtime.Engine;

namespace Qwen.Runtime.Speculation;

/// <summary>
/// Guesses what answers go on with, for the network to check in one step (speculative decoding; Leviathan et al., ICML 2023). Each
/// token is still the one that the network's own distribution and the request's own random numbers choose: a guess that differs is
/// dropped, with all after it. So answers are those of plain decoding, token by token, sampled or greedy, whatever is guessed.
/// </summary>
internal interface IDrafter : IDisposable
{
    /// <summary>Drafts up to <see cref="Scheduling.Sequence.DraftRoom"/> and <see cref="Generation.DraftLimit"/> tokens of each sequence, or none. Allocates nothing when called again and again.</summary>
    /// <param name="generations">Answers that are being continued: each has one token to read.</param>
    void Draft(List<Generation> generations);

    /// <summary>Forgets what it holds of an answer that ends.</summary>
    void Release(Generation generation);
}
