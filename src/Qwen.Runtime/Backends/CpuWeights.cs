using Qwen.Cpu;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Backends;

/// <summary>Activations in native memory.</summary>
internal sealed unsafe class CpuActivations(int rows, int columns) : Activations(rows, columns)
{
    private readonly NativeBuffer<float> _values = new((long)rows * columns);

    public float* Values => _values.Pointer;

    public override void Dispose() => _values.Dispose();
}

/// <summary>A vector as F32: the mapped bytes themselves are used for matrices only.</summary>
internal sealed unsafe class CpuVectorWeights : VectorWeights
{
    private readonly NativeBuffer<float> _values;

    public CpuVectorWeights(Tensor tensor)
        : base(checked((int)tensor.ElementCount))
    {
        _values = new NativeBuffer<float>(Length);
        Dequantizer.Dequantize(tensor.Type, tensor.Bytes, _values.Span);
    }

    public float* Values => _values.Pointer;

    public override void Dispose() => _values.Dispose();
}

/// <summary>Matrices where the file is mapped; the checkpoint keeps them alive.</summary>
internal sealed unsafe class CpuLinearWeights : LinearWeights
{
    private readonly CpuVectorWeights?[] _biases;

    public CpuLinearWeights(IReadOnlyList<Tensor> matrices, IReadOnlyList<Tensor?> biases)
        : base((int)matrices[0].Shape[1], matrices.Sum(m => (int)m.Shape[0]))
    {
        WeightMatrix[] parts = [.. matrices.Select(Matrix2D)];
        _biases = [.. biases.Select(b => b is null ? null : new CpuVectorWeights(b))];
        var pointers = new float*[_biases.Length];
        for (int i = 0; i < pointers.Length; i++)
            pointers[i] = _biases[i] is { } bias ? bias.Values : null;
        Matrix = new StackedMatrix(parts, pointers);
    }

    public StackedMatrix Matrix { get; }

    public override void Dispose()
    {
        foreach (CpuVectorWeights? bias in _biases)
            bias?.Dispose();
    }

    private static WeightMatrix Matrix2D(Tensor tensor)
    {
        int rows = (int)tensor.Shape[0], columns = (int)tensor.Shape[1];
        return new WeightMatrix(TypeOf(tensor), rows, columns, tensor.Data, tensor.ByteCount / rows);
    }

    private static WeightType TypeOf(Tensor tensor) => tensor.Type switch
    {
        TensorType.F32 => WeightType.F32,
        TensorType.F16 => WeightType.F16,
        TensorType.BF16 => WeightType.BF16,
        TensorType.Q4_0 => WeightType.Q4_0,
        TensorType.Q4_1 => WeightType.Q4_1,
        TensorType.Q5_0 => WeightType.Q5_0,
        TensorType.Q5_1 => WeightType.Q5_1,
        TensorType.Q8_0 => WeightType.Q8_0,
        TensorType.Q2_K => WeightType.Q2_K,
        TensorType.Q3_K => WeightType.Q3_K,
        TensorType.Q4_K => WeightType.Q4_K,
        TensorType.Q5_K => WeightType.Q5_K,
        TensorType.Q6_K => WeightType.Q6_K,
        TensorType.Q8_K => WeightType.Q8_K,
        TensorType.IQ4_NL => WeightType.IQ4_NL,
        TensorType.IQ4_XS => WeightType.IQ4_XS,
        _ => throw new ModelFormatException(tensor.File, $"tensor '{tensor.Name}' is stored as {tensor.Type}, which the CPU does not compute on"),
    };
}

/// <summary>Keys and values of all layers in one piece of native memory; pages are touched only as blocks are used.</summary>
internal sealed unsafe class CpuKvCache : KvCache
{
    private readonly NativeBuffer<byte> _memory;
    private readonly KvLayer[] _layers;

    public CpuKvCache(ModelConfig config, KvCacheType type, int blocks, int blockSize)
    {
        KvType element = ElementType(type);
        long half = checked((long)blocks * config.KvHeads * blockSize * config.HeadDim * KvLayer.ElementBytes(element));
        _memory = new NativeBuffer<byte>(checked(half * 2 * config.Layers));
        _layers = new KvLayer[config.Layers];
        for (int i = 0; i < _layers.Length; i++)
        {
            byte* keys = _memory.Pointer + (2 * i * half);
            _layers[i] = new KvLayer { Keys = keys, Values = keys + half, Type = element, BlockSize = blockSize, Heads = config.KvHeads, HeadDim = config.HeadDim };
        }
    }

    public static KvType ElementType(KvCacheType type) => type switch
    {
        KvCacheType.F16 => KvType.F16,
        KvCacheType.BF16 => KvType.BF16,
        KvCacheType.F32 => KvType.F32,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "is no KV cache type of the CPU."),
    };

    public KvLayer Layer(int index) => _layers[index];

    public override void Dispose() => _memory.Dispose();
}
