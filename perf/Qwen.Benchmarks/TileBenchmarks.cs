using BenchmarkDotNet.Attributes;
using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>The kernels alone, on one thread and data that stay in L2: what is left between them and their limit is the kernels' own.</summary>
[Config(typeof(RooflineConfig))]
public unsafe class TileBenchmarks : IKernelBenchmark, IDisposable
{
    private const int Columns = 1024;
    private const int Rows = 64;
    private const int Tokens = 64;

    private RandomMatrix? _weights;
    private NativeBuffer<float>? _x, _y;
    private NativeBuffer<byte>? _quantized, _scratch;
    private QuantizedActivations _activations;

    /// <summary>Storage of the weights.</summary>
    [Params(WeightType.BF16, WeightType.F16, WeightType.Q8_0, WeightType.Q4_0, WeightType.Q5_0, WeightType.Q4_K, WeightType.Q5_K, WeightType.Q6_K, WeightType.IQ4_XS, WeightType.Int4G128, WeightType.Int8G128)]
    public WeightType Type { get; set; }

    /// <inheritdoc/>
    public Work? WorkOf(string method) => method switch
    {
        nameof(RowDots) => new(Rows * (double)RandomMatrix.RowBytes(Type, Columns), Bound.Cache),
        nameof(Tile) => new(2.0 * Rows * Columns * Tokens, Type.IsFloat ? Bound.Floats : Bound.Bytes),
        _ => new((double)Tokens * Columns * sizeof(float), Bound.Cache),
    };

    /// <summary>Makes the matrices.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _weights = new RandomMatrix(Type, Rows, Columns);
        _x = RandomFloats.Make(Tokens * Columns);
        _y = new NativeBuffer<float>(Rows * Tokens);
        _quantized = new NativeBuffer<byte>(QuantizedActivations.Bytes(Tokens, Columns));
        _activations = new QuantizedActivations(_quantized.Pointer, Tokens, Columns);
        Quantize();
        _scratch = new NativeBuffer<byte>(Math.Max(IntegerRows.ScratchBytes(Columns), FloatRows.ScratchBytes(Columns)));
    }

    /// <summary>64 rows, one token.</summary>
    [Benchmark]
    public void RowDots() => Multiply(1);

    /// <summary>64 rows, 64 tokens.</summary>
    [Benchmark]
    public void Tile() => Multiply(Tokens);

    /// <summary>64 tokens to 8 bits.</summary>
    [Benchmark]
    public void Quantize() => ActivationQuantizer.Quantize(_x!.Pointer, Columns, 0, Tokens, _activations);

    /// <inheritdoc/>
    [GlobalCleanup]
    public void Dispose()
    {
        _weights?.Dispose();
        _x?.Dispose();
        _y?.Dispose();
        _quantized?.Dispose();
        _scratch?.Dispose();
        GC.SuppressFinalize(this);
    }

    private void Multiply(int tokens)
    {
        if (Type.IsFloat)
            FloatRows.Multiply(_weights!.Matrix, 0, Rows, _x!.Pointer, Columns, tokens, _y!.Pointer, Rows, accumulate: false, _scratch!.Pointer);
        else
            IntegerRows.Multiply(_weights!.Matrix, 0, Rows, _activations, tokens, _y!.Pointer, Rows, accumulate: false, _scratch!.Pointer);
    }
}
