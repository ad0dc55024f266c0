using System.Diagnostics;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Backends;

/// <summary>A backend that notes how long each op takes.</summary>
/// <param name="backend">What computes; it is disposed with this.</param>
/// <param name="profile">Where that is noted.</param>
internal sealed class ProfiledBackend(IBackend backend, OpProfile profile) : IBackend
{
    /// <inheritdoc/>
    public string Name => backend.Name;

    /// <inheritdoc/>
    public Activations Allocate(int rows, int columns, ActivationPrecision precision) => backend.Allocate(rows, columns, precision);

    /// <inheritdoc/>
    public LogitSampler? AllocateSampler(Activations logits) => backend.AllocateSampler(logits);

    /// <inheritdoc/>
    public LinearWeights LoadLinear(IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases) => backend.LoadLinear(matrices, biases);

    /// <inheritdoc/>
    public VectorWeights LoadVector(Tensor vector) => backend.LoadVector(vector);

    /// <inheritdoc/>
    public KvCache AllocateCache(KvCacheShape shape) => backend.AllocateCache(shape);

    /// <inheritdoc/>
    public void Begin(Batch batch, KvCache cache)
    {
        long start = Stopwatch.GetTimestamp();
        backend.Begin(batch, cache);
        Note(start, nameof(Begin));
    }

    /// <summary>Calls the ops one by one, whatever the backend would do: so that each is timed.</summary>
    public void Run(Action ops) => ops();

    /// <inheritdoc/>
    public void Embed(LinearWeights table, Activations hidden)
    {
        long start = Stopwatch.GetTimestamp();
        backend.Embed(table, hidden);
        Note(start, nameof(Embed));
    }

    /// <inheritdoc/>
    public void RmsNorm(Activations x, VectorWeights weight, float epsilon, Activations y, int rows, LinearWeights next)
    {
        long start = Stopwatch.GetTimestamp();
        backend.RmsNorm(x, weight, epsilon, y, rows, next);
        Note(start, nameof(RmsNorm));
    }

    /// <inheritdoc/>
    public void Linear(Activations x, LinearWeights weights, Activations y, int rows)
    {
        long start = Stopwatch.GetTimestamp();
        backend.Linear(x, weights, y, rows);
        Note(start, nameof(Linear), weights);
    }

    /// <inheritdoc/>
    public void AddLinear(Activations x, LinearWeights weights, Activations hidden, int rows, HiddenNorm? norm)
    {
        long start = Stopwatch.GetTimestamp();
        backend.AddLinear(x, weights, hidden, rows, norm);
        Note(start, nameof(AddLinear), weights);
    }

    /// <inheritdoc/>
    public void RopeAndStore(Activations qkv, AttentionLayer layer)
    {
        long start = Stopwatch.GetTimestamp();
        backend.RopeAndStore(qkv, layer);
        Note(start, nameof(RopeAndStore));
    }

    /// <inheritdoc/>
    public void Attention(Activations qkv, AttentionLayer layer, Activations attended)
    {
        long start = Stopwatch.GetTimestamp();
        backend.Attention(qkv, layer, attended);
        Note(start, nameof(Attention));
    }

    /// <inheritdoc/>
    public void GatedLinear(Activations x, LinearWeights gateUp, Activations y, LinearWeights next)
    {
        long start = Stopwatch.GetTimestamp();
        backend.GatedLinear(x, gateUp, y, next);
        Note(start, nameof(GatedLinear), gateUp);
    }

    /// <inheritdoc/>
    public void SelectLogitRows(Activations hidden, Activations selected, int rows)
    {
        long start = Stopwatch.GetTimestamp();
        backend.SelectLogitRows(hidden, selected, rows);
        Note(start, nameof(SelectLogitRows));
    }

    /// <inheritdoc/>
    public Span<float> Read(Activations activations, int firstRow, int rows) => backend.Read(activations, firstRow, rows);

    /// <inheritdoc/>
    public void Write(ReadOnlySpan<float> values, Activations activations) => backend.Write(values, activations);

    /// <inheritdoc/>
    public void Synchronize() => backend.Synchronize();

    /// <inheritdoc/>
    public double MeasureReadBandwidth() => backend.MeasureReadBandwidth();

    /// <inheritdoc/>
    public void Dispose() => backend.Dispose();

    private void Note(long start, string op, LinearWeights? weights = null)
    {
        backend.Synchronize(); // a GPU has only been told so far
        profile.Add(op, Stopwatch.GetTimestamp() - start, weights);
    }
}

/// <summary>How long each op took, by name and shape.</summary>
public sealed class OpProfile
{
    private readonly Dictionary<(string Op, int Outputs, int Inputs), OpTimes> _ops = [];

    /// <summary>The ops called since the last <see cref="Reset"/>, slowest in all first.</summary>
    public IReadOnlyList<OpTimes> Ops => [.. _ops.Values.Where(o => o.Calls > 0).OrderByDescending(o => o.Ticks)];

    /// <summary>Starts anew.</summary>
    public void Reset()
    {
        foreach (OpTimes op in _ops.Values)
            (op.Calls, op.Ticks, op.Bytes) = (0, 0, 0);
    }

    internal void Add(string op, long ticks, LinearWeights? weights)
    {
        var key = (op, weights?.Outputs ?? 0, weights?.Inputs ?? 0);
        if (!_ops.TryGetValue(key, out OpTimes? times))
            _ops[key] = times = new OpTimes(weights is null ? op : $"{op} [{weights.Outputs}, {weights.Inputs}]");
        times.Calls++;
        times.Ticks += ticks;
        times.Bytes += weights?.ByteCount ?? 0;
    }
}

/// <summary>What one kind of op took.</summary>
/// <param name="name">The op and the shape of its weights.</param>
public sealed class OpTimes(string name)
{
    /// <summary>The op and the shape of its weights.</summary>
    public string Name { get; } = name;

    /// <summary>Times it ran.</summary>
    public long Calls { get; internal set; }

    /// <summary>In all.</summary>
    public TimeSpan Time => Stopwatch.GetElapsedTime(0, Ticks);

    /// <summary>Bytes of weights that all calls read.</summary>
    public long Bytes { get; internal set; }

    internal long Ticks { get; set; }
}
