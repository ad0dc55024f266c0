using Qwen.Cpu;
using Qwen.Runtime.Backends;

namespace Qwen.Runtime.Cache;

/// <summary>Which blocks of the cache hold a sequence's tokens, in order: position p lies in block [p / BlockSize], at p % BlockSize.</summary>
/// <remarks>The numbers lie in native memory, where kernels read them without pinning: allocated with the first block, for the longest sequence.</remarks>
public sealed unsafe class BlockTable : IDisposable
{
    private readonly BlockPool _pool;
    private readonly int _capacity;
    private NativeBuffer<int>? _blocks;

    /// <summary>An empty table for up to <paramref name="maxTokens"/> tokens from <paramref name="pool"/>.</summary>
    public BlockTable(BlockPool pool, int maxTokens)
    {
        _pool = pool;
        _capacity = pool.BlocksFor(maxTokens);
    }

    /// <summary>Blocks held.</summary>
    public int Count { get; private set; }

    /// <summary>The block numbers.</summary>
    public int* Blocks => (_blocks ??= new NativeBuffer<int>(_capacity)).Pointer;

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

    /// <summary>Takes blocks until <paramref name="tokens"/> tokens fit, and one of its own for a block that is shared and about to be written.</summary>
    /// <param name="tokens">Tokens in all.</param>
    /// <param name="written">The first position that will be written.</param>
    /// <param name="copies">Gets the copy that must be made before (copy-on-write).</param>
    /// <returns>False, with nothing taken, if too few blocks are free.</returns>
    public bool TryGrow(int tokens, int written, List<BlockCopy> copies)
    {
        int index = written / _pool.BlockSize;
        bool isShared = index < Count && _pool.Holders(Blocks[index]) > 1;
        if (!isShared)
            return TryGrow(tokens);
        if (Missing(tokens) + 1 > _pool.Free)
            return false;
        int own = _pool.Take();
        copies.Add(new BlockCopy(Blocks[index], own));
        _pool.Return(Blocks[index]);
        Blocks[index] = own;
        return TryGrow(tokens);
    }

    /// <summary>Shares the blocks that the prefix index has for the first tokens of a sequence. The table must be empty.</summary>
    /// <param name="root">What its first block hangs from.</param>
    /// <param name="tokens">The tokens; only full blocks are looked for.</param>
    /// <returns>How many blocks it got.</returns>
    public int Adopt(UInt128 root, ReadOnlySpan<int> tokens)
    {
        PrefixIndex index = _pool.Prefixes!;
        for (UInt128 parent = root; tokens.Length >= _pool.BlockSize; tokens = tokens[_pool.BlockSize..])
        {
            int block = index.Find(parent, tokens[.._pool.BlockSize]);
            if (block < 0)
                break;
            _pool.Share(block);
            Blocks[Count++] = block;
            parent = index.Identity(block);
        }

        return Count;
    }

    /// <summary>Shares another table's blocks that hold its first <paramref name="tokens"/> tokens. The table must be empty.</summary>
    public void Share(BlockTable other, int tokens)
    {
        for (int count = _pool.BlocksFor(tokens); Count < count; Count++)
        {
            _pool.Share(other.Blocks[Count]);
            Blocks[Count] = other.Blocks[Count];
        }
    }

    /// <summary>Gives a block back for another one with the same content.</summary>
    public void Replace(int index, int block)
    {
        _pool.Share(block);
        _pool.Return(Blocks[index]);
        Blocks[index] = block;
    }

    /// <summary>The cache slot of a position: block * BlockSize + offset.</summary>
    public int Slot(int position)
    {
        int index = position / _pool.BlockSize;
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(index, Count, nameof(position));
        return checked((Blocks[index] * _pool.BlockSize) + (position % _pool.BlockSize));
    }

    /// <summary>Gives all blocks back, the last one first: so the ends of prefixes are forgotten before their beginnings.</summary>
    public void Clear()
    {
        while (Count > 0)
            _pool.Return(Blocks[--Count]);
    }

    /// <summary>Gives all blocks back and frees the table.</summary>
    public void Dispose()
    {
        if (_blocks is null || _blocks.IsClosed)
            return;
        Clear();
        _blocks.Dispose();
    }
}
