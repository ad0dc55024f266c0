using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>A product y = W x of more than a few rows of x, whose blocks share the work evenly, whatever the shape; <see cref="GemmEmission"/> is how.</summary>
/// <param name="cache">Where it is compiled.</param>
/// <param name="kernel">Its PTX.</param>
/// <param name="tiling">How its blocks are shaped.</param>
/// <param name="stageInputs">Inputs of a stage.</param>
public abstract class GemmKernel(KernelCache cache, PtxKernel kernel, GemmTiling tiling, int stageInputs) : Kernel(cache, kernel)
{
    private const int FewestStages = 2; // of a block; fewer would be all prologue
    private const int MostRunBlocks = GemmEmission.FlagBytes / sizeof(uint);

    private readonly int _multiprocessors = cache.Device.Info.Multiprocessors;

    /// <summary>The most workspace that any product of up to so many rows needs. It starts as zeros; kernels of one stream may share it.</summary>
    public static long MostWorkspaceBytes(int multiprocessors, int rows = GemmTiling.MostRows) =>
        GemmEmission.FlagBytes + ((long)multiprocessors * GemmTiling.MostWarps * PackedMatrix.TileOutputs * GemmTiling.RowsFor(rows) * sizeof(float));

    /// <summary>Bytes of workspace that a product needs.</summary>
    public long WorkspaceBytes(int outputs, int inputs, int rows)
    {
        Work work = Share(outputs, inputs, rows);
        return work.Run % work.Stages == 0 ? 0 : GemmEmission.FlagBytes + ((long)work.Blocks * tiling.Outputs * tiling.Rows * sizeof(float));
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="weights">W's bytes and its scales.</param>
    /// <param name="x">[rows, inputs], aligned to 16.</param>
    /// <param name="bias">F32 [outputs], where the product has a bias.</param>
    /// <param name="y">[rows, outputs].</param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes"/>, aligned to 16.</param>
    /// <param name="outputs">Rows of W.</param>
    /// <param name="inputs">Columns of W.</param>
    /// <param name="rows">At least 1.</param>
    /// <param name="scales">Where the scales are.</param>
    private protected void Launch(IDeviceStream stream, DevicePointer weights, DevicePointer scales, DevicePointer x, DevicePointer bias, DevicePointer y, DevicePointer workspace, int outputs, int inputs, int rows)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((long)rows * outputs, uint.MaxValue, nameof(rows));
        Work work = Share(outputs, inputs, rows);
        Launch(
            stream, work.Blocks,
            [
                Argument.Of(weights), Argument.Of(scales), Argument.Of(outputs), Argument.Of(inputs), Argument.Of(x), Argument.Of(bias), Argument.Of(y), Argument.Of(workspace),
                Argument.Of(rows), Argument.Of(work.Stages), Argument.Of(work.TokenTiles), Argument.Of(work.Run), Argument.Of(work.Units),
            ],
            overlapPrevious: true);
    }

    /// <summary>An equal run of stages for each block that the device gets.</summary>
    private Work Share(int outputs, int inputs, int rows)
    {
        int stages = (inputs + stageInputs - 1) / stageInputs, tokenTiles = (rows + tiling.Rows - 1) / tiling.Rows;
        int units = checked((outputs + tiling.Outputs - 1) / tiling.Outputs * tokenTiles * stages), blocks = Math.Min(MostRunBlocks, _multiprocessors * tiling.Runs);
        int run = Math.Max((units + blocks - 1) / blocks, Math.Min(FewestStages, stages));
        return new Work(stages, tokenTiles, units, run, (units + run - 1) / run);
    }

    /// <summary>Stages of a tile, tiles of x, stages of all tiles, those of a block, blocks.</summary>
    private readonly record struct Work(int Stages, int TokenTiles, int Units, int Run, int Blocks);
}
