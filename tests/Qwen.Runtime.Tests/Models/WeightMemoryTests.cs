using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Models;

/// <summary>Repacked weights are freed with the model, and when a load fails half way. Alone, since it watches the memory of the process.</summary>
[CollectionDefinition(nameof(WeightMemoryTests), DisableParallelization = true)]
[Collection(nameof(WeightMemoryTests))]
public sealed class WeightMemoryTests
{
    private const int Loads = 40;
    private const long MostGrowth = 150L << 20; // of 40 times 11 MB

    [Theory]
    [InlineData(null)]
    [InlineData("model.norm.weight")] // asked for when all layers are loaded
    public void Loads_FreeWhatTheyRepacked(string? missing)
    {
        SyntheticShape shape = new("qwen3", 1024, 2, 16, 16, 64, 2048, Tied: true, Vocabulary: 512, Context: 64);
        using Checkpoint whole = SyntheticCheckpoint.Create("tiny", shape, "awq");
        using var checkpoint = new Checkpoint("tiny", whole.Tensors.Values.Where(t => t.Name != missing), whole.Config!, []);
        ModelConfig config = ModelConfig.Load(checkpoint);
        using var backend = new CpuBackend(2);
        LayerPlacement placement = LayerPlacement.Whole(backend, config.Layers);
        long before = 0;
        for (int i = 0; i <= Loads; i++)
        {
            if (missing is null)
                new QwenModel(checkpoint, config, placement, 1, 1, 64).Dispose();
            else
                Assert.Throws<ModelFormatException>(() => new QwenModel(checkpoint, config, placement, 1, 1, 64));
            if (i == 0)
                before = Environment.WorkingSet;
        }

        Assert.InRange(Environment.WorkingSet - before, long.MinValue, MostGrowth);
    }
}
