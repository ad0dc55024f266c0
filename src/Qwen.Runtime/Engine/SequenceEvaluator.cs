using System.Numerics.Tensors;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>Sequences read token by token or in chunks, with their raw logits: for evaluation and for comparing engines.</summary>
/// <remarks>It uses the model's whole KV cache, so nothing else may run on the model. Not thread-safe.</remarks>
public sealed class SequenceEvaluator : IDisposable
{
    private readonly LoadedModel _model;
    private readonly Batch _batch;
    private readonly BlockTable[] _tables;
    private readonly int[] _positions;

    /// <summary>Empty sequences.</summary>
    /// <param name="model">The model; it must outlive the evaluator.</param>
    /// <param name="sequences">How many.</param>
    /// <exception cref="ArgumentOutOfRangeException">None, or more than the model was loaded for.</exception>
    public SequenceEvaluator(LoadedModel model, int sequences = 1)
    {
        ArgumentNullException.ThrowIfNull(model);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(sequences);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(sequences, model.Options.MaxSequences);
        _model = model;
        _batch = new Batch(model.Options.MaxBatchedTokens, sequences);
        var pool = new BlockPool(model.KvBlocks, model.BlockSize);
        _tables = [.. Enumerable.Range(0, sequences).Select(_ => new BlockTable(pool, model.MaxModelLength))];
        _positions = new int[sequences];
    }

    /// <summary>Sequences.</summary>
    public int Sequences => _tables.Length;

    /// <summary>Tokens that the first sequence has read so far.</summary>
    public int Position => _positions[0];

    /// <summary>Reads more tokens of a sequence and returns the logits [VocabularySize] after the last. Valid until the next call.</summary>
    /// <exception cref="InvalidRequestException">No token, an id outside the vocabulary, or more tokens than the model's longest sequence.</exception>
    public ReadOnlySpan<float> Evaluate(scoped ReadOnlySpan<int> tokens, int sequence = 0)
    {
        if (tokens.IsEmpty)
            throw new InvalidRequestException("There is no token to evaluate.");
        Reserve(sequence, tokens);
        while (!tokens.IsEmpty)
        {
            int count = Math.Min(tokens.Length, _batch.MaxTokens);
            _batch.Clear();
            Add(sequence, tokens[..count], wantLogits: count == tokens.Length);
            _model.Network.Forward(_batch, _model.Cache);
            tokens = tokens[count..];
        }

        return _model.Network.Logits(0);
    }

    /// <summary>Reads one token of each sequence in one step; <see cref="Logits"/> has what follows.</summary>
    /// <exception cref="InvalidRequestException">An id outside the vocabulary, or a sequence that is as long as may be.</exception>
    public void Advance(ReadOnlySpan<int> tokens)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(tokens.Length, Sequences);
        _batch.Clear();
        for (int i = 0; i < tokens.Length; i++)
        {
            Reserve(i, tokens.Slice(i, 1));
            Add(i, tokens.Slice(i, 1), wantLogits: true);
        }

        _model.Network.Forward(_batch, _model.Cache);
    }

    /// <summary>The logits [VocabularySize] of a sequence after <see cref="Advance"/>. Valid until the next call.</summary>
    public ReadOnlySpan<float> Logits(int sequence) => _model.Network.Logits(sequence);

    /// <summary>As <see cref="Advance"/>; then puts the likeliest next tokens in the place of those read. A GPU finds them itself: no logits are copied.</summary>
    /// <exception cref="NonFiniteLogitException">A GPU found a logit that is NaN or infinite.</exception>
    public void AdvanceGreedily(Span<int> tokens)
    {
        Advance(tokens);
        LogitSampler? sampler = _model.Network.Sampler;
        int vocabulary = _model.Tokenizer.VocabularySize;
        for (int i = 0; i < tokens.Length; i++)
            sampler?.TryAdd(i, null, []);
        sampler?.Run(vocabulary);
        sampler?.Wait();
        for (int i = 0; i < tokens.Length; i++)
            tokens[i] = sampler?.Token(i) ?? TensorPrimitives.IndexOfMax(Logits(i)[..vocabulary]);
    }

    /// <summary>Forgets all tokens.</summary>
    public void Reset()
    {
        foreach (BlockTable table in _tables)
            table.Clear();
        Array.Clear(_positions);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (BlockTable table in _tables)
            table.Dispose();
        _batch.Dispose();
    }

    private void Reserve(int sequence, ReadOnlySpan<int> tokens)
    {
        int position = _positions[sequence];
        if (tokens.Length > _model.MaxModelLength - position)
            throw new InvalidRequestException($"{position} + {tokens.Length} tokens are more than the longest sequence, {_model.MaxModelLength}.");
        foreach (int token in tokens)
        {
            if ((uint)token >= (uint)_model.Config.VocabularySize)
                throw new InvalidRequestException($"Token id {token} is outside the vocabulary of {_model.Config.VocabularySize}.");
        }

        if (!_tables[sequence].TryGrow(position + tokens.Length))
            throw new InvalidRequestException($"The KV cache of {_model.KvBlocks} blocks has no room for {position + tokens.Length} tokens of sequence {sequence}.");
    }

    private void Add(int sequence, ReadOnlySpan<int> tokens, bool wantLogits)
    {
        _batch.Add(tokens, _positions[sequence], _tables[sequence], wantLogits);
        _positions[sequence] += tokens.Length;
    }
}
