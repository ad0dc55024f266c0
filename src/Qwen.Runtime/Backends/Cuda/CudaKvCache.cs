using System.Runtime.InteropServices;
using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Keys and values in device memory: for each layer [blocks, kv heads, block size, head dim] of keys, then of values; Int8 with F32 scales [blocks, kv heads, block size].</summary>
internal sealed unsafe class CudaKvCache : KvCache
{
    private readonly IDevice _device;
    private readonly IDeviceStream _stream;
    private readonly DeviceArena _arena;
    private readonly (DevicePointer Start, long BlockBytes)[] _parts; // of each layer: keys, values, and scales of both
    private readonly int _partsPerLayer;
    private PinnedBuffer? _staging;

    public CudaKvCache(IDevice device, IDeviceStream stream, KvCacheShape shape)
    {
        _device = device;
        _stream = stream;
        Shape = shape;
        _partsPerLayer = Parts(shape).Length;
        _parts = new (DevicePointer, long)[shape.Layers * _partsPerLayer];
        _arena = DeviceArena.Allocate(device, Bytes(shape));
        for (int layer = 0; layer < shape.Layers; layer++)
        {
            for (int part = 0; part < _partsPerLayer; part++)
            {
                long blockBytes = Parts(shape)[part];
                _parts[(layer * _partsPerLayer) + part] = (_arena.Take(blockBytes * shape.Blocks), blockBytes);
            }
        }

        RopeTable = _arena.Take(RopeBytes(shape));
        using var staging = new PinnedStaging(device, stream);
        staging.Upload(
            RopeTable, RopePositions(shape), shape.HeadDim * sizeof(float), (position, part) => Angles(shape.Rotary, position, MemoryMarshal.Cast<byte, float>(part)));
    }

    public KvCacheShape Shape { get; }

    /// <summary>Cosine and sine of each pair at each position, [positions, headDim / 2, 2].</summary>
    public DevicePointer RopeTable { get; }

    public override long BlockBytes => Shape.Layers * Parts(Shape).Sum();

    public override string Layout => $"cuda, {Shape.Layers} layers of keys, values: [{Shape.KvHeads} heads, {Shape.BlockSize} positions, {Shape.HeadDim}] of {Shape.Type}{(_partsPerLayer > 2 ? ", scales" : "")}";

    /// <summary>Device memory of a cache, its table of angles included.</summary>
    public static long Bytes(KvCacheShape shape) =>
        (shape.Layers * Parts(shape).Sum(p => DeviceArena.Round(p * shape.Blocks))) + DeviceArena.Round(RopeBytes(shape));

    /// <summary>Bytes of a block of one layer: keys, values and, for Int8, the scales of both.</summary>
    public static long[] Parts(KvCacheShape shape)
    {
        long vectors = (long)shape.KvHeads * shape.BlockSize, values = vectors * shape.HeadDim * Element(shape.Type).Bytes();
        return shape.Type == KvCacheType.Int8 ? [values, values, vectors * sizeof(float), vectors * sizeof(float)] : [values, values];
    }

    /// <summary>The type of a stored value.</summary>
    public static ElementType Element(KvCacheType type) => type switch
    {
        KvCacheType.F16 => ElementType.F16,
        KvCacheType.BF16 => ElementType.BF16,
        KvCacheType.F32 => ElementType.F32,
        KvCacheType.Int8 => ElementType.S8,
        KvCacheType.F8_E4M3 => ElementType.E4M3,
        KvCacheType.F8_E5M2 => ElementType.E5M2,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "is no KV cache type of CUDA."),
    };

    /// <summary>The keys and values of a layer.</summary>
    public KvLayerPointers Layer(int layer)
    {
        ReadOnlySpan<(DevicePointer Start, long)> parts = _parts.AsSpan(layer * _partsPerLayer, _partsPerLayer);
        return _partsPerLayer == 2 ? new KvLayerPointers(parts[0].Start, parts[1].Start) : new KvLayerPointers(parts[0].Start, parts[1].Start, parts[2].Start, parts[3].Start);
    }

    public override void CopyBlocks(ReadOnlySpan<BlockCopy> copies)
    {
        foreach ((int from, int to) in copies)
        {
            CheckBlock(from);
            CheckBlock(to);
            foreach ((DevicePointer start, long bytes) in from == to ? [] : _parts)
                _stream.Copy(start + (to * bytes), start + (from * bytes), bytes);
        }
    }

    public override void ReadBlock(int block, Span<byte> bytes)
    {
        CheckBlock(block);
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, BlockBytes, nameof(bytes));
        byte* staging = Staging();
        foreach ((DevicePointer start, long size) in _parts)
        {
            _stream.CopyToHost(staging, start + (block * size), size);
            staging += size;
        }

        _stream.Synchronize();
        new ReadOnlySpan<byte>(Staging(), bytes.Length).CopyTo(bytes);
    }

    public override void WriteBlock(int block, ReadOnlySpan<byte> bytes)
    {
        CheckBlock(block);
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, BlockBytes, nameof(bytes));
        byte* staging = Staging();
        bytes.CopyTo(new Span<byte>(staging, bytes.Length));
        foreach ((DevicePointer start, long size) in _parts)
        {
            _stream.CopyToDevice(start + (block * size), staging, size);
            staging += size;
        }

        _stream.Synchronize();
    }

    public override void Dispose()
    {
        _staging?.Dispose();
        _arena.Dispose();
    }

    // Attention reads the angles of whole tiles of positions.
    private static int RopePositions(KvCacheShape shape) => Math.Max(shape.Rotary.Positions, 64);

    private static long RopeBytes(KvCacheShape shape) => (long)RopePositions(shape) * shape.HeadDim * sizeof(float);

    /// <summary>The table from a position on: computed in double precision and rounded once.</summary>
    private static void Angles(RotaryAngles rotary, long position, Span<float> values)
    {
        for (int i = 0; i < values.Length; position++)
        {
            foreach (double frequency in rotary.InverseFrequencies)
            {
                (double sin, double cos) = Math.SinCos(position * frequency);
                values[i++] = (float)(cos * rotary.Magnitude);
                values[i++] = (float)(sin * rotary.Magnitude);
            }
        }
    }

    private byte* Staging() => (byte*)(_staging ??= _device.AllocatePinned(BlockBytes)).Pointer;

    private void CheckBlock(int block) => ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)block, (uint)Shape.Blocks, nameof(block));
}
