using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[o, i] = W[o, i], the weights of a <see cref="PackedMatrix"/> as a dense matrix: for products with so many rows that the dense library is faster.</summary>
/// <remarks>
/// A warp unpacks a tile: what a lane holds of a row are eight consecutive weights for every two steps, a store of 16 bytes in 16-bit types.
/// Bound by memory: half a byte in and two out. Weights are computed in F32 and rounded once.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="format">Of W.</param>
/// <param name="result">Type of y: F32, F16 or BF16.</param>
public sealed class UnpackKernel(KernelCache cache, PackedFormat format, ElementType result) : Kernel(cache, Build(cache.Target, format, result))
{
    private const int BlockWarps = 4;

    /// <summary>The kernel for a format.</summary>
    public static PtxKernel Build(PtxTarget target, PackedFormat format, ElementType result)
    {
        format.Check();
        var k = new PtxBuilder(target, $"unpack_{format}_{PtxBuilder.Name(result)}", BlockWarps * 32);
        Global weights = k.Pointer("weights"), scales = k.Pointer("scales"), y = k.Pointer("y");
        U32 outputs = k.Number("outputs"), inputs = k.Number("inputs");
        U32 columnTiles = (inputs + (format.TileInputs - 1)) / format.TileInputs, tile = (k.BlockY * BlockWarps) + k.Warp, rowTile = k.BlockX;
        U32 group = k.Lane >> 2, member = k.Lane & 3;
        k.ReturnIf(tile >= columnTiles);
        k.LetNextKernelStart();
        k.WaitForPreviousKernel(); // which may still read y
        U32[] words = k.LoadVector<U32>(weights.At((rowTile * columnTiles) + tile, PackedMatrix.TileBytes).At(k.Lane, 16), 4, CacheHint.ReadOnce);
        U32 firstGroup = format.GroupSize == PackedFormat.WholeRow ? rowTile : ((rowTile * columnTiles) + tile) * format.SegmentsOfTile / format.TilesOfGroup;
        Global scalesAt = scales.At(firstGroup, format.GroupBytes).At(group, format.GroupBytes / 8);
        for (int half = 0; half < format.TileInputs / 32; half++)
        {
            U32[] scaleWords = k.LoadVector<U32>(scalesAt + (half * (format.SegmentsOfTile - 1) * format.GroupBytes), format.GroupBytes / 32, CacheHint.ReadOnly);
            (F32, F32) scalePair = k.Unpack(scaleWords[0].AsHalf2(ElementType.F16));
            (F32, F32) offsetPair = format.Offset == PackedOffset.None ? (format.Middle, format.Middle) : k.Unpack(scaleWords[1].AsHalf2(ElementType.F16));
            U32 column = (tile * format.TileInputs) + (half * 32) + (member * 8);
            for (int upper = 0; upper < 2; upper++) // row g, row g + 8
            {
                (F32 scale, F32 offset) = upper == 0 ? (scalePair.Item1, offsetPair.Item1) : (scalePair.Item2, offsetPair.Item2);
                var values = new F32[8];
                for (int i = 0; i < 8; i++)
                {
                    // input 8 t + i: step i / 4 of the half, word 2 (i % 4 / 2) of the row, low or high field
                    int field = (half * 2) + (i / 4) + (i % 2 * (16 / format.Bits));
                    F32 code = k.ToFloat(k.BitField(words[upper + (i % 4 / 2 * 2)], field * format.Bits, format.Bits));
                    values[i] = format.Offset == PackedOffset.Minimum ? k.Fma(scale, code, offset) : scale * (code - offset);
                }

                U32 output = (rowTile * PackedMatrix.TileOutputs) + group + (upper * 8);
                k.StoreElements(result, y.At(output, inputs * result.Bytes()).At(column, result.Bytes()), values, (output < outputs) & (column < inputs));
            }
        }

        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="matrix">W.</param>
    /// <param name="weights">W's bytes, as <see cref="PackedMatrix"/> lays them out, aligned to 16.</param>
    /// <param name="y">[Outputs, Inputs], aligned to 16.</param>
    public void Launch(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer y)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(matrix.Format, format, nameof(matrix));
        var grid = new Dim3((matrix.Outputs + PackedMatrix.TileOutputs - 1) / PackedMatrix.TileOutputs, (matrix.ColumnTiles + BlockWarps - 1) / BlockWarps);
        Launch(
            stream, grid,
            [Argument.Of(weights), Argument.Of(weights + matrix.CodeBytes), Argument.Of(y), Argument.Of(matrix.Outputs), Argument.Of(matrix.Inputs)], overlapPrevious: true);
    }
}
