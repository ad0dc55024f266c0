namespace Qwen.Runtime.Cache;

/// <summary>A list of blocks, linked both ways through arrays: a block is added at either end and taken out anywhere in constant time, and nothing is allocated.</summary>
internal sealed class BlockList
{
    private readonly int[] _next, _previous; // a ring; the entry after the last block's is its head

    /// <summary>An empty list for blocks below <paramref name="blocks"/>.</summary>
    public BlockList(int blocks)
    {
        _next = new int[blocks + 1];
        _previous = new int[blocks + 1];
        _next[Head] = _previous[Head] = Head;
    }

    /// <summary>Blocks in the list.</summary>
    public int Count { get; private set; }

    /// <summary>The first block, where there is any.</summary>
    public int First => _next[Head];

    private int Head => _next.Length - 1;

    /// <summary>Adds a block before all others.</summary>
    public void AddFirst(int block) => Insert(block, after: Head);

    /// <summary>Adds a block behind all others.</summary>
    public void AddLast(int block) => Insert(block, after: _previous[Head]);

    /// <summary>Takes out a block that is in the list.</summary>
    public void Remove(int block)
    {
        _next[_previous[block]] = _next[block];
        _previous[_next[block]] = _previous[block];
        Count--;
    }

    private void Insert(int block, int after)
    {
        (_previous[block], _next[block]) = (after, _next[after]);
        _previous[_next[block]] = block;
        _next[after] = block;
        Count++;
    }
}
