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
