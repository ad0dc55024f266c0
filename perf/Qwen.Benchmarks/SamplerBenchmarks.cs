using BenchmarkDotNet.Attributes;
using Qwen.Runtime.Sampling;

namespace Qwen.Benchmarks;

/// <summary>Choosing a token of Qwen's vocabulary, on one thread; bytes are those of the logits.</summary>
[Config(typeof(RooflineConfig))]
public class SamplerBenchmarks : IKernelBenchmark
{
    private const int Vocabulary = 151_936;

    private readonly float[] _logits = new float[Vocabulary], _copy = new float[Vocabulary];
    private readonly SamplerWorkspace _workspace = new(Vocabulary);
    private Sampler _sampler = null!;

    /// <summary>How it is chosen.</summary>
    [Params("greedy", "temperature", "top-k 20, top-p 0.8", "top-p 0.95", "min-p 0.05")]
    public string Kind { get; set; } = "";

    /// <inheritdoc/>
    public Work? WorkOf(string method) => new(sizeof(float) * (double)Vocabulary, Bound.Cache);

    /// <summary>Makes logits as a network's: normal, with a few that stand out.</summary>
    [GlobalSetup]
    public void Setup()
    {
        var random = new Random(1);
        for (int i = 0; i < Vocabulary; i++)
            _logits[i] = (float)(2 * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()));
        for (int i = 0; i < 20; i++)
            _logits[random.Next(Vocabulary)] = 15 + (random.NextSingle() * 5);
        SamplingOptions options = Kind switch
        {
            "greedy" => new() { Temperature = 0 },
            "temperature" => new() { Temperature = 0.7, TopK = 0, TopP = 1 },
            "top-k 20, top-p 0.8" => new() { Temperature = 0.7, TopK = 20, TopP = 0.8 },
            "top-p 0.95" => new() { Temperature = 1, TopK = 0, TopP = 0.95 },
            _ => new() { Temperature = 1, TopK = 0, TopP = 1, MinP = 0.05 },
        };
        _sampler = new Sampler(options.Resolve(GenerationDefaults.None, Vocabulary), [], []);
    }

    /// <summary>A token, with a copy of the logits, which sampling changes.</summary>
    [Benchmark]
    public int Sample()
    {
        _logits.CopyTo(_copy, 0);
        return _sampler.Sample(_copy, _workspace, out _);
    }
}
