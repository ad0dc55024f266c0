using Qwen.Cpu;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Backends;

/// <summary>
/// The ops on this machine's vector units. Weights stay where the file is mapped, but for AWQ and GPTQ (see <see cref="CpuLinearWeights"/>); activations are F32. Every result depends on its own
/// token alone, bit for bit, whatever the batch, the chunking and the number of threads.
/// </summary>
public sealed unsafe class CpuBackend : IBackend
{
    private readonly WorkerPool _pool;
    private int _maxTokens, _maxColumns;
    private Projection? _projection;
    private NativeBuffer<float>? _cos, _sin;
    private NativeBuffer<byte>? _attentionScratch;
    private AttentionSequence[] _sequences = [];
    private Batch _batch = null!; // the step's, from Begin on
    private CpuKvCache _cache = null!;

    /// <summary>Starts the threads.</summary>
    /// <param name="threads">How many, the calling one included; 0 for as many as the process may use.</param>
    public CpuBackend(int threads = 0) => _pool = new WorkerPool(threads);

    /// <inheritdoc/>
    public string Name => $"cpu ({Simd.Name}, {Threads} thread{(Threads == 1 ? "" : "s")})";

    /// <summary>Threads that compute.</summary>
    public int Threads => _pool.Threads;

    /// <summary>Bytes of keys and values of one token over all layers.</summary>
    public static long KvBytesPerToken(ModelConfig config, KvCacheType type) =>
        2L * config.Layers * config.KvHeads * CpuKvCache.ElementType(type).VectorBytes(config.HeadDim);

    /// <inheritdoc/>
    public double MeasureReadBandwidth() => MemoryBandwidth.Measure(_pool);

    /// <inheritdoc/>
    public Activations Allocate(int rows, int columns, ActivationPrecision precision)
    {
        _maxTokens = Math.Max(_maxTokens, rows);
        return new CpuActivations(rows, columns);
    }

    /// <inheritdoc/>
    public LinearWeights LoadLinear(IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases)
    {
        var weights = new CpuLinearWeights(_pool, matrices, biases);
        _maxColumns = Math.Max(_maxColumns, weights.Inputs);
        return weights;
    }

    /// <inheritdoc/>
    public VectorWeights LoadVector(Tensor vector) => new CpuVectorWeights(vector);

    /// <inheritdoc/>
    public LogitSampler? AllocateSampler(Activations logits) => null;

    /// <inheritdoc/>
    public KvCache AllocateCache(KvCacheShape shape) => new CpuKvCache(shape);

    /// <inheritdoc/>
    public void Begin(Batch batch, KvCache cache)
    {
        _batch = batch;
        _cache = (CpuKvCache)cache;
        RotaryAngles rotary = _cache.Shape.Rotary;
        int pairs = rotary.InverseFrequencies.Length;
        _projection ??= new Projection(_pool, _maxTokens, _maxColumns);
        _cos ??= new NativeBuffer<float>((long)_maxTokens * pairs);
        _sin ??= new NativeBuffer<float>((long)_maxTokens * pairs);
        Rope.ComputeAngles(batch.Positions, batch.TokenCount, rotary.InverseFrequencies, rotary.Magnitude, _cos.Pointer, _sin.Pointer);
        for (int t = 0; _cache.Rotations is { } rotations && t < batch.TokenCount; t++)
            rotations.Reach(batch.Positions[t]);

        if (_sequences.Length < batch.SequenceCount)
            _sequences = new AttentionSequence[batch.MaxSequences];
        for (int i = 0; i < batch.SequenceCount; i++)
        {
            BatchSequence s = batch.Sequences[i];
            _sequences[i] = new AttentionSequence { FirstToken = s.FirstToken, Tokens = s.Tokens, FirstPosition = s.FirstPosition, Blocks = s.Blocks };
        }
    }

    /// <inheritdoc/>
    public void Run(Action ops) => ops();

    /// <inheritdoc/>
    public void Embed(LinearWeights table, Activations hidden)
    {
        var job = new EmbedJob(((CpuLinearWeights)table).Matrix.Parts[0], _batch.Tokens, Values(hidden), hidden.Columns);
        _pool.Run(ref job, _batch.TokenCount, grain: 8);
    }

    /// <inheritdoc/>
    public void RmsNorm(Activations x, VectorWeights weight, float epsilon, Activations y, int rows, LinearWeights next) =>
        Cpu.RmsNorm.Apply(_pool, Values(x), x.Columns, Values(weight), epsilon, Values(y), y.Columns, rows, weight.Length);

    /// <inheritdoc/>
    public void Linear(Activations x, LinearWeights weights, Activations y, int rows) =>
        _projection!.Linear(((CpuLinearWeights)weights).Matrix, Values(x), x.Columns, rows, Values(y), y.Columns, accumulate: false);

    /// <inheritdoc/>
    public void AddLinear(Activations x, LinearWeights weights, Activations hidden, int rows, HiddenNorm? norm)
    {
        _projection!.Linear(((CpuLinearWeights)weights).Matrix, Values(x), x.Columns, rows, Values(hidden), hidden.Columns, accumulate: true);
        if (norm is { } after)
            RmsNorm(hidden, after.Weight, after.Epsilon, after.Result, rows, after.Next);
    }

    /// <inheritdoc/>
    public void GatedLinear(Activations x, LinearWeights gateUp, Activations y, LinearWeights next) =>
        _projection!.Gated(((CpuLinearWeights)gateUp).Matrix, Values(x), x.Columns, _batch.TokenCount, Values(y), y.Columns);

    /// <inheritdoc/>
    public void RopeAndStore(Activations qkv, AttentionLayer layer)
    {
        var job = new RopeAndStoreJob(
            Values(qkv), qkv.Columns, layer.Heads, layer.QueryNorm is null ? null : Values(layer.QueryNorm), layer.KeyNorm is null ? null : Values(layer.KeyNorm),
            layer.NormEpsilon, KeyBiasOf(layer), _cos!.Pointer, _sin!.Pointer, _cache.Layer(layer.Layer), _batch.Slots);
        _pool.Run(ref job, _batch.TokenCount, grain: 2);
    }

    /// <inheritdoc/>
    public void Attention(Activations qkv, AttentionLayer layer, Activations attended)
    {
        _attentionScratch ??= new NativeBuffer<byte>(
            PagedAttention.ScratchBytes(Threads, _batch.MaxSequences, layer.Heads, layer.KvHeads, layer.HeadDim));
        float scale = 1 / MathF.Sqrt(layer.HeadDim);
        float* bias = KeyBiasOf(layer);
        PagedAttention.Run(
            _pool, _cache.Layer(layer.Layer), _sequences.AsSpan(0, _batch.SequenceCount), Values(qkv), qkv.Columns, layer.Heads, scale, layer.SlidingWindow,
            Values(attended), attended.Columns, _attentionScratch.Pointer, bias is null ? default : new KeyBias(bias, _cache.Rotations!));
    }

    /// <inheritdoc/>
    public void SelectLogitRows(Activations hidden, Activations selected, int rows)
    {
        for (int i = 0; i < rows; i++)
            Read(hidden, _batch.LogitRows[i], 1).CopyTo(Read(selected, i, 1));
    }

    /// <inheritdoc/>
    public Span<float> Read(Activations activations, int firstRow, int rows)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(firstRow);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, activations.Rows - firstRow);
        return new Span<float>(Values(activations) + ((long)firstRow * activations.Columns), checked(rows * activations.Columns));
    }

    /// <inheritdoc/>
    public void Write(ReadOnlySpan<float> values, Activations activations) => values.CopyTo(Read(activations, 0, values.Length / activations.Columns));

    /// <summary>Nothing to wait for: an op is done when its call returns.</summary>
    public void Synchronize()
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _projection?.Dispose();
        _cos?.Dispose();
        _sin?.Dispose();
        _attentionScratch?.Dispose();
        _pool.Dispose();
    }

    private static float* Values(Activations activations) => ((CpuActivations)activations).Values;

    private static float* Values(VectorWeights weights) => ((CpuVectorWeights)weights).Values;

    /// <summary>The bias that a quantized cache holds the keys without; null for none.</summary>
    private float* KeyBiasOf(AttentionLayer layer) => _cache.Rotations is not null && layer.KeyBias is { } bias ? Values(bias) : null;

    private readonly struct EmbedJob(WeightMatrix table, int* tokens, float* hidden, int columns) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            for (int t = from; t < to; t++)
                Embedding.Row(table, tokens[t], hidden + ((long)t * columns));
        }
    }

    private readonly struct RopeAndStoreJob(
        float* qkv, int columns, int heads, float* queryNorm, float* keyNorm, float epsilon, float* keyBias, float* cos, float* sin, KvLayer cache, int* slots) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            int headDim = cache.HeadDim, pairs = headDim / 2;
            for (int t = from; t < to; t++)
            {
                float* queries = qkv + ((long)t * columns), keys = queries + (heads * headDim), values = keys + (cache.Heads * headDim);
                for (int i = 0; keyBias is not null && i < cache.Heads * headDim; i++)
                    keys[i] -= keyBias[i];
                for (float* head = queries; head < values; head += headDim)
                {
                    float* norm = head < keys ? queryNorm : keyNorm;
                    if (norm is not null)
                        Cpu.RmsNorm.Row(head, norm, epsilon, head, headDim);
                    Rope.Head(head, headDim, cos + ((long)t * pairs), sin + ((long)t * pairs));
                }

                cache.Write(keys, values, slots[t]);
            }
        }
    }
}
