namespace Qwen.Runtime.Cache;

/// <summary>The free list of the KV cache's blocks. Blocks are numbered from 0; the last one freed is the next one given.</summary>
public sealed class BlockPool
{
    private readonly int[] _free;
    private readonly bool[] _used;

    /// <summary>A pool of <paramref name="blocks"/> free blocks of <paramref name="blockSize"/> tokens.</summary>
    public BlockPool(int blocks, int blockSize)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blocks);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockSize);
        BlockSize = blockSize;
        _used = new bool[blocks];
        _free = new int[blocks];
        for (int i = 0; i < blocks; i++)
            _free[i] = blocks - 1 - i;
        Free = blocks;
    }

    /// <summary>Tokens per block.</summary>
    public int BlockSize { get; }

    /// <summary>Blocks in all.</summary>
    public int Blocks => _used.Length;

    /// <summary>Blocks nobody holds.</summary>
    public int Free { get; private set; }

    /// <summary>Blocks that hold <paramref name="tokens"/> tokens.</summary>
    public int BlocksFor(int tokens) => (int)(((long)tokens + BlockSize - 1) / BlockSize);

    /// <summary>Takes a block.</summary>
    /// <exception cref="InvalidOperationException">None is free; ask <see cref="Free"/> first.</exception>
    public int Take()
    {
        if (Free == 0)
            throw new InvalidOperationException("The KV cache has no free block.");
        int block = _free[--Free];
        _used[block] = true;
        return block;
    }

    /// <summary>Gives a block back.</summary>
    /// <exception cref="InvalidOperationException">It was not taken.</exception>
    public void Return(int block)
    {
        if (!_used[block])
            throw new InvalidOperationException($"Block {block} of the KV cache is returned twice.");
        _used[block] = false;
        _free[Free++] = block;
    }
}
