using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Engine;

/// <summary>A decoded token takes nothing from the managed heap: no collection comes of decoding.</summary>
public sealed class AllocationTests
{
    [Theory]
    [InlineData(KvCacheType.F16, 0.0)]
    [InlineData(KvCacheType.Int8, 0.7)]
    [InlineData(KvCacheType.F8_E4M3, 0.7)]
    public void Decode_AllocatesNothing_OnceWarm(KvCacheType cache, double temperature)
    {
        // One thread, on which all of a step runs: what the runtime counts for it is what a step allocates.
        var options = new EngineOptions { KvCacheType = cache, MaxSequences = 3, MaxBatchedTokens = 16, MaxModelLength = 128, Threads = 1 };
        using LoadedModel model = LoadedModel.Load(Repository.DemoModel, options);
        using var evaluator = new SequenceEvaluator(model, sequences: 3);
        SamplingParameters parameters = new SamplingOptions { Temperature = temperature, TopK = 40, TopP = 0.9, Seed = 1 }.Resolve(model.Defaults, model.Config.VocabularySize);
        var sampler = new Sampler(parameters, [], []);
        var workspace = new SamplerWorkspace(model.Config.VocabularySize);
        int[] tokens = [1, 2, 3];

        // The least of some steps: now and then a table grows to its next size, or the runtime puts faster code in a method's place.
        long least = long.MaxValue;
        for (int step = 0; step < 60; step++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            evaluator.Advance(tokens);
            for (int i = 0; i < tokens.Length; i++)
                tokens[i] = sampler.Sample(model.Network.Logits(i), workspace, out _);
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.Equal(0, least);
    }
}
