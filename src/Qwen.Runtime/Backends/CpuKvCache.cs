using Qwen.Cpu;

namespace Qwen.Runtime.Backends;

/// <summary>Keys and values of all layers in one piece of native memory; pages are touched only as blocks are used.</summary>
internal sealed unsafe class CpuKvCache : KvCache
{
    private readonly NativeBuffer<byte> _memory;
    private readonly NativeBuffer<float> _scales;
    private readonly KvLayer[] _layers;
    private readonly int _blockBytes, _blockScaleBytes; // of a layer's keys, or values

    public CpuKvCache(KvCacheShape shape)
    {
        Shape = shape;
        KvType element = ElementType(shape.Type);
        long vectors = checked((long)shape.Blocks * shape.BlockSize * shape.KvHeads), half = checked(vectors * shape.HeadDim * element.ElementBytes);
        _memory = new NativeBuffer<byte>(checked(half * 2 * shape.Layers));
        _scales = new NativeBuffer<float>(element.IsQuantized ? vectors * 2 * shape.Layers : 0);
        if (element.IsQuantized)
            Rotations = new ChunkRotations(shape.Rotary.Positions, shape.Rotary.InverseFrequencies, shape.Rotary.Magnitude);
        _layers = new KvLayer[shape.Layers];
        _blockBytes = checked(shape.BlockSize * shape.KvHeads * shape.HeadDim * element.ElementBytes);
        _blockScaleBytes = element.IsQuantized ? shape.BlockSize * shape.KvHeads * sizeof(float) : 0;
        for (int i = 0; i < _layers.Length; i++)
        {
            byte* keys = _memory.Pointer + (2 * i * half);
            float* keyScales = _scales.Pointer + (2 * i * vectors);
            _layers[i] = new KvLayer
            {
                Keys = keys,
                Values = keys + half,
                KeyScales = keyScales,
                ValueScales = keyScales + vectors,
                Type = element,
                BlockSize = shape.BlockSize,
                Heads = shape.KvHeads,
                HeadDim = shape.HeadDim,
            };
        }
    }

    public static KvType ElementType(KvCacheType type) => type switch
    {
        KvCacheType.F16 => KvType.F16,
        KvCacheType.BF16 => KvType.BF16,
        KvCacheType.F32 => KvType.F32,
        KvCacheType.Int8 => KvType.Int8,
        KvCacheType.F8_E4M3 => KvType.F8_E4M3,
        KvCacheType.F8_E5M2 => KvType.F8_E5M2,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "is no KV cache type of the CPU."),
    };

    public KvCacheShape Shape { get; }

    /// <summary>Where keys and values are codes with scales, what gives keys their bias back; else null.</summary>
    public ChunkRotations? Rotations { get; }

    public override long BlockBytes => _layers.Length * 2L * (_blockBytes + _blockScaleBytes);

    public override string Layout => $"cpu, {_layers.Length} layers of keys, values: [{Shape.KvHeads} heads, {Shape.BlockSize} positions, {Shape.HeadDim}] of {Shape.Type}, scales";

    public KvLayer Layer(int index) => _layers[index];

    public override void CopyBlocks(ReadOnlySpan<BlockCopy> copies)
    {
        foreach ((int from, int to) in copies)
        {
            for (int part = 0; part < Parts; part++)
                Part(part, from).CopyTo(Part(part, to));
        }
    }

    public override void ReadBlock(int block, Span<byte> bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, BlockBytes, nameof(bytes));
        for (int part = 0; part < Parts; part++)
        {
            Part(part, block).CopyTo(bytes);
            bytes = bytes[Part(part, block).Length..];
        }
    }

    public override void WriteBlock(int block, ReadOnlySpan<byte> bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, BlockBytes, nameof(bytes));
        for (int part = 0; part < Parts; part++)
        {
            Span<byte> to = Part(part, block);
            bytes[..to.Length].CopyTo(to);
            bytes = bytes[to.Length..];
        }
    }

    public override void Dispose()
    {
        _memory.Dispose();
        _scales.Dispose();
        Rotations?.Dispose();
    }

    // Each layer's keys, values and the scales of both.
    private int Parts => _layers.Length * 4;

    private Span<byte> Part(int part, int block)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)block, (uint)Shape.Blocks, nameof(block));
        (int index, int kind) = Math.DivRem(part, 4);
        KvLayer layer = _layers[index];
        return kind switch
        {
            0 => new Span<byte>(layer.Keys + ((long)block * _blockBytes), _blockBytes),
            1 => new Span<byte>(layer.Values + ((long)block * _blockBytes), _blockBytes),
            2 => new Span<byte>((byte*)layer.KeyScales + ((long)block * _blockScaleBytes), _blockScaleBytes),
            _ => new Span<byte>((byte*)layer.ValueScales + ((long)block * _blockScaleBytes), _blockScaleBytes),
        };
    }
}
