using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>What the host does for a decoding step on a GPU, from the scheduler to the graph's launch, takes nothing from the managed heap.</summary>
public sealed class CudaAllocationTests
{
    [Theory]
    [InlineData(0.0, 1)]
    [InlineData(0.0, 5)]
    [InlineData(0.7, 5)]
    public void AStepAllocatesNothing_OnceWarm(double temperature, int requests)
    {
        var device = new IdleDevice();
        EngineOptions options = new EngineOptions { MaxSequences = 8, MaxBatchedTokens = 64, MaxModelLength = 400, Threads = 1, GpuLayers = 4, KvCacheType = KvCacheType.BF16, MaxUnreadTokens = 1000, OpenDevice = _ => device }.Validated();
        using LoadedModel model = LoadedModel.Load(Repository.DemoModel, options);
        using var metrics = new EngineMetrics(() => default, () => true, model.MaxModelLength, 0, options.Clock);
        var pool = new BlockPool(model.KvBlocks, model.BlockSize);
        using var core = new EngineCore(new ModelRunner(model), model.Tokenizer.VocabularySize, pool, options, new StepMeter(options.Clock, 1, 1), metrics);
        SamplingParameters sampling = new SamplingOptions { Temperature = temperature, TopK = 20, TopP = 0.9, IgnoreEos = true, Seed = 1, MaxTokens = 300 }.Resolve(model.Defaults, model.Tokenizer.VocabularySize);
        for (int i = 0; i < requests; i++)
            core.Add(new Request([1, 2, 3, 4 + i], sampling, new RequestOptions(), model.MaxModelLength, model.EosTokenIds, pool));

        // The least of some steps: buffers of tokens that nobody reads grow now and then.
        long least = long.MaxValue;
        for (int step = 0; step < 250; step++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            core.Step();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.Equal(0, least);
        Assert.InRange(device.Replays, 200, int.MaxValue);
        Assert.Equal(requests, core.Statistics.Running);
    }
}
