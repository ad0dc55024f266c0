using Qwen.Runtime.Cache;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>One sequence, read token by token or in chunks, with its raw logits: for evaluation and for comparing engines.</summary>
/// <remarks>It uses the model's whole KV cache, so nothing else may run on the model. Not thread-safe.</remarks>
public sealed class SequenceEvaluator : IDisposable
{
    private readonly LoadedModel _model;
    private readonly Batch _batch;
    private readonly BlockTable _table;

    /// <summary>An empty sequence.</summary>
    /// <param name="model">The model; it must outlive the evaluator.</param>
    public SequenceEvaluator(LoadedModel model)
    {
        _model = model;
        _batch = new Batch(model.Options.MaxBatchedTokens, 1);
        _table = new BlockTable(new BlockPool(model.KvBlocks, model.BlockSize), model.MaxModelLength);
    }

    /// <summary>Tokens read so far.</summary>
    public int Position { get; private set; }

    /// <summary>Reads more tokens and returns the logits [VocabularySize] after the last. Valid until the next call.</summary>
    /// <exception cref="InvalidRequestException">No token, an id outside the vocabulary, or more tokens than the model's longest sequence.</exception>
    public ReadOnlySpan<float> Evaluate(scoped ReadOnlySpan<int> tokens)
    {
        if (tokens.IsEmpty)
            throw new InvalidRequestException("There is no token to evaluate.");
        if (tokens.Length > _model.MaxModelLength - Position)
            throw new InvalidRequestException($"{Position} + {tokens.Length} tokens are more than the longest sequence, {_model.MaxModelLength}.");
        foreach (int token in tokens)
        {
            if ((uint)token >= (uint)_model.Config.VocabularySize)
                throw new InvalidRequestException($"Token id {token} is outside the vocabulary of {_model.Config.VocabularySize}.");
        }

        if (!_table.TryGrow(Position + tokens.Length))
            throw new InvalidOperationException("The KV cache is smaller than the longest sequence.");
        while (!tokens.IsEmpty)
        {
            int count = Math.Min(tokens.Length, _batch.MaxTokens);
            _batch.Clear();
            _batch.Add(tokens[..count], Position, _table, wantLogits: count == tokens.Length);
            _model.Network.Forward(_batch, _model.Cache);
            Position += count;
            tokens = tokens[count..];
        }

        return _model.Network.Logits(0);
    }

    /// <summary>Forgets all tokens.</summary>
    public void Reset()
    {
        _table.Clear();
        Position = 0;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _table.Dispose();
        _batch.Dispose();
    }
}
