using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Brings keys or values of a tile of positions from the paged cache to shared memory, as 16-bit rows.</summary>
/// <remarks>
/// 16-bit caches are copied asynchronously to their place. Others are copied as they are to a staging buffer, each 16 bytes by the thread that, when
/// they have come, makes 16-bit values of them: for that it waits for its own copies only, so no barrier is needed in between.
/// </remarks>
internal sealed class PrefillCopies
{
    private readonly PtxBuilder _k;
    private readonly PrefillBlock _block;
    private readonly AttentionShape _shape;
    private readonly PrefillTile _tile;
    private readonly Global _from, _scales;
    private readonly Shared _staging, _stagedScales;
    private readonly PrefillConversion? _conversion;

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
        if (_shape.Cache != ElementType.F32)
            _conversion = new PrefillConversion(k, _shape, block.Arguments, areKeys);
        _conversion?.LoadBias(block.Head, k.Thread, k.Threads);
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

            F32 scale = _shape.Cache == ElementType.S8 ? _k.Load<F32>(Further(_stagedScales, i, PrefillTile.Threads * sizeof(float))) : 1f;
            U32[] halves = _conversion!.Operands(words, scale, chunk, _block.InRange(position + row));
            _k.StoreVector<U32>(At(i, 2, 0), halves.AsSpan(0, 4));
            _k.StoreVector<U32>(At(i, 2, 1), halves.AsSpan(4, 4));
        }
    }
}
