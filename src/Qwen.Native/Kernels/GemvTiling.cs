using Qwen.Native.Device;

namespace Qwen.Native.Kernels;

/// <summary>How the blocks of a product of few tokens cover a matrix: a block's warps share a row of tiles, or two.</summary>
/// <param name="RowTiles">Tiles of 16 outputs that a warp multiplies at once: 1 or 2 (always 2 where the product is gated: one of the gate, one of the up projection).</param>
/// <param name="Warps">Warps that share a row: 4, 8 or 16.</param>
/// <param name="Slots">Units of a warp's ring: all but one are under way. 0: no ring, weights go straight to registers (dense weights only).</param>
/// <param name="Blocks">Blocks that a multiprocessor shall hold, the next kernel's included: it bounds registers.</param>
/// <param name="Turns">Units whose x a warp has in registers: 1 or 2.</param>
/// <param name="Rows">Rows that a block takes, one after the other.</param>
public readonly record struct GemvTiling(int RowTiles, int Warps, int Slots, int Blocks, int Turns = 1, int Rows = 1)
{
    /// <summary>Outputs of a tile.</summary>
    public const int TileOutputs = 16;

    private const int LeastSlots = 4, MostSlots = 6, MostWarps = 32; // of a multiprocessor: 64 registers a thread

    /// <summary>
    /// The tiling for a matrix. A warp waits for a unit, for x and for one multiplication after the other, so that many warps hide what each waits for;
    /// a row a block, so that blocks go where there is room. Rings fill a multiprocessor: two tiles where there are many, more warps a row where there are few.
    /// </summary>
    /// <param name="outputs">Rows of the matrix.</param>
    /// <param name="gated">It is a gate and an up projection.</param>
    /// <param name="units">Units of a row.</param>
    /// <param name="unitBytes">Bytes of a unit of one row tile.</param>
    /// <param name="device">The device.</param>
    /// <param name="isLarge">The kernel has more in registers than most.</param>
    internal static GemvTiling For(int outputs, bool gated, int units, int unitBytes, DeviceInfo device, bool isLarge = false)
    {
        int tiles = (outputs + TileOutputs - 1) / TileOutputs, rowTiles = gated || tiles >= 8 * device.Multiprocessors ? 2 : 1, groups = (tiles + rowTiles - 1) / rowTiles;
        int most = (groups + device.Multiprocessors - 1) / device.Multiprocessors; // blocks of a multiprocessor, if it held all of its
        int warps = most > 3 ? 4 : 8;
        if (most <= 2 && !isLarge && SlotsOf(most) > MostSlots) // rings of 8 warps are too small to fill it
            warps = 16;
        while (warps > 4 && (warps > units || SlotsOf(1) < LeastSlots))
            warps /= 2;
        int blocks = warps switch { 4 => 5, 8 => Math.Clamp(most, 2, 3), _ => most };
        while (blocks > 1 && SlotsOf(blocks) < LeastSlots)
            blocks--;
        return new GemvTiling(rowTiles, warps, Math.Clamp(Math.Min(SlotsOf(blocks), ((units + warps - 1) / warps) + 1), 2, MostSlots), blocks, Turns: blocks * warps <= (isLarge ? 12 : 20) ? 2 : 1);

        int SlotsOf(int blocks)
        {
            var tiling = new GemvTiling(rowTiles, warps, 0, blocks);
            return ((device.SharedMemoryPerMultiprocessor / blocks) - 1024 - tiling.PartialBytes) / (warps * rowTiles * unitBytes); // a block takes 1 KB for itself
        }
    }

    /// <summary>Floats from a token to the next in the warps' sums. 4: a warp's stores fall in 32 banks.</summary>
    internal int PartialStride => (RowTiles * TileOutputs) + 4;

    /// <summary>Bytes of the warps' sums.</summary>
    internal int PartialBytes => Warps * GemvEpilogue.MostTokens * PartialStride * sizeof(float);

    /// <summary>Results that a block has at once: of a gated product half of its outputs.</summary>
    internal int ResultsOfGroup(bool gated) => gated ? TileOutputs : RowTiles * TileOutputs;

    /// <summary>Rows of tiles (pairs of such) of a matrix.</summary>
    internal int Groups(int outputs, bool gated) => ((gated ? outputs / 2 : outputs) + ResultsOfGroup(gated) - 1) / ResultsOfGroup(gated);

    /// <summary>Blocks for so many rows.</summary>
    internal int Grid(int groups) => (groups + Rows - 1) / Rows;

    /// <summary>Refuses what no kernel is built for.</summary>
    internal static void Check(GemvTiling tiling, bool gated, bool mayUseRegisters = false)
    {
        if (mayUseRegisters && tiling is { Slots: 0, Rows: 1 })
            tiling = tiling with { Slots = LeastSlots };
        if (tiling.RowTiles != 2 && (tiling.RowTiles != 1 || gated))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling.RowTiles, "row tiles must be 1 or 2, and 2 where the product is gated.");
        if (tiling.Warps is not (4 or 8 or 16))
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling.Warps, "warps must be 4, 8 or 16.");
        if (tiling.Slots < 2 || tiling.Turns < 1 || tiling.Rows < 1)
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling, "at least 2 slots, a turn and a row.");
        if (tiling.Blocks < 1 || tiling.Blocks * tiling.Warps > MostWarps)
            throw new ArgumentOutOfRangeException(nameof(tiling), tiling.Blocks, $"a multiprocessor has registers for {MostWarps} warps.");
    }

    /// <summary>For names of kernels. The number of rows is in no kernel's text.</summary>
    public override string ToString() => $"{RowTiles}x{Warps}x{Slots}x{Blocks}x{Turns}";
}
