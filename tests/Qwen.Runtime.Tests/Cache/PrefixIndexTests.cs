using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Tests.Cache;

public sealed class PrefixIndexTests
{
    [Fact]
    public void Find_WantsTheSameTokens_AfterTheSameBlocks_UnderTheSameRoot()
    {
        var index = new PrefixIndex(8, 2);
        UInt128 root = PrefixIndex.Root(null), salted = PrefixIndex.Root("a");
        index.Add(root, [1, 2], block: 3);
        index.Add(index.Identity(3), [1, 2], block: 4);

        Assert.Equal(3, index.Find(root, [1, 2]));
        Assert.Equal(4, index.Find(index.Identity(3), [1, 2]));
        Assert.Equal(-1, index.Find(root, [2, 1]));
        Assert.Equal(-1, index.Find(index.Identity(4), [1, 2]));
        Assert.Equal(-1, index.Find(salted, [1, 2]));
        Assert.NotEqual(salted, PrefixIndex.Root("b"));
    }

    [Fact]
    public void AChain_EndsWhereABlockWasForgotten_EvenIfTheSameTokensComeBack()
    {
        var index = new PrefixIndex(8, 2);
        index.Add(0, [1, 2], 0);
        index.Add(index.Identity(0), [3, 4], 1);
        index.Remove(0);
        index.Add(0, [1, 2], 2);

        Assert.Equal(-1, index.Find(index.Identity(2), [3, 4])); // block 1 was computed after block 0
        Assert.True(index.Contains(1));
    }

    [Fact]
    public void FreeBlocks_KeepTheirContent_UntilTheyAreNeeded_TheLeastRecentlyUsedFirst()
    {
        var pool = new BlockPool(4, 2, prefixCaching: true);
        int[] blocks = [pool.Take(), pool.Take(), pool.Take()];
        foreach (int block in blocks)
            pool.Prefixes!.Add(0, [block, block], block);
        pool.Return(blocks[1]);
        pool.Return(blocks[0]);
        pool.Share(blocks[1]); // used again
        pool.Return(blocks[1]);

        int unused = pool.Take();
        Assert.DoesNotContain(unused, blocks);
        Assert.Equal(blocks[0], pool.Take());
        Assert.Equal(-1, pool.Prefixes!.Find(0, [blocks[0], blocks[0]]));
        Assert.Equal(blocks[1], pool.Prefixes.Find(0, [blocks[1], blocks[1]]));
        Assert.Equal(1, pool.Free);
        Assert.Equal(blocks[1], pool.Take());
        Assert.Throws<InvalidOperationException>(() => pool.Take()); // blocks[2] is held
        Assert.Throws<InvalidOperationException>(() => new BlockPool(2, 2, true).Share(0));
    }

    [Fact]
    public void RandomPrefixes_AreFoundExactly()
    {
        for (int seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            var pool = new BlockPool(random.Next(2, 12), 2, prefixCaching: true);
            var content = new Dictionary<int, string>(); // of each block the index has: all tokens up to its end
            for (int step = 0; step < 200; step++)
            {
                using var table = new BlockTable(pool, 2 * pool.Blocks);
                int[] tokens = [.. Enumerable.Range(0, 2 * random.Next(1, pool.Blocks + 1)).Select(_ => random.Next(2))];
                int hits = table.Adopt(0, tokens);
                for (int i = 0; i < hits; i++)
                    Assert.Equal(string.Join(',', tokens[..((i + 1) * 2)]), content[Block(table, i)]);
                Assert.True(table.TryGrow(tokens.Length));
                for (int i = hits; i < table.Count; i++)
                {
                    pool.Prefixes!.Add(i == 0 ? 0 : pool.Prefixes.Identity(Block(table, i - 1)), tokens.AsSpan(i * 2, 2), Block(table, i));
                    content[Block(table, i)] = string.Join(',', tokens[..((i + 1) * 2)]);
                }
            }
        }

        static unsafe int Block(BlockTable table, int index) => table.Blocks[index];
    }
}
