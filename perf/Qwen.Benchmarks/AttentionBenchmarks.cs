using BenchmarkDotNet.Attributes;
using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>Paged attention of a layer with 16 query heads and 8 key-value heads of 128 (Qwen3 0.6B), all threads.</summary>
/// <remarks>Decode reads the keys and values of the context once. Prefill multiplies each query with half of the context's, on average, twice.</remarks>
[Config(typeof(RooflineConfig))]
public unsafe class AttentionBenchmarks : IKernelBenchmark, IDisposable
{
    private const int Heads = 16;
    private const int KvHeads = 8;
    private const int HeadDim = 128;
    private const int BlockSize = 16;
    private const int Chunk = 512;

    private WorkerPool? _pool;
    private NativeBuffer<byte>? _keys, _values, _scratch;
    private NativeBuffer<float>? _q, _output, _scales;
    private NativeBuffer<int>? _blocks;
    private KvLayer _layer;

    /// <summary>Storage of the cache.</summary>
    [Params(KvType.F16, KvType.BF16, KvType.Int8)]
    public KvType Type { get; set; }

    /// <summary>Positions before and with the last token.</summary>
    [Params(512, 8192)]
    public int Context { get; set; }

    /// <inheritdoc/>
    public Work? WorkOf(string method) => method == nameof(Decode)
        ? new(2.0 * Context * KvHeads * Type.VectorBytes(HeadDim), Bound.Memory, WorkerPool.DefaultThreads)
        : new(4.0 * Chunk * (Context - (Chunk / 2.0)) * Heads * HeadDim, Bound.Floats, WorkerPool.DefaultThreads);

    /// <summary>Fills a cache.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _pool = new WorkerPool();
        int blocks = Context / BlockSize;
        _keys = new NativeBuffer<byte>((long)Context * KvHeads * HeadDim * Type.ElementBytes);
        _values = new NativeBuffer<byte>(_keys.Length);
        _scales = new NativeBuffer<float>(2L * Context * KvHeads);
        _blocks = new NativeBuffer<int>(blocks);
        for (int i = 0; i < blocks; i++)
            _blocks.Pointer[i] = i;
        _layer = new KvLayer
        {
            Keys = _keys.Pointer,
            Values = _values.Pointer,
            KeyScales = Type.IsQuantized ? _scales.Pointer : null,
            ValueScales = Type.IsQuantized ? _scales.Pointer + ((long)Context * KvHeads) : null,
            Type = Type,
            BlockSize = BlockSize,
            Heads = KvHeads,
            HeadDim = HeadDim,
        };
        using NativeBuffer<float> token = RandomFloats.Make(2L * KvHeads * HeadDim);
        for (int i = 0; i < Context; i++)
            _layer.Write(token.Pointer, token.Pointer + (KvHeads * HeadDim), i);
        _q = RandomFloats.Make((long)Chunk * Heads * HeadDim);
        _output = new NativeBuffer<float>(_q.Length);
        _scratch = new NativeBuffer<byte>(PagedAttention.ScratchBytes(_pool.Threads, 1, Heads, KvHeads, HeadDim));
    }

    /// <summary>The last token of the context.</summary>
    [Benchmark]
    public void Decode() => Attend(1);

    /// <summary>The last 512.</summary>
    [Benchmark]
    public void Prefill() => Attend(Chunk);

    /// <inheritdoc/>
    [GlobalCleanup]
    public void Dispose()
    {
        _keys?.Dispose();
        _values?.Dispose();
        _scratch?.Dispose();
        _q?.Dispose();
        _output?.Dispose();
        _scales?.Dispose();
        _blocks?.Dispose();
        _pool?.Dispose();
        GC.SuppressFinalize(this);
    }

    private void Attend(int tokens)
    {
        AttentionSequence sequence = new() { FirstToken = 0, Tokens = tokens, FirstPosition = Context - tokens, Blocks = _blocks!.Pointer };
        PagedAttention.Run(
            _pool!, _layer, new ReadOnlySpan<AttentionSequence>(in sequence), _q!.Pointer, Heads * HeadDim, Heads, 0.088f, 0, _output!.Pointer, Heads * HeadDim, _scratch!.Pointer);
    }
}
