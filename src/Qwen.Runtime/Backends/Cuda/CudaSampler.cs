using Qwen.Native.Device;
using Qwen.Native.Kernels.Sampling;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>
/// Chooses tokens on the GPU: penalties and biases, then the likeliest or a drawn token, then log-probabilities. What the kernels read of all rows goes
/// over by one copy, what was chosen comes back by another. Two steps may be under way, each with host memory of its own.
/// </summary>
/// <remarks>
/// The host samples rows whose log-probabilities are wanted beside penalties or biases, which change the logits in place, and rows whose lists of tokens
/// find no room.
/// </remarks>
internal sealed unsafe class CudaSampler : LogitSampler
{
    private readonly CudaBackend _backend;
    private readonly CudaOps? _ops; // null where a model is only measured, and so nothing is run
    private readonly CudaActivations _logits;
    private readonly DevicePointer _inputs, _results, _scratch;
    private readonly ChosenRows[] _steps = [];
    private int _newest, _waited; // of the steps
    private int _underWay;

    /// <summary>Room for all rows.</summary>
    /// <param name="backend">What it is part of.</param>
    /// <param name="device">The device; null to measure only.</param>
    /// <param name="ops">Kernels, and the stream of the ops.</param>
    /// <param name="logits">The logits.</param>
    /// <param name="take">Gives device memory, all zeros.</param>
    public CudaSampler(CudaBackend backend, IDevice? device, CudaOps? ops, CudaActivations logits, Func<long, DevicePointer> take)
    {
        (_backend, _ops, _logits) = (backend, ops, logits);
        _inputs = take(ChosenRows.InputBytes(logits.Rows));
        _results = take(ChosenRows.ResultBytes(logits.Rows));
        _scratch = take((long)logits.Rows * SampleKernels.ScratchBytes); // more than the likeliest token alone needs
        if (device is not null)
            _steps = [new ChosenRows(device, logits.Rows), new ChosenRows(device, logits.Rows)];
    }

    /// <summary>S32 [rows]: the tokens chosen last, in device memory.</summary>
    public DevicePointer Chosen => _results;

    /// <inheritdoc/>
    public override bool HasRun => _steps[_newest].HasRun;

    /// <inheritdoc/>
    public override void Begin(int rows)
    {
        if (_underWay == _steps.Length)
            throw new InvalidOperationException("Two steps are under way, and none was waited for.");
        _newest ^= 1;
        _steps[_newest].Begin(rows);
    }

    /// <inheritdoc/>
    public override bool TryAdd(int row, Sampler? sampler, ReadOnlySpan<int> drafted) => _steps[_newest].TryAdd(row, sampler, drafted);

    /// <inheritdoc/>
    public override void Run(int vocabulary)
    {
        ChosenRows step = _steps[_newest];
        step.Run(_ops!, _logits, vocabulary, _inputs, _results, _scratch);
        _underWay++;
    }

    /// <inheritdoc/>
    public override void Wait()
    {
        _waited = _underWay == 2 ? _newest ^ 1 : _newest;
        _underWay = Math.Max(_underWay - 1, 0);
        _steps[_waited].Wait();
    }

    /// <inheritdoc/>
    public override int? Token(int row)
    {
        if (_steps[_waited].Token(row) is not { } token)
            return null;
        if (token >= 0)
            return token;
        throw new NonFiniteLogitException(~token, _waited == _newest ? _backend.Read(_logits, row, 1)[~token] : null); // else they have made way for the next step's
    }

    /// <inheritdoc/>
    public override TokenLogprobs? Logprobs(int row) => _steps[_waited].Logprobs(row);

    /// <inheritdoc/>
    public override void Dispose()
    {
        foreach (ChosenRows step in _steps)
            step.Dispose();
    }
}
