using Qwen.Native.Device;
using Qwen.Native.Kernels.Sampling;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>
/// Chooses tokens on the GPU: penalties and biases, then the likeliest or a drawn token, then log-probabilities. What the kernels read of all rows goes
/// over by one copy, what was chosen comes back by another.
/// </summary>
/// <remarks>
/// The host samples rows whose log-probabilities are wanted beside penalties or biases, which change the logits in place, and rows whose lists of tokens
/// find no room.
/// </remarks>
internal sealed unsafe class CudaSampler : LogitSampler
{
    // For penalties: tokens that a row of a full batch may have, and as many again as one long prompt.
    private const int EntriesPerRow = 2048, MoreEntries = 1 << 14;

    private readonly CudaBackend _backend;
    private readonly CudaOps? _ops; // null where a model is only measured, and so nothing is run
    private readonly CudaActivations _logits;
    private readonly DevicePointer _inputs, _results, _scratch;
    private readonly PinnedBuffer? _hostInputs, _hostResults;
    private readonly int[] _logprobs; // wanted of each row; none if negative
    private readonly bool[] _added;
    private readonly int _entryCapacity;
    private int _rows, _entries, _most;
    private bool _isEmpty, _draws, _adjusts;
    private bool _hasRun;

    /// <summary>Room for all rows.</summary>
    /// <param name="backend">What it is part of.</param>
    /// <param name="device">The device; null to measure only.</param>
    /// <param name="ops">Kernels, and the stream of the ops.</param>
    /// <param name="logits">The logits.</param>
    /// <param name="take">Gives device memory, all zeros.</param>
    public CudaSampler(CudaBackend backend, IDevice? device, CudaOps? ops, CudaActivations logits, Func<long, DevicePointer> take)
    {
        (_backend, _ops, _logits) = (backend, ops, logits);
        int rows = logits.Rows;
        _entryCapacity = (rows * EntriesPerRow) + MoreEntries;
        long inputBytes = ((long)rows * (SamplingRow.Bytes + PenaltyRow.Bytes)) + ((long)_entryCapacity * sizeof(SeenToken));
        long resultBytes = (long)rows * 2 * (1 + SamplingOptions.MostLogprobs) * sizeof(int);
        _inputs = take(inputBytes);
        _results = take(resultBytes);
        _scratch = take((long)rows * SampleKernels.ScratchBytes); // more than the likeliest token alone needs
        _logprobs = new int[rows];
        _added = new bool[rows];
        if (device is null)
            return;
        _hostInputs = device.AllocatePinned(inputBytes);
        _hostResults = device.AllocatePinned(resultBytes);
    }

    /// <inheritdoc/>
    public override bool HasRun => _hasRun;

    // The inputs: how each row is drawn, how it is changed, and then lists of tokens. They lie as close as this step's rows allow.
    private SamplingRow* Draws => (SamplingRow*)_hostInputs!.Pointer;

    private PenaltyRow* Penalties => (PenaltyRow*)(Draws + _rows);

    private SeenToken* Seen => (SeenToken*)(Penalties + _rows);

    private TokenBias* Biases => (TokenBias*)Seen;

    // The results: tokens, their log-probabilities, then the likeliest tokens and theirs.
    private int* Results => (int*)_hostResults!.Pointer;

    /// <inheritdoc/>
    public override void Begin(int rows)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, _logits.Rows);
        _rows = rows;
        _entries = 0;
        _most = -1;
        _isEmpty = true;
        _draws = _adjusts = _hasRun = false;
        _added.AsSpan(0, rows).Clear();
        _logprobs.AsSpan(0, rows).Fill(-1);
        new Span<SamplingRow>(Draws, rows).Clear(); // the likeliest token
        new Span<PenaltyRow>(Penalties, rows).Clear(); // nothing is changed
    }

    /// <inheritdoc/>
    public override bool TryAdd(int row, Sampler? sampler, ReadOnlySpan<int> drafted)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)_rows, nameof(row));
        if (sampler is not null && !TryTake(row, sampler, drafted))
            return false;
        _added[row] = true;
        _isEmpty = false;
        return true;
    }

    /// <inheritdoc/>
    public override void Run(int vocabulary)
    {
        if (_isEmpty)
            return;
        _hasRun = true;
        IDeviceStream stream = _ops!.Stream;
        int stride = _logits.Columns, most = Math.Min(Bucket(_most), vocabulary);
        _most = most;
        DevicePointer penalties = _inputs + ((long)_rows * SamplingRow.Bytes), entries = penalties + ((long)_rows * PenaltyRow.Bytes), chosen = _results + ((long)_rows * sizeof(int));
        if (_draws || _adjusts)
            stream.CopyToDevice(_inputs, _hostInputs!.Pointer, ((long)_rows * (SamplingRow.Bytes + PenaltyRow.Bytes)) + ((long)_entries * sizeof(SeenToken)));
        if (_adjusts)
            _ops.Penalty(stride).Launch(stream, _logits.Pointer, penalties, entries, entries, _rows);
        if (_draws)
            _ops.Sample(vocabulary, stride).Launch(stream, _logits.Pointer, _inputs, _results, _scratch, _rows);
        else
            _ops.Argmax(vocabulary, stride).Launch(stream, _logits.Pointer, _results, _scratch, _rows);
        if (most >= 0)
        {
            DevicePointer topTokens = chosen + ((long)_rows * sizeof(float)), top = topTokens + ((long)_rows * most * sizeof(int));
            _ops.Logprobs(vocabulary, most, stride).Launch(stream, _logits.Pointer, _results, chosen, topTokens, top, _rows);
        }

        stream.CopyToHost(Results, _results, (long)_rows * (most < 0 ? 1 : 2 * (1 + most)) * sizeof(int));
    }

    /// <inheritdoc/>
    public override void Wait()
    {
        if (_hasRun)
            _ops!.Stream.Synchronize();
    }

    /// <inheritdoc/>
    public override int? Token(int row)
    {
        if (!_hasRun || !_added[row])
            return null;
        int token = Results[row];
        return token >= 0 ? token : throw new NonFiniteLogitException(~token, _backend.Read(_logits, row, 1)[~token]);
    }

    /// <inheritdoc/>
    public override TokenLogprobs? Logprobs(int row)
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
    public override void Dispose()
    {
        _hostInputs?.Dispose();
        _hostResults?.Dispose();
    }

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
