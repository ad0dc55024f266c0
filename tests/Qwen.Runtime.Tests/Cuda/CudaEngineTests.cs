using System.Numerics.Tensors;
using Qwen.Emulation;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Speculation;
using Qwen.Runtime.Tests.Engine;
using Xunit.Abstractions;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>
/// The whole engine on the emulated device: the demo model in several formats, all on the GPU or split with the CPU, several requests at once,
/// prompts read in chunks. Its tokens are the CPU backend's, but where two are as good as equal; no kernel is at fault, and nothing is left behind.
/// </summary>
public sealed class CudaEngineTests(ITestOutputHelper output)
{
    private static readonly EngineOptions Options = new() { MaxSequences = 3, MaxBatchedTokens = 20, MaxModelLength = 96, KvCacheType = KvCacheType.BF16, Threads = 2 };

    private static readonly string[] Prompts =
    [
        "What is the capital of France?", "Translate to German: good morning", "What is 3 + 4?", "Name the months of the year that come after June, and say how many there are.",
    ];

    [Theory]
    [InlineData("bf16", KvCacheType.BF16, 4)]
    [InlineData("bf16", KvCacheType.F8_E4M3, 2)]
    [InlineData("fp8", KvCacheType.BF16, 4)]
    [InlineData("fp8-block", KvCacheType.F8_E4M3, 2)]
    [InlineData("awq", KvCacheType.BF16, 2)]
    [InlineData("awq", KvCacheType.F8_E4M3, 4)]
    [InlineData("gguf-q4_0", KvCacheType.BF16, 4)]
    [InlineData("gguf-q4_0", KvCacheType.F8_E4M3, 2)]
    public Task Tokens_AreTheCpus(string format, KvCacheType cacheType, int gpuLayers) =>
        CheckAsync(format, Options with { KvCacheType = cacheType, GpuLayers = gpuLayers }, Prompts);

    [Fact]
    public async Task EvictedSequences_AreReadAgain()
    {
        EngineStatistics statistics = await CheckAsync("bf16", Options with { GpuLayers = 4, MaxModelLength = 80, KvCacheBytes = 5 * 16 * 2048, EnablePrefixCaching = false }, Prompts[..3], generated: 18);
        Assert.InRange(statistics.Preemptions, 1, long.MaxValue);
    }

    [Theory]
    [InlineData(4)]
    [InlineData(1)]
    public async Task CachedPrefixes_AreNotReadAgain(int gpuLayers)
    {
        EngineStatistics statistics = await CheckAsync("bf16", Options with { GpuLayers = gpuLayers, MaxSequences = 1 }, [Prompts[3], Prompts[3], Prompts[3] + " Thanks!"]);
        Assert.InRange(statistics.PrefixHits, 1, long.MaxValue);
    }

    [Fact]
    public async Task GuessedTokens_AreVerified()
    {
        EngineStatistics statistics = await CheckAsync(
            "bf16", Options with { GpuLayers = 4, MaxSequences = 2, Speculation = new SpeculationOptions { Tokens = 3, MinNGram = 1 } }, Prompts[..2], generated: 14);
        Assert.InRange(statistics.Speculation.DraftTokens, 1, long.MaxValue);
    }

    /// <summary>Generates on the emulated device, then reads the answers with the CPU backend, which must have chosen the same tokens.</summary>
    private async Task<EngineStatistics> CheckAsync(string format, EngineOptions options, string[] questions, int generated = 6)
    {
        using QuantizedDemo demo = QuantizedDemo.Create(format);
        var device = new EmulatedDevice();
        List<int>[] prompts, answers;
        EngineStatistics statistics;
        QwenEngine engine = QwenEngine.Load(demo.Path, options with { OpenDevice = _ => device });
        try
        {
            output.WriteLine(engine.Model.Placement);
            Assert.Equal(engine.Model.GpuMemory!.Total, device.Info.MemoryBytes - device.FreeMemory);
            prompts = [.. questions.Select(p => engine.EncodeChat(ChatRequest.FromUser(p)).ToList())];
            var sampling = new SamplingOptions { Temperature = 0, MaxTokens = generated, IgnoreEos = true };
            answers = await Task.WhenAll(prompts.Select(async p => (await EngineFixture.CollectAsync(engine.GenerateAsync(p, sampling))).Tokens.ConvertAll(t => t.Id)));
            statistics = engine.Statistics;
        }
        finally
        {
            engine.Dispose();
            device.Dispose(); // throws where something leaked
        }

        Assert.Empty(device.Faults);
        using LoadedModel cpu = LoadedModel.Load(demo.Path, options with { GpuLayers = null, Device = new ComputeDevice(ComputeDeviceKind.Cpu), Speculation = null, KvCacheBytes = null });
        using var evaluator = new SequenceEvaluator(cpu);
        int same = 0;
        float farthest = 0;
        for (int i = 0; i < prompts.Length; i++)
        {
            Assert.Equal(generated, answers[i].Count);
            evaluator.Reset();
            ReadOnlySpan<float> logits = evaluator.Evaluate([.. prompts[i]]);
            foreach (int token in answers[i])
            {
                float margin = TensorPrimitives.Max(logits) - logits[token];
                same += margin == 0 ? 1 : 0;
                farthest = Math.Max(farthest, margin);
                logits = evaluator.Evaluate([token]);
            }
        }

        // The logits' own noise: 16-bit activations; 8-bit activations, or keys and values without the CPU's scales.
        float noise = format.StartsWith("fp8", StringComparison.Ordinal) || options.KvCacheType == KvCacheType.F8_E4M3 ? 1 : 0.25f;
        output.WriteLine($"{same} of {prompts.Length * generated} tokens are the CPU's; the others' logits are at most {farthest} below");
        Assert.True(farthest <= noise, $"a token's logit is {farthest} below the CPU's choice");
        Assert.True(same >= prompts.Length * generated * 9 / 10, $"only {same} of {prompts.Length * generated} tokens are the CPU's");
        return statistics;
    }
}
