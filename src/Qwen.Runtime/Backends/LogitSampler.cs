using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Backends;

/// <summary>
/// Chooses the tokens of a step where its logits lie, all rows at once, so that ids are copied to the host in place of whole rows. The rules
/// and the random numbers are the <see cref="Sampler"/>s'; a row that is not added is sampled by its sampler, on the host.
/// </summary>
/// <remarks>
/// A step is begun, given its rows, and run; what was chosen is there once it was waited for. A second step may be begun and run before the first is
/// waited for: it can read the first one's tokens, and the host what they are, while it is computed.
/// </remarks>
public abstract class LogitSampler : IDisposable
{
    /// <summary>It has chosen tokens of the step that was begun last.</summary>
    public abstract bool HasRun { get; }

    /// <summary>Starts a step of so many rows; none is added yet.</summary>
    public abstract void Begin(int rows);

    /// <summary>Adds a row of which a token is to be chosen.</summary>
    /// <param name="row">The row.</param>
    /// <param name="sampler">How: read, but not changed. Null for the likeliest token.</param>
    /// <param name="drafted">Tokens of the answer before this one that are only guessed, or not known yet. If they come true, so does what is chosen.</param>
    /// <returns>False if what the sampler asks for can't be done here.</returns>
    public abstract bool TryAdd(int row, Sampler? sampler, ReadOnlySpan<int> drafted);

    /// <summary>Has the tokens of the rows added chosen, once all ops before are done. Their logits may be changed.</summary>
    /// <param name="vocabulary">The first so many logits of a row are those of tokens.</param>
    public abstract void Run(int vocabulary);

    /// <summary>Waits for the tokens of the first step that was run and not yet waited for: those that the methods below give.</summary>
    public abstract void Wait();

    /// <summary>The token chosen for a row; null if it was not added.</summary>
    /// <exception cref="NonFiniteLogitException">A logit of the row is NaN or plus infinity, or all are minus infinity.</exception>
    public abstract int? Token(int row);

    /// <summary>Log-probabilities, where the row's sampler asks for them.</summary>
    public abstract TokenLogprobs? Logprobs(int row);

    /// <inheritdoc/>
    public abstract void Dispose();
}
