using Qwen.Native.Device;
using Qwen.Native.Kernels.Sampling;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>The rows of a step of which tokens are chosen on the GPU: how, and what came of it.</summary>
internal sealed unsafe class ChosenRows : IDisposable
{
    // For penalties: tokens that a row of a full batch may have, and as many again as one long prompt.
    private const int EntriesPerRow = 2048, MoreEntries = 1 << 14;

    private readonly PinnedBuffer _inputs, _results;
    private readonly IDeviceEvent _done;
    private readonly int[] _logprobs; // wanted of each row; none if negative
    private readonly bool[] _added;
    private readonly int _entryCapacity;
    private int _rows, _entries, _most;
    private bool _isEmpty, _draws, _adjusts;

    public ChosenRows(IDevice device, int rows)
    {
        _inputs = device.AllocatePinned(InputBytes(rows));
        _results = device.AllocatePinned(ResultBytes(rows));
        _done = device.CreateEvent();
        _entryCapacity = EntryCapacity(rows);
        _logprobs = new int[rows];
        _added = new bool[rows];
    }

    /// <summary>Tokens were chosen, or are on their way.</summary>
    public bool HasRun { get; private set; }

    // The inputs: how each row is drawn, how it is changed, and then lists of tokens. They lie as close as this step's rows allow.
    private SamplingRow* Draws => (SamplingRow*)_inputs.Pointer;

    private PenaltyRow* Penalties => (PenaltyRow*)(Draws + _rows);

    private SeenToken* Seen => (SeenToken*)(Penalties + _rows);

    private TokenBias* Biases => (TokenBias*)Seen;

    // The results: tokens, their log-probabilities, then the likeliest tokens and theirs.
    private int* Results => (int*)_results.Pointer;

    /// <summary>Bytes that the kernels read, of so many rows.</summary>
    public static long InputBytes(int rows) => ((long)rows * (SamplingRow.Bytes + PenaltyRow.Bytes)) + ((long)EntryCapacity(rows) * sizeof(SeenToken));

    /// <summary>Bytes that they write.</summary>
    public static long ResultBytes(int rows) => (long)rows * 2 * (1 + SamplingOptions.MostLogprobs) * sizeof(int);

    public void Begin(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, _added.Length);
        _rows = rows;
        _entries = 0;
        _most = -1;
        _isEmpty = true;
        _draws = _adjusts = HasRun = false;
        _added.AsSpan(0, rows).Clear();
        _logprobs.AsSpan(0, rows).Fill(-1);
        new Span<SamplingRow>(Draws, rows).Clear(); // the likeliest token
        new Span<PenaltyRow>(Penalties, rows).Clear(); // nothing is changed
    }

    /// <inheritdoc cref="LogitSampler.TryAdd"/>
    public bool TryAdd(int row, Sampler? sampler, ReadOnlySpan<int> drafted)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)_rows, nameof(row));
        if (sampler is not null && !TryTake(row, sampler, drafted))
            return false;
        _added[row] = true;
        _isEmpty = false;
        return true;
    }

    /// <summary>Puts the kernels and copies on their way.</summary>
    public void Run(CudaOps ops, CudaActivations logits, int vocabulary, DevicePointer inputs, DevicePointer results, DevicePointer scratch)
    {
        if (_isEmpty)
            return;
        HasRun = true;
        IDeviceStream stream = ops.Stream;
        int stride = logits.Columns, most = Math.Min(Bucket(_most), vocabulary);
        _most = most;
        DevicePointer penalties = inputs + ((long)_rows * SamplingRow.Bytes), entries = penalties + ((long)_rows * PenaltyRow.Bytes), chosen = results + ((long)_rows * sizeof(int));
        if (_draws || _adjusts)
            stream.CopyToDevice(inputs, _inputs.Pointer, ((long)_rows * (SamplingRow.Bytes + PenaltyRow.Bytes)) + ((long)_entries * sizeof(SeenToken)));
        if (_adjusts)
            ops.Penalty(stride).Launch(stream, logits.Pointer, penalties, entries, entries, _rows);
        if (_draws)
            ops.Sample(vocabulary, stride).Launch(stream, logits.Pointer, inputs, results, scratch, _rows);
        else
            ops.Argmax(vocabulary, stride).Launch(stream, logits.Pointer, results, scratch, _rows);
        if (most >= 0)
        {
            DevicePointer topTokens = chosen + ((long)_rows * sizeof(float)), top = topTokens + ((long)_rows * most * sizeof(int));
            ops.Logprobs(vocabulary, most, stride).Launch(stream, logits.Pointer, results, chosen, topTokens, top, _rows);
        }

        stream.CopyToHost(Results, results, (long)_rows * (most < 0 ? 1 : 2 * (1 + most)) * sizeof(int));
        stream.Record(_done);
    }

    /// <summary>Waits for what <see cref="Run"/> put on its way.</summary>
    public void Wait()
    {
        if (HasRun)
            _done.Synchronize();
    }

    /// <summary>A row's token, or its complement where a logit is not finite; null if it was not added.</summary>
    public int? Token(int row) => HasRun && _added[row] ? Results[row] : null;

    /// <inheritdoc cref="LogitSampler.Logprobs"/>
    public TokenLogprobs? Logprobs(int row)
    {
        if (_logprobs[row] < 0)
            return null;
        var top = new (int Id, double Logprob)[Math.Min(_logprobs[row], _most)];
        int* tokens = Results + (2 * _rows) + (row * _most);
        float* logprobs = (float*)(tokens + (_rows * _most));
        for (int i = 0; i < top.Length; i++)
            top[i] = (tokens[i], logprobs[i]);
        return new TokenLogprobs(((float*)Results)[_rows + row], top);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _done.Dispose();
        _inputs.Dispose();
        _results.Dispose();
    }

    private static int EntryCapacity(int rows) => (rows * EntriesPerRow) + MoreEntries;

    /// <summary>Few kernels for any number of log-probabilities.</summary>
    private static int Bucket(int most) => most <= 0 ? most : most <= 5 ? 5 : SamplingOptions.MostLogprobs;

    private bool TryTake(int row, Sampler sampler, ReadOnlySpan<int> drafted)
    {
        SamplingParameters how = sampler.Parameters;
        ReadOnlySpan<TokenBias> biases = sampler.Biases(drafted.Length);
        int room = sampler.MostSeen(drafted.Length) + biases.Length;
        if (room > _entryCapacity - _entries || (room > 0 && how.Logprobs is not null))
            return false;
        if (room > 0)
        {
            int seen = sampler.WriteSeen(drafted, new Span<SeenToken>(Seen + _entries, room));
            biases.CopyTo(new Span<TokenBias>(Biases + _entries + seen, biases.Length));
            Penalties[row] = new PenaltyRow(_entries, seen, _entries + seen, biases.Length, how.RepetitionPenalty, how.PresencePenalty, how.FrequencyPenalty);
            _entries += seen + biases.Length;
            _adjusts = true;
        }

        if (how.Temperature != 0)
        {
            Draws[row] = new SamplingRow(how.Temperature, how.TopK, how.TopP, how.MinP, sampler.Uniform(drafted.Length));
            _draws = true;
        }

        if (how.Logprobs is { } count)
        {
            _logprobs[row] = count;
            _most = Math.Max(_most, count);
        }

        return true;
    }
}
