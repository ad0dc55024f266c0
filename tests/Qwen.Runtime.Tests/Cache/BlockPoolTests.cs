using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Tests.Cache;

public sealed class BlockPoolTests
{
    [Fact]
    public void Take_GivesEveryBlockOnce_AndThenRefuses()
    {
        var pool = new BlockPool(5, 16);
        Assert.Equal([0, 1, 2, 3, 4], Enumerable.Range(0, 5).Select(_ => pool.Take()).Order());
        Assert.Throws<InvalidOperationException>(() => pool.Take());
    }

    [Fact]
    public void Return_RefusesABlockThatIsFree()
    {
        var pool = new BlockPool(2, 16);
        int block = pool.Take();
        pool.Return(block);
        Assert.Throws<InvalidOperationException>(() => pool.Return(block));
        Assert.Equal(2, pool.Free);
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(1, 1)]
    [InlineData(16, 1)]
    [InlineData(17, 2)]
    [InlineData(int.MaxValue, 134217728)]
    public void BlocksFor_RoundsUp(int tokens, int blocks) => Assert.Equal(blocks, new BlockPool(1, 16).BlocksFor(tokens));

    [Fact]
    public void Table_MapsPositionsToSlots_AndGivesAllBack()
    {
        var pool = new BlockPool(4, 4);
        int other = pool.Take();
        using (var table = new BlockTable(pool, 12))
        {
            Assert.True(table.TryGrow(9));
            Assert.Equal(3, table.Count);
            Assert.Equal(9, Enumerable.Range(0, 9).Select(table.Slot).Distinct().Count());
            Assert.All(Enumerable.Range(0, 9), p => Assert.NotEqual(other, table.Slot(p) / 4));
            Assert.Throws<ArgumentOutOfRangeException>(() => table.Slot(12));
            Assert.Equal(0, pool.Free);
        }

        Assert.Equal(3, pool.Free);
    }

    [Fact]
    public void TryGrow_TakesNothing_WhenTooFewAreFree()
    {
        var pool = new BlockPool(2, 4);
        using var table = new BlockTable(pool, 100);
        Assert.False(table.TryGrow(9));
        Assert.Equal(2, pool.Free);
    }
}
