using Qwen.Cpu;
using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Scheduling;

/// <summary>One sequence's share of a step: <see cref="Tokens"/> tokens at consecutive positions.</summary>
public readonly unsafe struct BatchSequence
{
    /// <summary>Its first row in the batch.</summary>
    public int FirstToken { get; init; }

    /// <summary>Its rows.</summary>
    public int Tokens { get; init; }

    /// <summary>Position of its first row in the sequence.</summary>
    public int FirstPosition { get; init; }

    /// <summary>Its block table.</summary>
    public int* Blocks { get; init; }
}

/// <summary>
/// The tokens of one step: a ragged list from many sequences (decode: one token each; prefill: a chunk each), with positions, cache
/// slots, and the rows whose logits are wanted. Made once, filled anew each step.
/// </summary>
public sealed unsafe class Batch : IDisposable
{
    private readonly NativeBuffer<int> _tokens, _positions, _slots, _logitRows;
    private readonly BatchSequence[] _sequences;

    /// <summary>Room for <paramref name="maxTokens"/> tokens of <paramref name="maxSequences"/> sequences.</summary>
    /// <param name="maxTokens">Most tokens.</param>
    /// <param name="maxSequences">Most sequences.</param>
    /// <param name="maxLogitRows">Most rows whose logits are wanted; null for one a token.</param>
    public Batch(int maxTokens, int maxSequences, int? maxLogitRows = null)
    {
        MaxLogitRows = Math.Min(maxLogitRows ?? maxTokens, maxTokens);
        _tokens = new NativeBuffer<int>(maxTokens);
        _positions = new NativeBuffer<int>(maxTokens);
        _slots = new NativeBuffer<int>(maxTokens);
        _logitRows = new NativeBuffer<int>(MaxLogitRows);
        _sequences = new BatchSequence[maxSequences];
    }

    /// <summary>Most tokens.</summary>
    public int MaxTokens => (int)_tokens.Length;

    /// <summary>Most sequences.</summary>
    public int MaxSequences => _sequences.Length;

    /// <summary>Most rows of logits.</summary>
    public int MaxLogitRows { get; }

    /// <summary>Tokens in this step.</summary>
    public int TokenCount { get; private set; }

    /// <summary>Rows whose logits are wanted.</summary>
    public int LogitRowCount { get; private set; }

    /// <summary>Sequences in this step.</summary>
    public int SequenceCount { get; private set; }

    /// <summary>Token ids [TokenCount].</summary>
    public int* Tokens => _tokens.Pointer;

    /// <summary>Positions in their sequences [TokenCount].</summary>
    public int* Positions => _positions.Pointer;

    /// <summary>Cache slots [TokenCount].</summary>
    public int* Slots => _slots.Pointer;

    /// <summary>Rows whose logits are wanted [LogitRowCount], ascending.</summary>
    public int* LogitRows => _logitRows.Pointer;

    /// <summary>The sequences' shares.</summary>
    public ReadOnlySpan<BatchSequence> Sequences => _sequences.AsSpan(0, SequenceCount);

    /// <summary>Empties the batch.</summary>
    public void Clear() => TokenCount = LogitRowCount = SequenceCount = 0;

    /// <summary>Adds tokens of one sequence, whose blocks already hold room for them.</summary>
    /// <param name="tokens">Ids.</param>
    /// <param name="firstPosition">Position of the first.</param>
    /// <param name="table">The sequence's blocks.</param>
    /// <param name="logits">How many of the last of these tokens the logits are wanted after: 1 to sample, more to verify guesses.</param>
    /// <returns>The index of the first of those logit rows, or -1 where none was asked for.</returns>
    public int Add(ReadOnlySpan<int> tokens, int firstPosition, BlockTable table, int logits)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(tokens.Length, MaxTokens - TokenCount, nameof(tokens));
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(SequenceCount, MaxSequences);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(logits, Math.Min(tokens.Length, MaxLogitRows - LogitRowCount));
        _sequences[SequenceCount++] = new BatchSequence { FirstToken = TokenCount, Tokens = tokens.Length, FirstPosition = firstPosition, Blocks = table.Blocks };
        for (int i = 0; i < tokens.Length; i++, TokenCount++)
        {
            Tokens[TokenCount] = tokens[i];
            Positions[TokenCount] = firstPosition + i;
            Slots[TokenCount] = table.Slot(firstPosition + i);
        }

        int first = LogitRowCount;
        for (int row = TokenCount - logits; row < TokenCount; row++)
            LogitRows[LogitRowCount++] = row;
        return logits == 0 ? -1 : first;
    }

    /// <summary>Adds tokens of one sequence, with the logits after the last of them or with none.</summary>
    /// <inheritdoc cref="Add(ReadOnlySpan{int}, int, BlockTable, int)"/>
    public int Add(ReadOnlySpan<int> tokens, int firstPosition, BlockTable table, bool wantLogits) => Add(tokens, firstPosition, table, wantLogits ? 1 : 0);

    /// <inheritdoc/>
    public void Dispose()
    {
        _tokens.Dispose();
        _positions.Dispose();
        _slots.Dispose();
        _logitRows.Dispose();
    }
}
