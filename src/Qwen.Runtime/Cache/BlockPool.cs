namespace Qwen.Runtime.Cache;

/// <summary>
/// Who holds the KV cache's blocks. A block may have several holders; one that nobody holds is free. Free blocks that the prefix index
/// knows keep their content until they are needed: the others are given out first, then these, the least recently used first.
/// </summary>
/// <remarks>After PagedAttention (Kwon et al., SOSP 2023). Used by one thread.</remarks>
public sealed class BlockPool
{
    private readonly BlockList _free;
    private readonly int[] _holders;

    /// <summary>A pool of <paramref name="blocks"/> free blocks of <paramref name="blockSize"/> tokens.</summary>
    /// <param name="blocks">How many.</param>
    /// <param name="blockSize">Tokens per block.</param>
    /// <param name="prefixCaching">Blocks are found again by their tokens.</param>
    public BlockPool(int blocks, int blockSize, bool prefixCaching = false)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blocks);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockSize);
        BlockSize = blockSize;
        Prefixes = prefixCaching ? new PrefixIndex(blocks, blockSize) : null;
        _holders = new int[blocks];
        _free = new BlockList(blocks);
        for (int i = 0; i < blocks; i++)
            _free.AddLast(i);
    }

    /// <summary>Tokens per block.</summary>
    public int BlockSize { get; }

    /// <summary>Blocks in all.</summary>
    public int Blocks => _holders.Length;

    /// <summary>Blocks nobody holds, those with a known content included.</summary>
    public int Free => _free.Count;

    /// <summary>Finds blocks by their tokens; null where prefixes aren't cached.</summary>
    public PrefixIndex? Prefixes { get; }

    /// <summary>Blocks that hold <paramref name="tokens"/> tokens.</summary>
    public int BlocksFor(int tokens) => (int)(((long)tokens + BlockSize - 1) / BlockSize);

    /// <summary>How many hold a block.</summary>
    public int Holders(int block) => _holders[block];

    /// <summary>Takes a free block for one holder. What it held before is forgotten.</summary>
    /// <exception cref="InvalidOperationException">None is free; ask <see cref="Free"/> first.</exception>
    public int Take()
    {
        if (Free == 0)
            throw new InvalidOperationException("The KV cache has no free block.");
        int block = _free.First;
        _free.Remove(block);
        Prefixes?.Remove(block);
        _holders[block] = 1;
        return block;
    }

    /// <summary>Adds a holder to a block that has one, or that the prefix index knows.</summary>
    /// <exception cref="InvalidOperationException">Its content is nobody's.</exception>
    public void Share(int block)
    {
        if (_holders[block] == 0)
        {
            if (Prefixes?.Contains(block) != true)
                throw new InvalidOperationException($"Block {block} of the KV cache holds nothing that could be shared.");
            _free.Remove(block);
        }

        _holders[block]++;
    }

    /// <summary>Takes a holder off a block.</summary>
    /// <exception cref="InvalidOperationException">It has none.</exception>
    public void Return(int block)
    {
        if (_holders[block] == 0)
            throw new InvalidOperationException($"Block {block} of the KV cache is returned twice.");
        if (--_holders[block] > 0)
            return;
        if (Prefixes?.Contains(block) == true)
            _free.AddLast(block);
        else
            _free.AddFirst(block);
    }
}
