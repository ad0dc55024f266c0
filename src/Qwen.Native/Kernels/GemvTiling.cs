using Qwen.Native.Device;

namespace Qwen.Native.Kernels;

/// <summary>How the blocks of a product of few tokens cover a matrix: a block's warps share a row of tiles, or two, and take the next when it is done.</summary>
/// <param name="RowTiles">Tiles of 16 outputs that a warp multiplies at once: 1 or 2 (always 2 where the product is gated: one of the gate, one of the up projection).</param>
/// <param name="Warps">Warps that share a row: 4, 8 or 16.</param>
/// <param name="Slots">Units of a warp's ring: all but one are under way.</param>
/// <param name="Blocks">Blocks that a multiprocessor shall have at once; further rows wait their turn in the blocks that there are.</param>
public readonly record struct GemvTiling(int RowTiles, int Warps, int Slots, int Blocks)
{
    /// <summary>Outputs of a tile.</summary>
    public const int TileOutputs = 16;

    private const int LeastSlots = 3, MostRingBytes = 9 << 10; // of a warp

    /// <summary>
    /// The tiling for a matrix: more warps a row as long as all blocks still run at once, so that even few outputs keep enough bytes under way and
    /// are soon done when their inputs are there; two tiles, which halve the loads of x, where there are many. Rings leave room for the next kernel's.
    /// </summary>
    /// <param name="outputs">Rows of the matrix.</param>
    /// <param name="gated">It is a gate and an up projection.</param>
    /// <param name="units">Units of a row.</param>
    /// <param name="unitBytes">Bytes of a unit of one row tile.</param>
    /// <param name="device">The device.</param>
    internal static GemvTiling For(int outputs, bool gated, int units, int unitBytes, DeviceInfo device)
    {
        int multiprocessors = device.Multiprocessors;
        int tiles = (outputs + TileOutputs - 1) / TileOutputs, rowTiles = gated || tiles >= 8 * multiprocessors ? 2 : 1;
        int groups = (tiles + rowTiles - 1) / rowTiles, warps = 4;
        while (2 * warps <= Math.Min(units, 16) && groups <= MostBlocks(2 * warps) * multiprocessors && SlotsOf(2 * warps) >= LeastSlots)
            warps *= 2;
        int slots = Math.Max(LeastSlots, SlotsOf(warps));
        if (groups <= BlocksOf(warps) * multiprocessors)
            slots = Math.Min(slots, ((units + warps - 1) / warps) + 1); // a row is all there is
        return new GemvTiling(rowTiles, warps, slots, BlocksOf(warps));

        int SlotsOf(int warps)
        {
            int blocks = Math.Min((groups + multiprocessors - 1) / multiprocessors, BlocksOf(warps));
            return Math.Min(MostRingBytes, device.SharedMemoryPerMultiprocessor * 3 / 5 / (blocks * warps)) / (rowTiles * unitBytes);
        }
    }

    /// <summary>Blocks that share a multiprocessor with the next kernel's.</summary>
    private static int BlocksOf(int warps) => warps == 4 ? 3 : MostBlocks(warps);

    /// <summary>Blocks of so many warps that a multiprocessor's registers hold, the next kernel's included: 96, 80 or 128 a thread.</summary>
    internal static int MostBlocks(int warps) => warps == 4 ? 5 : 24 / warps;

    /// <summary>Floats from a token to the next in the warps' sums. 4: a warp's stores fall in 32 banks.</summary>
    internal int PartialStride => (RowTiles * TileOutputs) + 4;

    /// <summary>Bytes of the warps' sums.</summary>
    internal int PartialBytes => Warps * GemvEpilogue.MostTokens * PartialStride * sizeof(float);

    /// <summary>Results that a block has at once: of a gated product half of its outputs.</summary>
    internal int ResultsOfGroup(bool gated) => gated ? TileOutputs : RowTiles * TileOutputs;

    /// <summary>Rows of tiles (pairs of such) of a matrix.</summary>
    internal int Groups(int outputs, bool gated) => ((gated ? outputs / 2 : outputs) + ResultsOfGroup(gated) - 1) / ResultsOfGroup(gated);

    /// <summary>Blocks for so many rows: as few as take the same number of turns.</summary>
    internal int Grid(int groups, int multiprocessors)
    {
        int turns = (groups + (Blocks * multiprocessors) - 1) / (Blocks * multiprocessors);
        return (groups + turns - 1) / turns;
    }

    /// <summary>Refuses what no kernel is built for.</summary>
    internal static void Check(GemvTiling tiling, bool gated)
    {
        if (tiling.RowTiles != 2 && (tiling.RowTiles != 1 || gated))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling.RowTiles, "row tiles must be 1 or 2, and 2 where the product is gated.");
        if (tiling.Warps is not (4 or 8 or 16))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling.Warps, "warps must be 4, 8 or 16.");
        if (tiling.Slots < 2 || tiling.Blocks < 1)
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling, "at least 2 slots and a block.");
    }

    /// <summary>For names of kernels. The number of blocks is in no kernel's text.</summary>
    public override string ToString() => $"{RowTiles}x{Warps}x{Slots}";
}
