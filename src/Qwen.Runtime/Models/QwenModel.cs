using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Models;

/// <summary>A Qwen decoder over one backend or several: its stages, one after the other (see <see cref="NetworkStage"/>).</summary>
public sealed class QwenModel : IDisposable
{
    private readonly List<NetworkStage> _stages = [];
    private readonly RotaryAngles _rotary;

    /// <summary>Takes the weights of a checkpoint, which must outlive the model, and makes room for steps of a given size.</summary>
    /// <param name="checkpoint">The weights.</param>
    /// <param name="config">The hyperparameters.</param>
    /// <param name="placement">What computes.</param>
    /// <param name="maxTokens">Most tokens in a step.</param>
    /// <param name="maxLogitRows">Most rows of logits in a step, at most <paramref name="maxTokens"/>.</param>
    /// <param name="servedContext">Longest sequence.</param>
    /// <param name="progress">The fraction of the layers and the output that is loaded.</param>
    /// <exception cref="ModelFormatException">A tensor is missing, or its shape is not the config's.</exception>
    public QwenModel(
        Checkpoint checkpoint, ModelConfig config, LayerPlacement placement, int maxTokens, int maxLogitRows, int servedContext, IProgress<double>? progress = null)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(placement.Layers, config.Layers);
        Config = config;
        _rotary = new RotaryAngles(config.RopeScaling.InverseFrequencies(config.HeadDim, config.RopeTheta, config.MaxPositions, servedContext), config.RopeScaling.Magnitude, servedContext);
        try
        {
            for (int i = 0; i < placement.Runs.Count; i++)
            {
                _stages.Add(new NetworkStage(
                    checkpoint, config, placement.Runs[i], maxTokens, maxLogitRows, isFirst: i == 0, isLast: i == placement.Runs.Count - 1,
                    layer => progress?.Report((layer + 1.0) / (config.Layers + 1))));
            }

            progress?.Report(1);
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
    public long WeightBytesPerToken => _stages.Sum(s => s.WeightBytesPerToken);

    /// <summary>All matrices: the embedding, those of the layers, and the output's where it is not the embedding.</summary>
    internal IEnumerable<LinearWeights> Projections => _stages.SelectMany(s => s.Projections);

    /// <summary>Makes room for keys and values: on each backend for its layers.</summary>
    public KvCache AllocateCache(KvCacheType type, int blocks, int blockSize)
    {
        var caches = new List<KvCache>();
        try
        {
            foreach (NetworkStage stage in _stages)
                caches.Add(stage.AllocateCache(new KvCacheShape(0, Config.KvHeads, Config.HeadDim, type, blocks, blockSize, _rotary)));
            return new StagedKvCache(caches);
        }
        catch
        {
            caches.ForEach(c => c.Dispose());
            throw;
        }
    }

    /// <summary>Runs one step: caches the batch's keys and values and computes the logits of its <see cref="Batch.LogitRows"/>.</summary>
    /// <param name="batch">The tokens; ids must be inside the vocabulary.</param>
    /// <param name="cache">From <see cref="AllocateCache"/>: where their sequences' keys and values are.</param>
    public void Forward(Batch batch, KvCache cache)
    {
        IReadOnlyList<KvCache> caches = ((StagedKvCache)cache).Stages;
        for (int i = 0; i < _stages.Count; i++)
            _stages[i].Forward(batch, caches[i], i == 0 ? null : _stages[i - 1]);
    }

    /// <summary>What chooses the tokens of a step where its logits lie; null where that is on the host.</summary>
    public LogitSampler? Sampler => _stages[^1].Sampler;

    /// <summary>
    /// A batch may have, in place of a token's id, the complement of a logit row of the step before: the token that was chosen for it. So a step can be on
    /// its way before the host knows what it reads.
    /// </summary>
    internal bool ReadsItsChoices => _stages.Count == 1 && Sampler is not null;

    /// <summary>The logits [VocabularySize] of a row of the last step's <see cref="Batch.LogitRows"/>. Valid, and free to change, until the next step.</summary>
    public Span<float> Logits(int row) => _stages[^1].Logits(row);

    /// <inheritdoc/>
    public void Dispose() => _stages.ForEach(s => s.Dispose());
}
