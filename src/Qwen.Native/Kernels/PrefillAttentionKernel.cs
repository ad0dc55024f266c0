using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Causal attention of chunks of new tokens of several sequences to their paged keys and values, which hold the chunks too:
/// attended[t, h] = sum over p up to t's position of softmax(q[t, h] . k[p] / sqrt(D)) v[p].
/// </summary>
/// <remarks>
/// FlashAttention-2 (Dao, 2023) on mma, and 3 on Hopper where <see cref="PrefillTiling"/> says so. The query heads of a key and value head are rows next to each other, [token][head of the group], so that a
/// tile's keys serve all of them and a short chunk still fills tiles. A warp has 32 rows (16 where chunks are short): each fragment of
/// keys and values that it reads from shared memory meets two of queries, which halves the traffic that would bound it otherwise. Keys of
/// tile i + 1 come while tile i's values are summed, values of tile i while its scores are. Blocks with the longest rows start first.
/// </remarks>
public sealed class PrefillAttentionKernel : Kernel
{
    private readonly AttentionShape _shape;
    private readonly ShortChunks _short;
    private readonly PrefillTiling _tiling;
    private readonly int _multiprocessors;

    /// <summary>Compiles it.</summary>
    /// <param name="cache">Where.</param>
    /// <param name="shape">What for.</param>
    public PrefillAttentionKernel(KernelCache cache, AttentionShape shape)
        : this(cache, shape, PrefillTiling.For(cache.Target, shape))
    {
    }

    /// <summary>Compiles it with other tiles than usual.</summary>
    /// <param name="cache">Where.</param>
    /// <param name="shape">What for.</param>
    /// <param name="tiling">The tiles.</param>
    public PrefillAttentionKernel(KernelCache cache, AttentionShape shape, PrefillTiling tiling)
        : base(cache, Build(cache.Target, shape, tiling))
    {
        (_shape, _tiling, _multiprocessors) = (shape, tiling, cache.Device.Info.Multiprocessors);
        _short = new ShortChunks(cache, shape);
    }

    /// <summary>The kernel for a shape.</summary>
    /// <param name="target">For what device.</param>
    /// <param name="shape">The shape.</param>
    /// <param name="tiling">The tiles; null for the usual ones.</param>
    public static PtxKernel Build(PtxTarget target, AttentionShape shape, PrefillTiling? tiling = null)
    {
        shape.Check();
        PrefillTiling tiles = tiling ?? PrefillTiling.For(target, shape);
        if (!tiles.UsesWarpGroups)
            return Build(target, shape, new PrefillTile(shape, tiles.Positions, IsShort: false));
        var k = new PtxBuilder(target, $"prefill_attention_{shape.Name}_warpgroups{tiles.Positions}{(tiles.TakesTurns ? "" : "_free")}{(tiles.HoldsQueries ? "_held" : "")}", PrefillWarpGroups.Threads, blocksPerMultiprocessor: 1);
        new PrefillWarpGroups(k, shape, tiles).Emit();
        return k.Build();
    }

    /// <summary>The kernel for chunks of few rows.</summary>
    /// <param name="target">For what device.</param>
    /// <param name="shape">The shape.</param>
    public static PtxKernel BuildShort(PtxTarget target, AttentionShape shape)
    {
        shape.Check();
        return Build(target, shape, new PrefillTile(shape, PrefillTiling.OfWarps(shape).Positions, IsShort: true));
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="qkv">[tokens, (heads + 2 kvHeads) headDim]; the queries are read.</param>
    /// <param name="attended">[tokens, heads headDim]; the rows of the sequences are written.</param>
    /// <param name="layer">The cache, which holds the new tokens too.</param>
    /// <param name="table">All sequences of the step.</param>
    /// <param name="sequences">S32 [count]: those that this launch is for.</param>
    /// <param name="count">How many.</param>
    /// <param name="mostTokens">Tokens of the longest chunk, or more.</param>
    /// <param name="bias">Of the keys, if the shape has one.</param>
    public void Launch(
        IDeviceStream stream, DevicePointer qkv, DevicePointer attended, in KvLayerPointers layer, in SequenceTable table, DevicePointer sequences, int count, int mostTokens,
        in KeyBiasPointers bias = default)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(count);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(mostTokens);
        Span<ulong> slots = stackalloc ulong[AttentionArguments.Count + 2];
        AttentionArguments.Of(slots, qkv, attended, layer, bias, table, sequences);
        long rows = (long)mostTokens * _shape.Group;
        if (rows <= PrefillTile.ShortRows)
        {
            _short.Launch(stream, new Dim3(1, _shape.KvHeads, count), slots[..AttentionArguments.Count]);
            return;
        }

        int blockRows = _tiling.UsesWarpGroups ? PrefillWarpGroups.Rows : new PrefillTile(_shape, _tiling.Positions, IsShort: false).Rows, tiles = checked((int)((rows + blockRows - 1) / blockRows));
        if (!_tiling.UsesWarpGroups)
        {
            Launch(stream, new Dim3(tiles, _shape.KvHeads, count), slots[..AttentionArguments.Count], overlapPrevious: true);
            return;
        }

        int works = checked(tiles * _shape.KvHeads * count);
        (slots[^2], slots[^1]) = (Argument.Of(works), Argument.Of(count));
        Launch(stream, _tiling.IsPersistent ? Math.Min(works, _multiprocessors) : works, slots, overlapPrevious: true);
    }

    private static PtxKernel Build(PtxTarget target, AttentionShape shape, PrefillTile tile)
    {
        var k = new PtxBuilder(target, $"prefill_attention_{shape.Name}{(tile.IsShort ? "_short" : "")}", PrefillTile.Threads, blocksPerMultiprocessor: tile.IsShort ? 2 : 0);
        new PrefillEmission(k, shape, tile).Emit();
        return k.Build();
    }

    private sealed class ShortChunks(KernelCache cache, AttentionShape shape) : Kernel(cache, BuildShort(cache.Target, shape))
    {
        public void Launch(IDeviceStream stream, Dim3 grid, ReadOnlySpan<ulong> slots) => Launch(stream, grid, slots, overlapPrevious: true);
    }
}

/// <summary>How <see cref="PrefillAttentionKernel"/> goes through the positions.</summary>
/// <param name="Positions">Of a tile.</param>
/// <param name="UsesWarpGroups">Whether by products of warp groups, which sm_90a has, of 8- and 16-bit caches and heads of 64 or 128; else of warps.</param>
/// <param name="TakesTurns">Whether two warp groups issue their products in turns.</param>
/// <param name="HoldsQueries">Whether warp groups hold their queries in registers, which saves shared memory's bandwidth.</param>
/// <param name="IsPersistent">Whether there are only as many blocks of warp groups as multiprocessors, each of which goes on with other rows where it ends with some.</param>
public readonly record struct PrefillTiling(int Positions, bool UsesWarpGroups = false, bool TakesTurns = false, bool HoldsQueries = false, bool IsPersistent = false)
{
    /// <summary>The one for a target. Caches of bytes keep to products of warps until those of warp groups have been seen to be right on hardware.</summary>
    public static PrefillTiling For(PtxTarget target, AttentionShape shape) =>
        target.Has(PtxFeature.WarpGroupMma) && shape.Cache.Bytes() == 2 && shape.HeadDim is 64 or 128 ? new PrefillTiling(128, UsesWarpGroups: true, TakesTurns: true) : OfWarps(shape);

    /// <summary>
    /// With products of warps. There are half as many positions where wide rows, or what is staged beside them, need the room (99 KB
    /// a block at most), or their conversion registers; if the block's threads can still share the copies evenly.
    /// </summary>
    public static PrefillTiling OfWarps(AttentionShape shape) =>
        new(shape.HeadDim * (shape.Cache.Bytes() == 2 ? 1 : 2) > 128 && 32 * (shape.RowBytes / 16) % PrefillTile.Threads == 0 ? 32 : 64);
}

/// <summary>Sizes of a block of <see cref="PrefillAttentionKernel"/> with products of warps.</summary>
/// <param name="Shape">The shape.</param>
/// <param name="Positions">Positions whose keys and values are in shared memory at once.</param>
/// <param name="IsShort">For chunks of few rows.</param>
internal readonly record struct PrefillTile(AttentionShape Shape, int Positions, bool IsShort)
{
    public const int Warps = 4, Threads = 32 * Warps, ShortRows = 16 * Warps;

    /// <summary>Sixteens of rows of a warp: two want 255 registers at a width of 128, and there is no room for them beyond.</summary>
    public int RowTiles => IsShort || Shape.HeadDim > 128 ? 1 : 2;

    public int WarpRows => 16 * RowTiles;

    public int Rows => Warps * WarpRows;

    /// <summary>Bytes of a row of 16-bit values in shared memory: a power of two, with chunks swizzled, or padded by 16.</summary>
    public int RowBytes => IsSwizzled ? 2 * Shape.HeadDim : (2 * Shape.HeadDim) + 16;

    private bool IsSwizzled => BitOperations.IsPow2(Shape.HeadDim);

    /// <summary>Takes shared memory for rows.</summary>
    public Shared Allocate(PtxBuilder k, int rows) => k.AllocateShared(rows * RowBytes, IsSwizzled ? RowBytes : 16);

    /// <summary>Where a 16-byte chunk of a row is.</summary>
    public Shared At(Shared rows, U32 row, U32 chunk) => rows + ((row * RowBytes) + (IsSwizzled ? PtxBuilder.Swizzle(row, chunk, RowBytes) : chunk * 16));

    /// <summary>Where chunk 0 or 1 of a row is, and the chunks two, four, ... further on: one exclusive or each, as rows are aligned to their size.</summary>
    public Func<int, Shared> Steps(Shared rows, U32 row, U32 chunk)
    {
        Shared first = At(rows, row, chunk);
        if (!IsSwizzled)
            return step => first + (32 * step);
        U32 address = first.Base + first.Offset;
        return step => step == 0 ? new Shared(address) : new Shared(address ^ (32 * step));
    }
}
