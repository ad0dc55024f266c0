using BenchmarkDotNet.Attributes;
using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>Weights times activations, as the network does it: all threads, activations quantized where the type asks for it.</summary>
/// <remarks>Decode: one token, 200 MB of weights, bound by memory. Gemm: 512 tokens, 1,024 rows, bound by arithmetic.</remarks>
[Config(typeof(RooflineConfig))]
public unsafe class ProductBenchmarks : IKernelBenchmark, IDisposable
{
    private const int MatrixBytes = 200_000_000;
    private const int GemmRows = 1024;
    private const int Tokens = 512;

    private WorkerPool? _pool;
    private Projection? _projection;
    private RandomMatrix? _weights, _few;
    private StackedMatrix? _decode, _gemm;
    private NativeBuffer<float>? _x, _y;

    /// <summary>Storage of the weights.</summary>
    [Params(WeightType.BF16, WeightType.F16, WeightType.Q8_0, WeightType.Q4_0, WeightType.Q5_0, WeightType.Q4_K, WeightType.Q5_K, WeightType.Q6_K, WeightType.IQ4_XS, WeightType.Int4G128, WeightType.Int8G128)]
    public WeightType Type { get; set; }

    /// <summary>Input features.</summary>
    [Params(1024, 4096)]
    public int Columns { get; set; }

    private int Rows => (int)(MatrixBytes / RandomMatrix.RowBytes(Type, Columns));

    /// <inheritdoc/>
    public Work? WorkOf(string method) => method == nameof(Decode)
        ? new(Rows * (double)RandomMatrix.RowBytes(Type, Columns), Bound.Memory, WorkerPool.DefaultThreads)
        : new(2.0 * GemmRows * Columns * Tokens, Type.IsFloat ? Bound.Floats : Bound.Bytes, WorkerPool.DefaultThreads);

    /// <summary>Makes the matrices.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _pool = new WorkerPool();
        _projection = new Projection(_pool, Tokens, Columns);
        _weights = new RandomMatrix(Type, Rows, Columns);
        _few = new RandomMatrix(Type, GemmRows, Columns);
        _decode = new StackedMatrix([_weights.Matrix], [null]);
        _gemm = new StackedMatrix([_few.Matrix], [null]);
        _x = RandomFloats.Make((long)Tokens * Columns);
        _y = new NativeBuffer<float>(Math.Max(Rows, GemmRows * Tokens));
    }

    /// <summary>One token.</summary>
    [Benchmark]
    public void Decode() => _projection!.Linear(_decode!, _x!.Pointer, Columns, 1, _y!.Pointer, Rows, accumulate: false);

    /// <summary>Many tokens.</summary>
    [Benchmark]
    public void Gemm() => _projection!.Linear(_gemm!, _x!.Pointer, Columns, Tokens, _y!.Pointer, GemmRows, accumulate: false);

    /// <inheritdoc/>
    [GlobalCleanup]
    public void Dispose()
    {
        _projection?.Dispose();
        _weights?.Dispose();
        _few?.Dispose();
        _x?.Dispose();
        _y?.Dispose();
        _pool?.Dispose();
        GC.SuppressFinalize(this);
    }
}
