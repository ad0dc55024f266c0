using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>What a block of <see cref="PrefillAttentionKernel"/> works on at a time: consecutive rows of a sequence's chunk, [token][head of the group], and the positions that they see.</summary>
internal sealed class PrefillBlock
{
    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly Global _qkv;
    private readonly U32 _firstToken;

    /// <summary>Reads what the block needs to know.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="tileRows">Rows at a time.</param>
    /// <param name="tile">Which so many rows of the chunk, from its end, as those have the most to see.</param>
    /// <param name="head">The key and value head.</param>
    /// <param name="ordinal">Of the sequence among those of the launch.</param>
    public PrefillBlock(PtxBuilder k, AttentionShape shape, AttentionArguments arguments, int tileRows, U32 tile, U32 head, U32 ordinal)
    {
        (_k, _shape, Arguments, Head) = (k, shape, arguments, head);
        U32 sequence = k.Load<U32>(Arguments.Sequences.At(ordinal, sizeof(int)));
        Rows = k.Load<U32>(Arguments.Tokens.At(sequence, sizeof(int))) * shape.Group;
        U32 tiles = (Rows + (tileRows - 1)) / tileRows;
        IsEmpty = tile >= tiles;
        FirstRow = ((tiles - 1) - tile) * tileRows;
        LastRow = k.Min(FirstRow + (tileRows - 1), Rows - 1);
        FirstPosition = k.Load<U32>(Arguments.FirstPositions.At(sequence, sizeof(int)));
        (First, Last) = (FirstPosition + (FirstRow / shape.Group), FirstPosition + (LastRow / shape.Group));
        From = shape.SlidingWindow == 0 ? 0 : (First + 1) - k.Min(First + 1, shape.SlidingWindow);
        Table = Arguments.BlockTables.At(sequence, Arguments.BlocksPerSequence * sizeof(int));
        _firstToken = k.Load<U32>(Arguments.FirstTokens.At(sequence, sizeof(int)));
        _qkv = Arguments.Qkv.At(_firstToken, shape.QkvWidth * sizeof(ushort)).At(Head, shape.Group * shape.HeadDim * sizeof(ushort));
    }

    public AttentionArguments Arguments { get; }

    /// <summary>Whether the chunk has no such rows; all else means nothing then.</summary>
    public Pred IsEmpty { get; }

    /// <summary>The key and value head.</summary>
    public U32 Head { get; }

    /// <summary>Rows of the chunk.</summary>
    public U32 Rows { get; }

    /// <summary>The block's first row in the chunk.</summary>
    public U32 FirstRow { get; }

    /// <summary>The block's last row in the chunk.</summary>
    public U32 LastRow { get; }

    /// <summary>The position of the chunk's first token.</summary>
    public U32 FirstPosition { get; }

    /// <summary>The position of the block's first token.</summary>
    public U32 First { get; }

    /// <summary>The position of the block's last token.</summary>
    public U32 Last { get; }

    /// <summary>The first position that any row sees.</summary>
    public U32 From { get; }

    /// <summary>The sequence's blocks.</summary>
    public Global Table { get; }

    /// <summary>The nearest position that some row sees, which has a block.</summary>
    public U32 InRange(U32 position) => _shape.SlidingWindow == 0 ? _k.Min(position, Last) : _k.Max(_k.Min(position, Last), From);

    /// <summary>Where a position's key and value are in the cache, in rows.</summary>
    /// <param name="position">In range.</param>
    /// <param name="block">Its block.</param>
    public U32 Vector(U32 position, U32 block) => ((block * _shape.KvHeads + Head) * _shape.BlockSize) + (position % _shape.BlockSize);

    /// <summary>The block of a position in range.</summary>
    public U32 BlockOf(U32 position) => _k.Load<U32>(Table.At(position / _shape.BlockSize, sizeof(int)), CacheHint.ReadOnly);

    /// <summary>Stores rows of queries to shared memory as 16-bit operands, eight columns at a time, as many for each thread. Rows past the last are copies of it, whose results nobody stores.</summary>
    /// <param name="first">The first of them in the block.</param>
    /// <param name="rows">How many.</param>
    /// <param name="thread">Of those who do it.</param>
    /// <param name="threads">Who do it.</param>
    /// <param name="at">Where eight columns (a chunk) of a row go.</param>
    public void StoreQueries(U32 first, int rows, U32 thread, int threads, Func<U32, U32, Shared> at)
    {
        const int AtOnce = 8; // loads under way: one after the other they would take longer than a tile
        int chunks = _shape.HeadDim / 8;
        foreach (int[] batch in Enumerable.Range(0, rows * chunks / threads).Chunk(AtOnce))
        {
            (Shared To, U32[] Words)[] loaded = [.. batch.Select(i =>
            {
                U32 index = thread + (i * threads), row = index / chunks, chunk = index % chunks, source = _k.Min(FirstRow + first + row, LastRow);
                Global from = _qkv.At(source / _shape.Group, _shape.QkvWidth * sizeof(ushort)).At(((source % _shape.Group) * chunks) + chunk, 16);
                return (at(row, chunk), QueryRows.Operands(_k, _shape, _k.LoadVector<U32>(from, 4)));
            })];
            foreach ((Shared to, U32[] words) in loaded)
                _k.StoreVector<U32>(to, words);
        }
    }

    /// <summary>Where two columns of a row of results go: column 2 (lane mod 4) of it, and others by constants.</summary>
    /// <param name="row">In the chunk.</param>
    public Global ResultAt(U32 row)
    {
        U32 token = _firstToken + (row / _shape.Group), head = (Head * _shape.Group) + (row % _shape.Group);
        return Arguments.Attended.At(token, _shape.Heads * _shape.HeadDim * sizeof(ushort)).At((head * (_shape.HeadDim / 2)) + (_k.Lane & 3), 2 * sizeof(ushort));
    }
}
