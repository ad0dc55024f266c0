using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Backends;

/// <summary>
/// Chooses the tokens of a step where its logits lie, all rows at once, so that ids are copied to the host in place of whole rows. The rules
/// and the random numbers are the <see cref="Sampler"/>s'; a row that is not added is sampled by its sampler, on the host.
/// </summary>
public abstract class LogitSampler : IDisposable
{
    /// <summary>It has chosen tokens of this step.</summary>
    public abstract bool HasRun { get; }

    /// <summary>Starts a step of so many rows; none is added yet.</summary>
    public abstract void Begin(int rows);

    /// <summary>Adds a row of which a token is to be chosen.</summary>
    /// <param name="row">The row.</param>
    /// <param name="sampler">How: read, but not changed. Null for the likeliest token.</param>
    /// <param name="drafted">Tokens of the answer before this one that are only guessed. If they come true, so does what is chosen.</param>
    /// <returns>False if what the sampler asks for can't be done here.</returns>
    public abstract bool TryAdd(int row, Sampler? sampler, ReadOnlySpan<int> drafted);

    /// <summary>Has the tokens of the rows added chosen, once all ops before are done. Their logits may be changed.</summary>
    /// <param name="vocabulary">The first so many logits of a row are those of tokens.</param>
    public abstract void Run(int vocabulary);

    /// <summary>Waits for them. Until then <see cref="Run"/> has only put the work on its way: what the host does meanwhile costs no time.</summary>
    public abstract void Wait();

    /// <summary>The token chosen for a row; null if it was not added.</summary>
    /// <exception cref="NonFiniteLogitException">A logit of the row is NaN or plus infinity, or all are minus infinity.</exception>
    public abstract int? Token(int row);

    /// <summary>Log-probabilities, where the row's sampler asks for them.</summary>
    public abstract TokenLogprobs? Logprobs(int row);

    /// <inheritdoc/>
    public abstract void Dispose();
}
