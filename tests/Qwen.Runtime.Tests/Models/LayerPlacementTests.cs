using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Models;

public sealed class LayerPlacementTests
{
    private const int Layers = 3;

    private static readonly int[] Prompt = [5, 200, 3, 77, 91, 4, 4, 318, 12, 0, 64];

    [Theory]
    [InlineData("qwen2", true, KvCacheType.F16)]
    [InlineData("qwen3", false, KvCacheType.Int8)]
    public void Logits_AreTheSameBits_WhereverLayersAre(string architecture, bool tied, KvCacheType type)
    {
        var shape = new SyntheticShape(architecture, Hidden: 64, Layers, Heads: 4, KvHeads: 2, HeadDim: 16, Intermediate: 96, tied, Vocabulary: 320, Context: 64);
        using Checkpoint checkpoint = SyntheticCheckpoint.Create(architecture, shape, "bf16");
        using var one = new CpuBackend(1);
        using var two = new CpuBackend(2);
        (float[][] expected, long bytes) = Read(checkpoint, LayerPlacement.Whole(one, Layers), type);
        for (int last = 0; last <= Layers; last++)
            Check(LayerPlacement.Split(one, two, Layers, last));
        Check(new LayerPlacement(two, [one, two, one], two));

        void Check(LayerPlacement placement)
        {
            (float[][] actual, long actualBytes) = Read(checkpoint, placement, type);
            Assert.Equal(bytes, actualBytes);
            Assert.Equal(expected, actual);
        }
    }

    [Fact]
    public void Runs_JoinNeighboursOnOneBackend()
    {
        using var one = new CpuBackend(1);
        using var two = new CpuBackend(1);
        Assert.Equal([(one, 0, 3)], LayerPlacement.Whole(one, 3).Runs);
        Assert.Equal([(one, 0, 1), (two, 1, 2)], LayerPlacement.Split(one, two, 3, 2).Runs);
        Assert.Equal([(one, 0, 3), (two, 3, 0)], LayerPlacement.Split(one, two, 3, 0).Runs);
        Assert.Equal([(one, 0, 0), (two, 0, 2), (one, 2, 0)], new LayerPlacement(one, [two, two], one).Runs);
    }

    /// <summary>The logits after a prompt, read in two chunks, and after one more token.</summary>
    private static (float[][] Logits, long WeightBytes) Read(Checkpoint checkpoint, LayerPlacement placement, KvCacheType type)
    {
        using var model = new QwenModel(checkpoint, ModelConfig.Load(checkpoint), placement, 8, 1, 64);
        using KvCache cache = model.AllocateCache(type, 2, 16);
        using var batch = new Batch(8, 1);
        using var table = new BlockTable(new BlockPool(2, 16), 32);
        Assert.True(table.TryGrow(Prompt.Length + 1));
        var logits = new List<float[]>();
        int position = 0;
        foreach (int[] chunk in (int[][])[Prompt[..8], Prompt[8..], [1]])
        {
            batch.Clear();
            batch.Add(chunk, position, table, wantLogits: position > 0);
            model.Forward(batch, cache);
            position += chunk.Length;
            if (position > 8)
                logits.Add(model.Logits(0).ToArray());
        }

        return ([.. logits], model.WeightBytesPerToken);
    }
}
