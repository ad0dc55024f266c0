using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Models;

/// <summary>
/// The part of a Qwen decoder (Qwen2 technical report, arXiv 2407.10671; Qwen3, arXiv 2505.09388) that one backend computes: some of its
/// layers, the embedding before the first, the output after the last. This is the network, written once in the ops of <see cref="IBackend"/>.
/// </summary>
internal sealed class NetworkStage : IDisposable
{
    private readonly ModelConfig _config;
    private readonly IBackend _ops;
    private readonly List<IDisposable> _memory = []; // weights and activations
    private readonly LinearWeights? _embedding, _output;
    private readonly DecoderLayer[] _layers;
    private readonly VectorWeights? _finalNorm;
    private readonly Activations _hidden, _normed, _qkv, _attended, _activated;
    private readonly Activations? _selected, _logits;
    private readonly Action _compute;
    private Batch _batch = null!; // the step's

    /// <summary>Loads a stage.</summary>
    /// <param name="checkpoint">The weights.</param>
    /// <param name="config">The hyperparameters.</param>
    /// <param name="run">The backend, its first layer, and how many it has.</param>
    /// <param name="maxTokens">Most tokens in a step.</param>
    /// <param name="maxLogitRows">Most rows of logits in a step.</param>
    /// <param name="isFirst">It has the embedding.</param>
    /// <param name="isLast">It has the output.</param>
    /// <param name="loaded">Told the number of each layer when it is loaded.</param>
    public NetworkStage(
        Checkpoint checkpoint, ModelConfig config, (IBackend Backend, int FirstLayer, int Layers) run, int maxTokens, int maxLogitRows, bool isFirst, bool isLast, Action<int> loaded)
    {
        _config = config;
        _ops = run.Backend;
        _compute = Compute;
        try
        {
            var loader = new WeightLoader(checkpoint, config, _ops, _memory);
            if (isFirst)
                _embedding = loader.Embedding();
            _layers = new DecoderLayer[run.Layers];
            for (int i = 0; i < _layers.Length; i++)
            {
                _layers[i] = loader.Layer(run.FirstLayer + i, i);
                loaded(run.FirstLayer + i);
            }

            if (isLast)
            {
                _finalNorm = loader.FinalNorm();
                _output = !config.TiedEmbeddings ? loader.Output() : _embedding ?? loader.Embedding();
            }

            WeightBytesPerToken = loader.BytesPerToken - (isFirst && !isLast && config.TiedEmbeddings ? _embedding!.ByteCount : 0);
            int queries = config.Heads * config.HeadDim;
            _hidden = Allocate(maxTokens, config.HiddenSize, ActivationPrecision.Full);
            _normed = Allocate(maxTokens, config.HiddenSize);
            _qkv = Allocate(maxTokens, queries + (2 * config.KvHeads * config.HeadDim));
            _attended = Allocate(maxTokens, queries);
            _activated = Allocate(maxTokens, config.IntermediateSize);
            if (!isLast)
                return;
            _selected = Allocate(maxLogitRows, config.HiddenSize, ActivationPrecision.Full);
            _logits = Allocate(maxLogitRows, config.VocabularySize, ActivationPrecision.Full);
            Sampler = _ops.AllocateSampler(_logits);
            if (Sampler is not null)
                _memory.Add(Sampler);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Bytes of weights that one decoded token reads: all but the embedding's other rows.</summary>
    public long WeightBytesPerToken { get; }

    /// <summary>The projections of its layers, and what it has of embedding and output, in this order.</summary>
    public IEnumerable<LinearWeights> Projections => _memory.OfType<LinearWeights>();

    /// <summary>What chooses tokens where the logits lie; null where that is on the host.</summary>
    public LogitSampler? Sampler { get; }

    /// <summary>The keys and values of this stage's layers.</summary>
    public KvCache AllocateCache(KvCacheShape shape) => _ops.AllocateCache(shape with { Layers = _layers.Length });

    /// <summary>Computes a step.</summary>
    /// <param name="batch">The tokens.</param>
    /// <param name="cache">Of this stage's layers.</param>
    /// <param name="previous">The stage whose hidden state this one goes on with; null for the first.</param>
    public void Forward(Batch batch, KvCache cache, NetworkStage? previous)
    {
        _batch = batch;
        _ops.Begin(batch, cache);
        if (previous is not null)
            _ops.Write(previous._ops.Read(previous._hidden, 0, batch.TokenCount), _hidden);
        _ops.Run(_compute);
        Sampler?.Begin(batch.LogitRowCount);
    }

    /// <summary>The logits of a row of the last step.</summary>
    public Span<float> Logits(int row)
    {
        // All rows at once: a GPU brings them over by one copy, whichever is asked for first. Unless it chose tokens itself: then few are asked for.
        int vocabulary = _config.VocabularySize;
        if (Sampler is { HasRun: true })
            return _ops.Read(_logits!, row, 1);
        return _ops.Read(_logits!, 0, _batch.LogitRowCount).Slice(row * vocabulary, vocabulary);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IDisposable memory in _memory)
            memory.Dispose();
    }

    private void Compute()
    {
        float epsilon = _config.RmsNormEpsilon;
        int tokens = _batch.TokenCount, logitRows = _batch.LogitRowCount;
        if (_embedding is not null)
            _ops.Embed(_embedding, _hidden);
        if (_layers.Length > 0)
            _ops.RmsNorm(_hidden, _layers[0].InputNorm, epsilon, _normed, tokens, _layers[0].Qkv);
        for (int i = 0; i < _layers.Length; i++)
        {
            DecoderLayer layer = _layers[i];
            _ops.Linear(_normed, layer.Qkv, _qkv, tokens);
            _ops.RopeAndStore(_qkv, layer.Attention);
            _ops.Attention(_qkv, layer.Attention, _attended);
            _ops.AddLinear(_attended, layer.Output, _hidden, tokens, new HiddenNorm(layer.PostAttentionNorm, epsilon, _normed, layer.GateUp));
            _ops.GatedLinear(_normed, layer.GateUp, _activated, layer.Down);
            _ops.AddLinear(_activated, layer.Down, _hidden, tokens, i + 1 < _layers.Length ? new HiddenNorm(_layers[i + 1].InputNorm, epsilon, _normed, _layers[i + 1].Qkv) : null);
        }

        if (_output is null || logitRows == 0)
            return;
        _ops.SelectLogitRows(_hidden, _selected!, logitRows);
        _ops.RmsNorm(_selected!, _finalNorm!, epsilon, _normed, logitRows, _output);
        _ops.Linear(_normed, _output, _logits!, logitRows);
    }

    private Activations Allocate(int rows, int columns, ActivationPrecision precision = ActivationPrecision.Working)
    {
        Activations activations = _ops.Allocate(rows, columns, precision);
        _memory.Add(activations);
        return activations;
    }
}
