using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
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
        using KvCache cache = Create(type);
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
        using KvCache cache = Create(KvCacheType.F16);
        Assert.Throws<ArgumentOutOfRangeException>(() => Read(cache, Blocks));
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.CopyBlocks([new(0, -1)]));
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.WriteBlock(0, new byte[cache.BlockBytes - 1]));
    }

    private static byte[] Read(KvCache cache, int block)
    {
        byte[] bytes = new byte[cache.BlockBytes];
        cache.ReadBlock(block, bytes);
        return bytes;
    }

    private static KvCache Create(KvCacheType type)
    {
        var shape = new SyntheticShape("qwen2", Hidden: 64, Layers: 3, Heads: 2, KvHeads: 2, HeadDim: 32, Intermediate: 64, Tied: true, Vocabulary: 64, Context: 64);
        using Checkpoint checkpoint = SyntheticCheckpoint.Create("qwen2:f32", shape, "f32", 1);
        using var backend = new CpuBackend(1);
        return backend.AllocateCache(ModelConfig.Load(checkpoint), type, Blocks, blockSize: 5);
    }
}
