using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Tests.Formats;

namespace Qwen.Runtime.Tests.Models;

/// <summary>Whole networks with quantized keys and values against the same with F32 ones.</summary>
public sealed class QuantizedCacheTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-cache-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>The huge biases change neither what is cached nor how well.</summary>
    [Theory]
    [InlineData(KvCacheType.Int8, 0.03)]
    [InlineData(KvCacheType.F8_E4M3, 0.08)]
    [InlineData(KvCacheType.F8_E5M2, 0.15)]
    public void Logits_AreNearThoseOfAnExactCache_WithKeyBiasesOfNorm600To900(KvCacheType type, double tolerance)
    {
        var tiny = new TinyModel(new Scheme { Method = "fp8", Strategy = "tensor" }, seed: 3);
        var random = new Random(9);
        foreach (string name in tiny.Exact.Where(t => t.Key.EndsWith("k_proj.bias", StringComparison.Ordinal)).Select(t => t.Key).ToArray())
        {
            long[] shape = tiny.Exact[name].Shape;
            float[] bias = [.. Enumerable.Range(0, (int)shape[0]).Select(i => i % 32 is 13 or 15 or 29 or 31 ? (random.Next(2) == 0 ? -1 : 1) * (350f + random.Next(50)) : random.NextSingle())];
            tiny.Exact.Remove(name);
            tiny.Exact.AddFloats(name, TensorType.F32, shape, bias);
        }

        TinyModel.Write(_folder, tiny.Exact, tiny.Config);
        double error = Compare(type);
        Assert.True(error < tolerance, $"relative error of the logits: {error:E2}");
    }

    private double Compare(KvCacheType type)
    {
        using LoadedModel quantized = LoadedModel.Load(_folder, Options(type)), exact = LoadedModel.Load(_folder, Options(KvCacheType.F32));
        Assert.True(quantized.KvBytesPerToken < exact.KvBytesPerToken / 3);
        using SequenceEvaluator ours = new(quantized), theirs = new(exact);
        double error = 0, size = 0;
        foreach (int[] chunk in (int[][])[[1, 250, 37, 99, 4, 8, 15, 16, 23, 42, 108, 200], [77], [3], [90, 91, 92], [200]])
        {
            foreach ((float a, float b) in ours.Evaluate(chunk).ToArray().Zip(theirs.Evaluate(chunk).ToArray()))
            {
                error += Math.Pow(a - b, 2);
                size += Math.Pow(b, 2);
            }
        }

        return Math.Sqrt(error / size);
    }

    private static EngineOptions Options(KvCacheType type) => new() { KvCacheType = type, MaxSequences = 1, MaxBatchedTokens = 16, MaxModelLength = 64, Threads = 2 };
}
