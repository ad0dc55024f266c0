using System.Runtime.Intrinsics;
using BenchmarkDotNet.Attributes;
using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>
/// Integer-dot kernels on one thread. Decode: every weight of 200 MB once, beside a plain read of the same memory (its roofline).
/// Prefill: 256 rows for 512 tokens; 2 * 256 * Columns * 512 operations.
/// </summary>
public unsafe class QuantizedDotBenchmarks : IDisposable
{
    private const int MatrixBytes = 200_000_000;
    private const int PrefillRows = 256;
    private const int PrefillTokens = 512;

    private NativeBuffer<byte>? _weights;
    private NativeBuffer<byte>? _activations;
    private NativeBuffer<byte>? _scratch;
    private NativeBuffer<float>? _y;
    private WeightMatrix _matrix;
    private QuantizedActivations _x;

    /// <summary>Storage of the weights.</summary>
    [Params(WeightType.Q8_0, WeightType.Q4_0, WeightType.Q4_K, WeightType.Q5_K, WeightType.Q6_K, WeightType.IQ4_XS)]
    public WeightType Type { get; set; }

    /// <summary>Input features: those of a 1 B and an 8 B model.</summary>
    [Params(1024, 4096)]
    public int Columns { get; set; }

    /// <summary>Random codes, with scales of ordinary size: subnormals would cost what they do not in a model.</summary>
    [GlobalSetup]
    public void Setup()
    {
        (int blockColumns, int blockBytes) = Type switch
        {
            WeightType.Q8_0 => (32, 34),
            WeightType.Q4_0 => (32, 18),
            WeightType.Q4_K => (256, 144),
            WeightType.Q5_K => (256, 176),
            WeightType.Q6_K => (256, 210),
            WeightType.IQ4_XS => (256, 136),
            _ => throw new NotSupportedException($"No layout of {Type} here."),
        };
        int rowBytes = Columns / blockColumns * blockBytes;
        int rows = MatrixBytes / rowBytes;
        Random random = new(1);
        _weights = new NativeBuffer<byte>((long)rows * rowBytes);
        random.NextBytes(_weights.Span);
        for (int i = 1; i < _weights.Length; i += 2)
            _weights.Pointer[i] = (byte)(0x1C | (_weights.Pointer[i] & 0x83)); // an odd byte is the upper one of any F16 scale
        _matrix = new WeightMatrix(Type, rows, Columns, _weights.Pointer, rowBytes);

        using NativeBuffer<float> x = new((long)PrefillTokens * Columns);
        foreach (ref float value in x.Span)
            value = random.NextSingle() - 0.5f;
        _activations = new NativeBuffer<byte>(QuantizedActivations.Bytes(PrefillTokens, Columns));
        _x = new QuantizedActivations(_activations.Pointer, PrefillTokens, Columns);
        ActivationQuantizer.Quantize(x.Pointer, Columns, 0, PrefillTokens, _x);
        _scratch = new NativeBuffer<byte>(IntegerRows.ScratchBytes(Columns));
        _y = new NativeBuffer<float>(Math.Max(rows, PrefillRows * PrefillTokens));
    }

    /// <summary>The roofline of decode.</summary>
    [Benchmark(Baseline = true)]
    public long ReadWeights()
    {
        Vector512<long> a = default, b = default, c = default, d = default;
        byte* end = _matrix.Data + (_matrix.Rows * _matrix.RowBytes) - 256;
        for (byte* p = _matrix.Data; p <= end; p += 256)
        {
            a += Vector512.Load((long*)p);
            b += Vector512.Load((long*)(p + 64));
            c += Vector512.Load((long*)(p + 128));
            d += Vector512.Load((long*)(p + 192));
        }

        return Vector512.Sum(a + b + c + d);
    }

    /// <summary>One token.</summary>
    [Benchmark]
    public void Decode() => IntegerRows.Multiply(_matrix, 0, _matrix.Rows, _x, 1, _y!.Pointer, _matrix.Rows, accumulate: false, _scratch!.Pointer);

    /// <summary>Many tokens.</summary>
    [Benchmark]
    public void Prefill() => IntegerRows.Multiply(_matrix, 0, PrefillRows, _x, PrefillTokens, _y!.Pointer, PrefillRows, accumulate: false, _scratch!.Pointer);

    /// <inheritdoc/>
    [GlobalCleanup]
    public void Dispose()
    {
        _weights?.Dispose();
        _activations?.Dispose();
        _scratch?.Dispose();
        _y?.Dispose();
        GC.SuppressFinalize(this);
    }
}
