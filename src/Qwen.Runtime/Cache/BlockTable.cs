using Qwen.Cpu;

namespace Qwen.Runtime.Cache;

/// <summary>Which blocks of the cache hold a sequence's tokens, in order: position p lies in block [p / BlockSize], at p % BlockSize.</summary>
/// <remarks>The numbers lie in native memory, where kernels read them without pinning. Sized once for the longest sequence.</remarks>
public sealed unsafe class BlockTable : IDisposable
{
    private readonly BlockPool _pool;
    private readonly NativeBuffer<int> _blocks;

    /// <summary>An empty table for up to <paramref name="maxTokens"/> tokens from <paramref name="pool"/>.</summary>
    public BlockTable(BlockPool pool, int maxTokens)
    {
        _pool = pool;
        _blocks = new NativeBuffer<int>(pool.BlocksFor(maxTokens));
    }

    /// <summary>Blocks held.</summary>
    public int Count { get; private set; }

    /// <summary>The block numbers.</summary>
    public int* Blocks => _blocks.Pointer;

    /// <summary>Blocks that must be taken before the table holds <paramref name="tokens"/> tokens.</summary>
    public int Missing(int tokens) => Math.Max(_pool.BlocksFor(tokens) - Count, 0);

    /// <summary>Takes blocks until <paramref name="tokens"/> tokens fit; false, with nothing taken, if too few are free.</summary>
    public bool TryGrow(int tokens)
    {
        int missing = Missing(tokens);
        if (missing > _pool.Free)
            return false;
        for (; missing > 0; missing--)
            Blocks[Count++] = _pool.Take();
        return true;
    }

    /// <summary>The cache slot of a position: block * BlockSize + offset.</summary>
    public int Slot(int position)
    {
        int index = position / _pool.BlockSize;
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count, nameof(position));
        return checked((Blocks[index] * _pool.BlockSize) + (position % _pool.BlockSize));
    }

    /// <summary>Gives all blocks back.</summary>
    public void Clear()
    {
        while (Count > 0)
            _pool.Return(Blocks[--Count]);
    }

    /// <summary>Gives all blocks back and frees the table.</summary>
    public void Dispose()
    {
        if (_blocks.IsClosed)
            return;
        Clear();
        _blocks.Dispose();
    }
}
