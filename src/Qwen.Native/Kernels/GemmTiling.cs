using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>How the blocks of a <see cref="GemmKernel"/> are shaped.</summary>
/// <param name="Warps">Warps of a block, four of which multiply as one: 8, 12 or 16.</param>
/// <param name="Rows">Rows of x that a block multiplies at once: 16, 32, 64 or 128.</param>
/// <param name="Blocks">Blocks that a multiprocessor holds: 1 to 3.</param>
/// <param name="Runs">Blocks of a product on a multiprocessor: as many as it holds, or fewer, which leaves room for the kernel that comes next.</param>
public readonly record struct GemmTiling(int Warps, int Rows, int Blocks = 1, int Runs = 1)
{
    /// <summary>The most rows of any.</summary>
    public const int MostRows = 128;

    /// <summary>Warps that a multiprocessor has registers for, with few rows.</summary>
    internal const int MostWarps = 24;

    private const int LeastStages = 3, MostStages = 8, ReservedShared = 1 << 10; // of each block

    /// <summary>Outputs of a block: a warp has a row tile.</summary>
    public int Outputs => Warps * PackedMatrix.TileOutputs;

    /// <summary>
    /// The tiling for a product. A block of many outputs reads x less often, which counts as soon as there are many rows: x comes from L2, whose
    /// bandwidth is little more than the memory's. But where a matrix has few outputs, many blocks share each, and must add up what they have.
    /// </summary>
    /// <param name="target">What for. Without products of warp groups, the most rows take all registers of a multiprocessor for eight warps.</param>
    /// <param name="outputs">Rows of W.</param>
    /// <param name="rows">Rows of x.</param>
    /// <param name="multiprocessors">Of the device.</param>
    /// <param name="mostRows">Most rows that there are registers for with such weights.</param>
    public static GemmTiling For(PtxTarget target, int outputs, int rows, int multiprocessors, int mostRows = MostRows)
    {
        bool hasWarpGroups = target.Has(PtxFeature.WarpGroupMma), isWide = outputs >= 128 * multiprocessors;
        mostRows = Math.Min(mostRows, hasWarpGroups ? MostRows : 64);
        int tileRows = Math.Min(mostRows, RowsFor(rows));
        if (!hasWarpGroups)
            return tileRows == mostRows ? new GemmTiling(8, tileRows) : new GemmTiling(8, tileRows, 2, 2);
        return (tileRows, isWide) switch
        {
            (128, _) => new GemmTiling(isWide ? 12 : 8, tileRows),
            (64, false) => new GemmTiling(8, tileRows),
            (_, false) => new GemmTiling(8, tileRows, 2, 2),
            (16, true) => new GemmTiling(12, tileRows, 2, 2),
            _ => new GemmTiling(16, tileRows),
        };
    }

    /// <summary>Rows of a tile for a number of rows.</summary>
    internal static int RowsFor(int rows) => rows <= 16 ? 16 : rows <= 32 ? 32 : rows <= 64 ? 64 : MostRows;

    /// <summary>Stages of the ring, as far as shared memory goes.</summary>
    internal int Stages(PtxTarget target, int stageBytes)
    {
        int shared = target.Sm switch { 80 => 164, >= 90 => 228, _ => 100 } << 10;
        return Math.Clamp(((shared / Blocks) - ReservedShared) / stageBytes, LeastStages, MostStages);
    }

    /// <summary>Refuses what no kernel is built for.</summary>
    public void Check(PtxTarget target, int mostRows)
    {
        if (Warps is not (8 or 12 or 16) || Rows is not (16 or 32 or 64 or 128) || Blocks is not (1 or 2 or 3) || Runs < 1 || Runs > Blocks || Rows > mostRows || Warps * Blocks > MostWarps)
            throw new ArgumentOutOfRangeException(nameof(mostRows), mostRows, $"No tiling of these weights: {this}.");
        if (Rows == 128 && (Warps == 16 || !target.Has(PtxFeature.WarpGroupMma)))
            throw new ArgumentOutOfRangeException(nameof(target), target, $"{this} has too many rows.");
    }

    /// <summary>For names of kernels.</summary>
    public override string ToString() => $"{Warps}x{Rows}{(Blocks == 1 ? "" : $"_{Runs}of{Blocks}")}";
}
