using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Scheduling;

/// <summary>The tokens of one request, prompt and answer, and how far the model has read them. It owns its blocks of the cache.</summary>
public class Sequence : IDisposable
{
    private readonly int[] _tokens;

    /// <summary>A sequence that waits with its prompt.</summary>
    /// <param name="prompt">At least one token.</param>
    /// <param name="maxLength">Most tokens, prompt and answer together.</param>
    /// <param name="pool">Where its blocks come from.</param>
    public Sequence(IReadOnlyList<int> prompt, int maxLength, BlockPool pool)
    {
        ArgumentOutOfRangeException.ThrowIfZero(prompt.Count);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxLength, prompt.Count);
        // Once for all: appending a decoded token never allocates.
        _tokens = new int[maxLength];
        for (int i = 0; i < prompt.Count; i++)
            _tokens[i] = prompt[i];
        PromptLength = Length = prompt.Count;
        Table = new BlockTable(pool, maxLength);
    }

    /// <summary>Tokens of the prompt.</summary>
    public int PromptLength { get; }

    /// <summary>Tokens so far.</summary>
    public int Length { get; private set; }

    /// <summary>Most tokens, prompt and answer together.</summary>
    public int MaxLength => _tokens.Length;

    /// <summary>Leading tokens whose keys and values are in the cache.</summary>
    public int Computed { get; private set; }

    /// <summary>Tokens the model has yet to read: 1 while decoding.</summary>
    public int Pending => Length - Computed;

    /// <summary>Where its keys and values are.</summary>
    public BlockTable Table { get; }

    /// <summary>All tokens.</summary>
    public ReadOnlySpan<int> Tokens => _tokens.AsSpan(0, Length);

    /// <summary>The prompt's tokens.</summary>
    public ReadOnlySpan<int> Prompt => _tokens.AsSpan(0, PromptLength);

    /// <summary>Adds a sampled token.</summary>
    public void Append(int token) => _tokens[Length++] = token;

    /// <summary>The next tokens are read.</summary>
    public void Advance(int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(tokens, Pending);
        Computed += tokens;
    }

    /// <summary>Gives up the cached state; all tokens will be read again.</summary>
    public void Evict()
    {
        Table.Clear();
        Computed = 0;
    }

    /// <summary>Gives the blocks back.</summary>
    public void Dispose()
    {
        Table.Dispose();
        GC.SuppressFinalize(this);
    }
}
