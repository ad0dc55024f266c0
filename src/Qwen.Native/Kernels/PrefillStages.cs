using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Stages of shared memory through which tiles of keys (kind 0) and values (kind 1) go from a producing warp group to consuming ones, as rows of
/// 16-bit operands that products of warp groups read; tile i has stage i mod <see cref="Count"/>. Of each stage a barrier says that its tile has come, another that it may be overwritten.
/// </summary>
internal sealed class PrefillStages
{
    private const int Count = 2;

    private readonly PtxBuilder _k;
    private readonly Shared _tiles, _barriers;
    private readonly int _producers, _consumers;

    /// <summary>Takes shared memory.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="layout">Of a tile.</param>
    /// <param name="producers">Threads that bring a tile.</param>
    /// <param name="consumers">Warps that use it.</param>
    public PrefillStages(PtxBuilder k, MatrixLayout layout, int producers, int consumers)
    {
        (_k, Layout, _producers, _consumers) = (k, layout, producers, consumers);
        _tiles = layout.Allocate(k);
        for (int i = 1; i < 2 * Count; i++) // stages of keys, then of values
            layout.Allocate(k);
        _barriers = k.AllocateShared(4 * Count * sizeof(long));
    }

    /// <summary>Of a tile.</summary>
    public MatrixLayout Layout { get; }

    /// <summary>Bytes of all stages of a kind.</summary>
    public int KindBytes => Count * Layout.Bytes;

    /// <summary>Where the first stage of a kind begins.</summary>
    public Shared First(U32 kind) => _tiles.At(kind, KindBytes);

    /// <summary>How far behind that a tile is.</summary>
    public U32 Further(U32 tile) => tile % Count * Layout.Bytes;

    /// <summary>Once, by one thread, before a barrier.</summary>
    public void Initialize()
    {
        for (int kind = 0; kind < 2; kind++)
        {
            for (int stage = 0; stage < Count; stage++)
            {
                _k.InitializeBarrier(Full(kind, stage), _producers);
                _k.InitializeBarrier(Empty(kind, stage), _consumers);
            }
        }

        _k.FenceBarriers();
    }

    /// <summary>A producer waits until the tile before in its stage is used up.</summary>
    public void WaitForRoom(U32 kind, U32 tile) => _k.WaitBarrier(Empty(kind, tile), Parity(tile) ^ 1);

    /// <summary>A producer's part of the tile is written.</summary>
    public void Publish(U32 kind, U32 tile)
    {
        _k.FenceAsyncProxy();
        _k.Arrive(Full(kind, tile));
    }

    /// <summary>A consumer waits until the tile has come.</summary>
    public void WaitForTile(U32 kind, U32 tile) => _k.WaitBarrier(Full(kind, tile), Parity(tile));

    /// <summary>A consumer's warp has used the tile up.</summary>
    public void Release(U32 kind, U32 tile) => _k.Arrive(Empty(kind, tile), _k.Lane.Is(0));

    private Shared Full(U32 kind, U32 tile) => _barriers.At((kind * (2 * Count)) + (tile % Count), sizeof(long));

    private Shared Empty(U32 kind, U32 tile) => Full(kind, tile) + (Count * sizeof(long));

    // Of the tile's turn in its stage.
    private static U32 Parity(U32 tile) => (tile / Count) & 1;
}
