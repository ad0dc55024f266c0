using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>
/// The ops on a GPU. Activations within a layer are F16 or BF16, sums, the residual stream and logits F32. Calls only put work on a stream;
/// <see cref="Read"/> waits. A token's results may depend on the size of its batch in their last bits, as the matrix library picks its
/// algorithm by it.
/// </summary>
internal sealed unsafe class CudaBackend : IBackend
{
    private readonly IDevice _device;
    private readonly CudaSettings _settings;
    private readonly DeviceArena _weights, _workspace;
    private readonly CudaOps? _ops; // null where a model is only measured, as are all that run
    private readonly CudaLoader _loader;
    private readonly CudaStep _step;
    private readonly DecodeGraphs? _graphs;
    private readonly IDeviceEvent? _written;
    private readonly DevicePointer _gateUp, _attention, _squares;
    private CudaKvCache _cache = null!; // the step's, from Begin on
    private DevicePointer _chosen; // the tokens of the step before, which a batch may refer to
    private long _steps; // so far
    private bool _isLoading = true;

    /// <summary>A backend with room for what was measured.</summary>
    /// <param name="device">The device; it outlives the backend.</param>
    /// <param name="settings">What it's made for.</param>
    /// <param name="sums">From <see cref="Sums"/> of a measure that loaded the same.</param>
    /// <exception cref="DeviceOutOfMemoryException">There is not that much.</exception>
    public CudaBackend(IDevice device, CudaSettings settings, CudaSums sums)
        : this(device, settings, DeviceArena.Allocate(device, sums.Weights), DeviceArena.Allocate(device, sums.Workspace), new CudaOps(device, settings.Type, settings.Rows))
    {
    }

    private CudaBackend(IDevice device, CudaSettings settings, DeviceArena weights, DeviceArena workspace, CudaOps? ops)
    {
        (_device, _settings, _weights, _workspace, _ops) = (device, settings, weights, workspace, ops);
        _loader = new CudaLoader(device, settings.Type, settings.Rows, weights, ops is null ? null : new PinnedStaging(device, ops.Stream));
        _step = new CudaStep(ops is null ? null : device, workspace, settings.Rows, settings.Sequences, settings.BlocksPerSequence);
        _gateUp = Take((long)settings.Rows * 2 * settings.Config.IntermediateSize * sizeof(ushort));
        _attention = Take(AttentionBytes);
        _squares = Take((long)DenseGemvKernel.MostTokens * ((settings.Config.HiddenSize / FusedNormArguments.PartColumns) + 1) * sizeof(float));
        if (ops is null)
            return;
        _graphs = new DecodeGraphs(ops.Stream);
        _written = device.CreateEvent();
    }

    /// <inheritdoc/>
    public string Name => $"cuda ({_device.Info.Name}, {(_settings.Type == ElementType.F16 ? "float16" : "bfloat16")})";

    /// <summary>Graphs of decoding steps that were captured.</summary>
    public int Graphs => _graphs?.Count ?? 0;

    /// <summary>What was taken so far, with what the first step takes.</summary>
    public CudaSums Sums => new(_weights.Used, _workspace.Used + (_isLoading ? Late.Sum(bytes => bytes == 0 ? 0 : DeviceArena.Round(bytes)) : 0));

    /// <summary>A backend that loads nothing and computes nothing, but counts what that takes.</summary>
    public static CudaBackend Measure(IDevice device, CudaSettings settings) => new(device, settings, DeviceArena.Measure(), DeviceArena.Measure(), null);

    /// <inheritdoc/>
    public Activations Allocate(int rows, int columns, ActivationPrecision precision)
    {
        ElementType type = precision == ActivationPrecision.Full ? ElementType.F32 : _settings.Type;
        int most = (rows + 7) / 8 * 8; // padding
        return new CudaActivations(most, columns, type, Take((long)most * columns * type.Bytes()));
    }

    /// <inheritdoc/>
    public LogitSampler AllocateSampler(Activations logits)
    {
        var sampler = new CudaSampler(this, _ops is null ? null : _device, _ops, (CudaActivations)logits, Take);
        _chosen = sampler.Chosen;
        return sampler;
    }

    /// <inheritdoc/>
    public LinearWeights LoadLinear(IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases) => CudaLinear.Load(_loader, matrices, biases);

    /// <inheritdoc/>
    public VectorWeights LoadVector(Tensor vector)
    {
        var values = new float[checked((int)vector.ElementCount)];
        Dequantizer.Dequantize(vector.Type, vector.Bytes, values);
        return new CudaVector(values.Length, _loader.Upload<float>(values));
    }

    /// <inheritdoc/>
    public KvCache AllocateCache(KvCacheShape shape)
    {
        FinishLoading();
        return new CudaKvCache(_device, _ops!.Stream, shape);
    }

    /// <inheritdoc/>
    public void Begin(Batch batch, KvCache cache)
    {
        _steps++;
        _cache = (CudaKvCache)cache;
        _step.Upload(_ops!.Stream, batch, _settings.BlockSize);
    }

    /// <inheritdoc/>
    public void Run(Action ops)
    {
        if (_step.PaddedRows > 0)
            _graphs!.Run(ops, _cache, _step.PaddedRows);
        else
            ops();
    }

    /// <inheritdoc/>
    public void Embed(LinearWeights table, Activations hidden)
    {
        var dense = (DenseLinear)table;
        _ops!.Embedding(_settings.Type, dense.Inputs).Launch(_ops.Stream, _step.Tokens, dense.Weights, Pointer(hidden), _step.TokenRows, chosen: _chosen);
    }

    /// <inheritdoc/>
    public void RmsNorm(Activations x, VectorWeights weight, float epsilon, Activations y, int rows, LinearWeights next)
    {
        rows = _step.Rows(rows);
        var normed = (CudaActivations)y;
        normed.Norm = default;
        normed.Quantized = ((CudaLinear)next).InputScale(_ops!, rows);
        bool isQuantized = normed.Quantized != MatmulScale.None;
        _ops!.RmsNorm(isQuantized ? ElementType.E4M3 : normed.Type, weight.Length, normed.Quantized).Launch(
            _ops.Stream, Pointer(x), ((CudaVector)weight).Pointer, epsilon, normed.Pointer, rows, scales: isQuantized ? normed.Scales : default);
    }

    /// <inheritdoc/>
    public void Linear(Activations x, LinearWeights weights, Activations y, int rows)
    {
        var (input, result) = ((CudaActivations)x, (CudaActivations)y);
        Multiply(input, (CudaLinear)weights, result.Pointer, result.Type, _step.Rows(rows), accumulate: false, input.Norm);
    }

    /// <inheritdoc/>
    public void AddLinear(Activations x, LinearWeights weights, Activations hidden, int rows, HiddenNorm? norm)
    {
        int padded = _step.Rows(rows);
        var normed = (CudaActivations?)norm?.Result;
        // BF16 holds a hidden state that is not divided yet, F16 might not.
        bool fused = normed is not null && _settings.Type == ElementType.BF16 && padded <= DenseGemvKernel.MostTokens;
        FusedNormArguments half = fused ? new(FusedNorm.OfResult, _squares, Weight: Pointer(norm!.Value.Weight), Scaled: normed!.Pointer) : default;
        Multiply((CudaActivations)x, (CudaLinear)weights, Pointer(hidden), ElementType.F32, padded, accumulate: true, half);
        if (fused)
            (normed!.Quantized, normed.Norm) = (MatmulScale.None, new(FusedNorm.OfInput, _squares, norm!.Value.Epsilon));
        else if (norm is { } after)
            RmsNorm(hidden, after.Weight, after.Epsilon, after.Result, rows, after.Next);
    }

    /// <inheritdoc/>
    public void GatedLinear(Activations x, LinearWeights gateUp, Activations y, LinearWeights next)
    {
        (CudaActivations input, CudaActivations activated, CudaLinear weights, int rows) = ((CudaActivations)x, (CudaActivations)y, (CudaLinear)gateUp, _step.TokenRows);
        activated.Quantized = ((CudaLinear)next).InputScale(_ops!, rows);
        if (input.Quantized == MatmulScale.None && activated.Quantized == MatmulScale.None)
        {
            weights.MultiplyGated(_ops!, input.Pointer, _gateUp, activated.Pointer, rows, input.Norm);
            return;
        }

        Multiply(input, weights, _gateUp, _settings.Type, rows, accumulate: false, input.Norm);
        if (activated.Quantized == MatmulScale.None)
            _ops!.SwiGlu.Launch(_ops.Stream, _gateUp, activated.Pointer, rows, activated.Columns);
        else
            _ops!.SwiGluQuantize(activated.Columns, activated.Quantized).Launch(_ops.Stream, _gateUp, activated.Pointer, activated.Scales, rows);
    }

    /// <inheritdoc/>
    public void RopeAndStore(Activations qkv, AttentionLayer layer)
    {
        if (_step.PrefillingCount == 0)
            return; // decode attention does it
        RotaryPointers rotary = RotaryOf(layer);
        _ops!.RopeAndStore(ShapeOf(layer) with { SlidingWindow = 0 }).Launch(
            _ops.Stream, Pointer(qkv), _step.Positions, _step.Slots, rotary.Rotations, _cache.Layer(layer.Layer), _step.TokenRows,
            rotary.QueryNorm, rotary.KeyNorm, rotary.Epsilon, rotary.KeyBias);
    }

    /// <inheritdoc/>
    public void Attention(Activations qkv, AttentionLayer layer, Activations attended)
    {
        AttentionShape shape = ShapeOf(layer);
        KvLayerPointers cache = _cache.Layer(layer.Layer);
        RotaryPointers rotary = RotaryOf(layer);
        if (_step.DecodingCount > 0)
            _ops!.Decode(shape, _settings.AttentionTiling ?? DecodeTiling.Default).Launch(_ops.Stream, Pointer(qkv), Pointer(attended), cache, rotary, _step.Decoding, _attention);
        if (_step.PrefillingCount > 0)
        {
            KeyBiasPointers bias = shape.HasKeyBias ? new KeyBiasPointers(rotary.KeyBias, rotary.Rotations) : default;
            _ops!.Prefill(shape with { HasQkNorm = false }).Launch(
                _ops.Stream, Pointer(qkv), Pointer(attended), cache, _step.Sequences, _step.Prefilling, _step.PrefillingCount, _step.LongestChunk, bias);
        }
    }

    /// <inheritdoc/>
    public void SelectLogitRows(Activations hidden, Activations selected, int rows) =>
        _ops!.GatherRows(hidden.Columns * sizeof(float)).Launch(_ops.Stream, Pointer(hidden), _step.LogitRows, Pointer(selected), _step.Rows(rows));

    /// <inheritdoc/>
    public Span<float> Read(Activations activations, int firstRow, int rows)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(firstRow);
        ArgumentOutOfRangeException.ThrowIfNegative(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(rows, activations.Rows - firstRow);
        var from = (CudaActivations)activations;
        long first = (long)firstRow * from.Columns;
        float* host = Host(from) + first;
        if (from.Read.Step != _steps || firstRow < from.Read.First || firstRow + rows > from.Read.End)
        {
            _ops!.Stream.CopyToHost(host, from.Pointer + (first * sizeof(float)), (long)rows * from.Columns * sizeof(float));
            _ops.Stream.Synchronize();
            from.Read = (firstRow, firstRow + rows, _steps);
        }

        return new Span<float>(host, checked(rows * from.Columns));
    }

    /// <inheritdoc/>
    public void Write(ReadOnlySpan<float> values, Activations activations)
    {
        var to = (CudaActivations)activations;
        _written!.Synchronize(); // the copy of the write before has read the host's buffer
        values.CopyTo(new Span<float>(Host(to), checked(to.Rows * to.Columns)));
        _ops!.Stream.CopyToDevice(to.Pointer, Host(to), (long)values.Length * sizeof(float));
        _ops.Stream.Record(_written);
    }

    /// <inheritdoc/>
    public void Synchronize() => _ops!.Stream.Synchronize();

    /// <inheritdoc/>
    public double MeasureReadBandwidth() => CopyBandwidth.Measure(_device);

    /// <inheritdoc/>
    public void Dispose()
    {
        _loader.Staging?.Dispose();
        _graphs?.Dispose();
        _written?.Dispose();
        _step.Dispose();
        _ops?.Dispose();
        _weights.Dispose();
        _workspace.Dispose();
    }

    private void Multiply(CudaActivations x, CudaLinear weights, DevicePointer y, ElementType result, int rows, bool accumulate, in FusedNormArguments norm)
    {
        if (x.Quantized == MatmulScale.None)
            weights.Multiply(_ops!, x.Pointer, y, result, rows, accumulate, norm);
        else
            ((Float8Linear)weights).MultiplyQuantized(_ops!, x.Pointer, x.Scales, y, result, rows, accumulate);
    }

    private static DevicePointer Pointer(Activations activations) => ((CudaActivations)activations).Pointer;

    private static DevicePointer Pointer(VectorWeights? vector) => vector is null ? default : ((CudaVector)vector).Pointer;

    /// <summary>What blocks of decoding attention leave each other, as many as the device can hold: the same for all its shapes, which use it in turn.</summary>
    private long AttentionBytes
    {
        get
        {
            const int LeastThreads = 128;
            ModelConfig config = _settings.Config;
            var shape = new AttentionShape(_settings.Type, _settings.Type, config.Heads, config.KvHeads, config.HeadDim, _settings.BlockSize);
            return DecodeAttentionKernel.MaxWorkspaceBytes(shape, (long)_device.Info.Multiprocessors * _device.Info.ThreadsPerMultiprocessor / LeastThreads);
        }
    }

    /// <summary>What is known only when all weights are: room for inputs in another form, for the sums of products that blocks share, and for unpacked weights.</summary>
    private long[] Late => [_loader.InputBytes, GemmKernel.MostWorkspaceBytes(_device.Info.Multiprocessors, _loader.Rows), _loader.UnpackedBytes];

    private RotaryPointers RotaryOf(AttentionLayer layer) =>
        new(_cache.RopeTable, ShapeOf(layer).HasKeyBias ? Pointer(layer.KeyBias) : default, Pointer(layer.QueryNorm), Pointer(layer.KeyNorm), layer.NormEpsilon);

    private AttentionShape ShapeOf(AttentionLayer layer)
    {
        ElementType stored = CudaKvCache.Element(_cache.Shape.Type);
        return new AttentionShape(
            _settings.Type, stored, layer.Heads, layer.KvHeads, layer.HeadDim, _settings.BlockSize, layer.SlidingWindow, HasKeyBias: layer.KeyBias is not null && stored.Bytes() == 1,
            HasQkNorm: layer.QueryNorm is not null);
    }

    private float* Host(CudaActivations activations)
    {
        if (activations.Type != ElementType.F32)
            throw new ArgumentException("Only full activations cross to the host.", nameof(activations));
        return (float*)(activations.Host ??= _device.AllocatePinned((long)activations.Rows * activations.Columns * sizeof(float))).Pointer;
    }

    /// <summary>Workspace, all zeros: padding rows are read before anything is written to them.</summary>
    private DevicePointer Take(long bytes)
    {
        if (bytes == 0)
            return default;
        DevicePointer piece = _workspace.Take(bytes);
        _ops?.Stream.Fill(piece, 0, bytes);
        return piece;
    }

    /// <summary>Frees what only loading needs, and takes what only now is known.</summary>
    private void FinishLoading()
    {
        if (!_isLoading)
            return;
        _isLoading = false;
        _loader.Staging!.Dispose();
        (_ops!.Inputs, _ops.PartialSums, _ops.Unpacked) = (Take(Late[0]), Take(Late[1]), Take(Late[2]));
    }
}
