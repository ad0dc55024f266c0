using Qwen.Runtime.Backends;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Backends;

public sealed class CpuKvCacheTests
{
    private const int Blocks = 6;

    public static TheoryData<KvCacheType> Types() => [.. Enum.GetValues<KvCacheType>()];

    [Theory]
    [MemberData(nameof(Types))]
    public void Blocks_AreReadAsWritten_AndCopiedInOrder(KvCacheType type)
    {
        using StagedKvCache cache = Create(type), split = Create(type, 0, 1, 2);
        Assert.Equal(cache.BlockBytes, split.BlockBytes);
        Check(cache);
        Check(split);
    }

    private static void Check(StagedKvCache cache)
    {
        byte[][] written = new byte[Blocks][];
        for (int i = 0; i < Blocks; i++)
        {
            written[i] = new byte[cache.BlockBytes];
            new Random(i).NextBytes(written[i]);
            cache.WriteBlock(i, written[i]);
        }

        cache.CopyBlocks([new(0, 3), new(3, 5), new(1, 3)]);

        Assert.Equal([written[0], written[1], written[2], written[1], written[4], written[0]], Enumerable.Range(0, Blocks).Select(i => Read(cache, i)));
    }

    [Fact]
    public void Blocks_OutsideTheCache_AreRefused()
    {
        using StagedKvCache cache = Create(KvCacheType.F16);
        Assert.Throws<ArgumentOutOfRangeException>(() => Read(cache, Blocks));
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.CopyBlocks([new(0, -1)]));
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.WriteBlock(0, new byte[cache.BlockBytes - 1]));
    }

    private static byte[] Read(StagedKvCache cache, int block)
    {
        byte[] bytes = new byte[cache.BlockBytes];
        cache.ReadBlock(block, bytes);
        return bytes;
    }

    /// <summary>A cache of three layers, on one backend and, where it's split, on another.</summary>
    private static StagedKvCache Create(KvCacheType type, params ReadOnlySpan<int> layers)
    {
        using var backend = new CpuBackend(1);
        var stages = new List<KvCache>();
        foreach (int count in layers.IsEmpty ? [3] : layers)
            stages.Add(backend.AllocateCache(new KvCacheShape(count, 2, 32, type, Blocks, BlockSize: 5, new RotaryAngles(new double[16], 1, 30))));
        return new StagedKvCache(stages);
    }
}
