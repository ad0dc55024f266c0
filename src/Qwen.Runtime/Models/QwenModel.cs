using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Models;

/// <summary>
/// The Qwen decoder (Qwen2 technical report, arXiv 2407.10671; Qwen3, arXiv 2505.09388), written once in the ops of <see cref="IBackend"/>.
/// </summary>
public sealed class QwenModel : IDisposable
{
    private readonly IBackend _ops;
    private readonly List<IDisposable> _memory = []; // weights and activations
    private readonly LinearWeights _embedding;
    private readonly DecoderLayer[] _layers;
    private readonly VectorWeights _finalNorm;
    private readonly LinearWeights _output;
    private readonly double[] _inverseFrequencies;
    private readonly Activations _hidden, _normed, _qkv, _attended, _activated, _selected, _logits;

    /// <summary>Takes the weights of a checkpoint, which must outlive the model, and makes room for steps of a given size.</summary>
    /// <param name="checkpoint">The weights.</param>
    /// <param name="config">The hyperparameters.</param>
    /// <param name="ops">What computes.</param>
    /// <param name="maxTokens">Most tokens in a step.</param>
    /// <param name="maxLogitRows">Most rows of logits in a step.</param>
    /// <param name="servedContext">Longest sequence.</param>
    /// <param name="progress">The fraction of the layers and the output that is loaded.</param>
    /// <exception cref="ModelFormatException">A tensor is missing, or its shape is not the config's.</exception>
    public QwenModel(Checkpoint checkpoint, ModelConfig config, IBackend ops, int maxTokens, int maxLogitRows, int servedContext, IProgress<double>? progress = null)
    {
        Config = config;
        _ops = ops;
        try
        {
            var loader = new WeightLoader(checkpoint, config, ops, _memory);
            _embedding = loader.Embedding();
            _layers = new DecoderLayer[config.Layers];
            for (int i = 0; i < _layers.Length; i++)
            {
                _layers[i] = loader.Layer(i);
                progress?.Report((i + 1.0) / (_layers.Length + 1));
            }

            _finalNorm = loader.FinalNorm();
            _output = config.TiedEmbeddings ? _embedding : loader.Output();
            progress?.Report(1);
            WeightBytesPerToken = loader.BytesPerToken;
            _inverseFrequencies = config.RopeScaling.InverseFrequencies(config.HeadDim, config.RopeTheta, config.MaxPositions, servedContext);
            int queries = config.Heads * config.HeadDim;
            _hidden = Allocate(maxTokens, config.HiddenSize);
            _normed = Allocate(maxTokens, config.HiddenSize);
            _qkv = Allocate(maxTokens, queries + (2 * config.KvHeads * config.HeadDim));
            _attended = Allocate(maxTokens, queries);
            _activated = Allocate(maxTokens, config.IntermediateSize);
            _selected = Allocate(maxLogitRows, config.HiddenSize);
            _logits = Allocate(maxLogitRows, config.VocabularySize);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The hyperparameters.</summary>
    public ModelConfig Config { get; }

    /// <summary>Bytes of weights that one decoded token reads: all but the embedding's other rows.</summary>
    public long WeightBytesPerToken { get; }

    /// <summary>Runs one step: caches the batch's keys and values and computes the logits of its <see cref="Batch.LogitRows"/>.</summary>
    /// <param name="batch">The tokens; ids must be inside the vocabulary.</param>
    /// <param name="cache">Where their sequences' keys and values are.</param>
    public void Forward(Batch batch, KvCache cache)
    {
        float epsilon = Config.RmsNormEpsilon;
        int tokens = batch.TokenCount, logitRows = batch.LogitRowCount;
        _ops.Begin(batch, cache, _inverseFrequencies, Config.RopeScaling.Magnitude);
        _ops.Embed(_embedding, _hidden);
        foreach (DecoderLayer layer in _layers)
        {
            _ops.RmsNorm(_hidden, layer.InputNorm, epsilon, _normed, tokens);
            _ops.Linear(_normed, layer.Qkv, _qkv, tokens);
            _ops.RopeAndStore(_qkv, layer.Attention);
            _ops.Attention(_qkv, layer.Attention, _attended);
            _ops.Linear(_attended, layer.Output, _hidden, tokens, accumulate: true);
            _ops.RmsNorm(_hidden, layer.PostAttentionNorm, epsilon, _normed, tokens);
            _ops.GatedLinear(_normed, layer.GateUp, _activated);
            _ops.Linear(_activated, layer.Down, _hidden, tokens, accumulate: true);
        }

        if (logitRows == 0)
            return;
        _ops.SelectLogitRows(_hidden, _selected);
        _ops.RmsNorm(_selected, _finalNorm, epsilon, _selected, logitRows);
        _ops.Linear(_selected, _output, _logits, logitRows);
    }

    /// <summary>The logits [VocabularySize] of a row of the last step's <see cref="Batch.LogitRows"/>. Valid, and free to change, until the next step.</summary>
    public Span<float> Logits(int row) => _ops.Read(_logits, row);

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IDisposable memory in _memory)
            memory.Dispose();
    }

    private Activations Allocate(int rows, int columns)
    {
        Activations activations = _ops.Allocate(rows, columns);
        _memory.Add(activations);
        return activations;
    }
}
