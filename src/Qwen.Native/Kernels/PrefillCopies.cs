using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Brings keys or values of a tile of positions from the paged cache to shared memory, as 16-bit rows.</summary>
/// <remarks>
/// 16-bit caches are copied asynchronously to their place. Others are copied as they are to a staging buffer, each 16 bytes by the thread that, when
/// they have come, makes 16-bit values of them: for that it waits for its own copies only, so no barrier is needed in between. Keys that are
/// cached without their bias get it here, rotated to their position, in F32 before they are rounded: they are then as exact as those of an
/// F16 cache.
/// </remarks>
internal sealed class PrefillCopies
{
    private readonly PtxBuilder _k;
    private readonly PrefillBlock _block;
    private readonly AttentionShape _shape;
    private readonly PrefillTile _tile;
    private readonly Global _from, _scales;
    private readonly Shared _staging, _stagedScales, _bias;
    private readonly bool _addsBias;

    /// <summary>Takes shared memory.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="block">What it works on.</param>
    /// <param name="tile">Its sizes.</param>
    /// <param name="areKeys">Keys, or values.</param>
    public PrefillCopies(PtxBuilder k, PrefillBlock block, PrefillTile tile, bool areKeys)
    {
        (_k, _block, _shape, _tile) = (k, block, tile.Shape, tile);
        AttentionArguments arguments = block.Arguments;
        (_from, _scales) = areKeys ? (arguments.Keys, arguments.KeyScales) : (arguments.Values, arguments.ValueScales);
        Rows = tile.Allocate(k, tile.Positions);
        if (IsDirect)
            return;
        _staging = k.AllocateShared(tile.Positions * _shape.RowBytes).At(k.Thread, 16);
        if (_shape.Cache == ElementType.S8)
            _stagedScales = k.AllocateShared(PerThread * k.Threads * sizeof(float)).At(k.Thread, sizeof(float));
        _addsBias = areKeys && _shape.HasKeyBias;
        if (_addsBias)
            _bias = LoadBias();
    }

    /// <summary>[positions][chunks, swizzled].</summary>
    public Shared Rows { get; }

    private bool IsDirect => _shape.Cache.Bytes() == 2;

    private int ChunksPerRow => _shape.RowBytes / 16;

    private int PerThread => _tile.Positions * ChunksPerRow / PrefillTile.Threads;

    /// <summary>Starts to copy the positions from one on, as a group of copies.</summary>
    public void Start(U32 position)
    {
        for (int i = 0; i < PerThread; i++)
        {
            (U32 row, U32 chunk) = Mine(i);
            U32 at = _block.InRange(position + row), vector = _block.Vector(at, _block.BlockOf(at));
            _k.CopyAsync(IsDirect ? At(i, 1, 0) : Further(_staging, i, PrefillTile.Threads * 16), _from.At(vector, _shape.RowBytes).At(chunk, 16), 16);
            if (_shape.Cache == ElementType.S8)
                _k.CopyAsync(Further(_stagedScales, i, PrefillTile.Threads * sizeof(float)), _scales.At(vector, sizeof(float)), sizeof(float));
        }

        _k.CommitCopies();
    }

    /// <summary>Waits until they have come and everyone sees them. All threads.</summary>
    public void Finish(U32 position)
    {
        _k.WaitForCopies(0);
        if (!IsDirect)
            Convert(position);
        _k.Barrier();
    }

    // The row, and the chunk of 16 bytes in the cache, of the thread's i-th 16 bytes: neighbouring threads have neighbouring ones.
    private (U32 Row, U32 Chunk) Mine(U32 i)
    {
        if (RowsAtOnce is { } rows)
            return ((_k.Thread / ChunksPerRow) + (i * rows), _k.Thread % ChunksPerRow);
        U32 index = _k.Thread + (i * PrefillTile.Threads);
        return (index / ChunksPerRow, index % ChunksPerRow);
    }

    // Rows that the block's threads cover together, if they cover whole ones.
    private int? RowsAtOnce => PrefillTile.Threads % ChunksPerRow == 0 ? PrefillTile.Threads / ChunksPerRow : null;

    // Where the thread's i-th 16 bytes go: chunk factor * chunk + more in shared memory. The swizzle is the same every eight rows.
    private Shared At(U32 i, int factor, int more)
    {
        bool isRegular = RowsAtOnce % 8 == 0;
        (U32 row, U32 chunk) = Mine(isRegular ? 0 : i);
        Shared at = _tile.At(Rows, row, (chunk * factor) + more);
        return isRegular ? Further(at, i, RowsAtOnce!.Value * _tile.RowBytes) : at;
    }

    private static Shared Further(Shared at, U32 i, int bytes) => i.Operand.IsConstant ? at + ((int)i.Operand.Bits * bytes) : at + (i * bytes);

    // A loop of the device: unrolled it would take registers that scores and sums need.
    private void Convert(U32 position)
    {
        using (_k.For(0, PerThread, out U32 i))
        {
            (U32 row, U32 chunk) = Mine(i);
            U32[] words = _k.LoadVector<U32>(Further(_staging, i, PrefillTile.Threads * 16), 4);
            if (_shape.Cache == ElementType.F32)
            {
                F32[] floats = _k.Decode(ElementType.F32, words);
                U32[] pairs = [_k.Pack(_shape.Operands, floats[0], floats[1]).AsU32, _k.Pack(_shape.Operands, floats[2], floats[3]).AsU32];
                _k.StoreVector<U32>(_tile.At(Rows, row, chunk >> 1) + ((chunk & 1) * 8), pairs);
                return;
            }

            U32[] halves = _addsBias || _shape.Cache == ElementType.S8 ? Scaled(words, i, chunk, _block.InRange(position + row)) : Plain(words);
            _k.StoreVector<U32>(At(i, 2, 0), halves.AsSpan(0, 4));
            _k.StoreVector<U32>(At(i, 2, 1), halves.AsSpan(4, 4));
        }
    }

    private U32[] Plain(U32[] words) =>
        [.. words.SelectMany(word =>
        {
            (Half2 low, Half2 high) = _k.BytesToHalf2(_shape.Cache, word);
            return (U32[])[low.AsU32, high.AsU32];
        })];

    private U32[] Scaled(U32[] words, U32 i, U32 chunk, U32 position)
    {
        var halves = new U32[8];
        F32 scale = _shape.Cache == ElementType.S8 ? _k.Load<F32>(Further(_stagedScales, i, PrefillTile.Threads * sizeof(float))) : 1f;
        U32 pair = (chunk * 16) % (_shape.HeadDim / 2); // sixteen columns are of one half of the head
        Global turns = _addsBias ? _block.Arguments.Rotations.At(position, _shape.HeadDim * sizeof(float)).At(pair, 2 * sizeof(float)) : default;
        for (int word = 0; word < 4; word++)
        {
            F32[] values = _k.Decode(_shape.Cache, words.AsSpan(word, 1));
            if (_shape.Cache == ElementType.S8)
                values = [.. values.Select(value => value * scale)];
            if (_addsBias)
            {
                Shared at = _bias.At(chunk, 16 * sizeof(float)) + (word * 4 * sizeof(float));
                F32[] own = _k.LoadVector<F32>(at, 4), other = _k.LoadVector<F32>(at + (_shape.HeadDim * sizeof(float)), 4);
                F32[] turn = [.. _k.LoadVector<F32>(turns + (word * 8 * sizeof(float)), 4, CacheHint.ReadOnly), .. _k.LoadVector<F32>(turns + (((word * 8) + 4) * sizeof(float)), 4, CacheHint.ReadOnly)];
                for (int c = 0; c < 4; c++)
                    values[c] = _k.Fma(other[c], turn[(2 * c) + 1], _k.Fma(own[c], turn[2 * c], values[c]));
            }

            halves[2 * word] = _k.Pack(ElementType.F16, values[0], values[1]).AsU32;
            halves[(2 * word) + 1] = _k.Pack(ElementType.F16, values[2], values[3]).AsU32;
        }

        return halves;
    }

    // The head's bias, and behind it what each column takes times the sine: minus the upper half's, then the lower half's. A barrier must follow.
    private Shared LoadBias()
    {
        int half = _shape.HeadDim / 2;
        Shared both = _k.AllocateShared(2 * _shape.HeadDim * sizeof(float));
        Global bias = _block.Arguments.KeyBias.At(_block.Head, _shape.HeadDim * sizeof(float));
        using (_k.For(_k.Thread, half, _k.Threads, out U32 i))
        {
            F32 lower = _k.Load<F32>(bias.At(i, sizeof(float)), CacheHint.ReadOnly), upper = _k.Load<F32>(bias.At(i, sizeof(float)) + (half * sizeof(float)), CacheHint.ReadOnly);
            Shared at = both.At(i, sizeof(float));
            _k.Store(at, lower);
            _k.Store(at + (half * sizeof(float)), upper);
            _k.Store(at + (2 * half * sizeof(float)), -upper);
            _k.Store(at + (3 * half * sizeof(float)), lower);
        }

        return both;
    }
}
