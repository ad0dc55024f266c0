using BenchmarkDotNet.Attributes;
using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>The small ops on one thread and data in L2; bytes are those read.</summary>
[Config(typeof(RooflineConfig))]
public unsafe class VectorBenchmarks : IKernelBenchmark, IDisposable
{
    private const int Width = 4096;
    private const int HeadDim = 128;

    private NativeBuffer<float>? _x, _y, _weight;

    /// <inheritdoc/>
    public Work? WorkOf(string method) => new((method is nameof(Norm) or nameof(SwiGlu) ? 2.0 : 1.0) * Width * sizeof(float), Bound.Cache);

    /// <summary>Makes the vectors.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _x = RandomFloats.Make(Width);
        _y = new NativeBuffer<float>(Width);
        _weight = RandomFloats.Make(Width);
    }

    /// <summary>RMSNorm of a row, with its weight.</summary>
    [Benchmark]
    public void Norm() => RmsNorm.Row(_x!.Pointer, _weight!.Pointer, 1e-6f, _y!.Pointer, Width);

    /// <summary>Rotation of 32 heads of 128.</summary>
    [Benchmark]
    public void RopeHeads()
    {
        for (int head = 0; head < Width; head += HeadDim)
            Rope.Head(_y!.Pointer + head, HeadDim, _weight!.Pointer, _weight.Pointer + (HeadDim / 2));
    }

    /// <summary>e^(x - max) and the sum.</summary>
    [Benchmark]
    public float SoftmaxWeights() => Softmax.Weights(_x!.Span, 0.5f, _y!.Span);

    /// <summary>SiLU(gate) * up.</summary>
    [Benchmark]
    public void SwiGlu() => Qwen.Cpu.SwiGlu.Apply(_x!.Pointer, _weight!.Pointer, _y!.Pointer, Width);

    /// <inheritdoc/>
    [GlobalCleanup]
    public void Dispose()
    {
        _x?.Dispose();
        _y?.Dispose();
        _weight?.Dispose();
        GC.SuppressFinalize(this);
    }
}
