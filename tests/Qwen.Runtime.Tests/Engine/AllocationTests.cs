using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

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
        var pool = new BlockPool(model.KvBlocks, model.BlockSize);
        var scheduler = new Scheduler<Generation>(pool, options.MaxSequences);
        using var batch = new Batch(options.MaxBatchedTokens, options.MaxSequences);
        var workspace = new SamplerWorkspace(model.Config.VocabularySize);
        var read = new List<GeneratedToken>(8);
        Generation[] generations = [.. Enumerable.Range(0, 3).Select(i => new Generation(
            [1 + i, 5, 9],
            model,
            pool,
            new SamplingOptions { Temperature = temperature, TopK = 40, TopP = 0.9, RepetitionPenalty = 1.1, Seed = 1, MaxTokens = 100, IgnoreEos = true }.Resolve(model.Defaults, model.Config.VocabularySize)))];
        foreach (Generation generation in generations)
            scheduler.Add(generation);

        // The least of some steps: now and then a table grows to its next size, or the runtime puts faster code in a method's place.
        long least = long.MaxValue;
        for (int step = 0; step < 60; step++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            IReadOnlyList<ScheduledSequence<Generation>> scheduled = scheduler.Schedule(batch);
            model.Network.Forward(batch, model.Cache);
            for (int i = 0; i < scheduled.Count; i++)
            {
                Generation generation = scheduled[i].Sequence;
                generation.Advance(scheduled[i].Tokens);
                if (scheduled[i].LogitRow < 0)
                    continue;
                GeneratedToken token = generation.Sample(model.Network.Logits(scheduled[i].LogitRow), workspace);
                generation.Append(token.Id);
                Assert.Null(generation.ReasonToStop(token.Id));
                generation.Stream.Write(token);
                generation.Stream.Read(read);
                read.Clear();
            }

            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.All(generations, g => Assert.True(g.Generated > 50));
        Assert.Equal(0, least);
        foreach (Generation generation in generations)
        {
            scheduler.Remove(generation);
            generation.Dispose();
        }
    }
}
