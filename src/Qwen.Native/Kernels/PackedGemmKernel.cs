using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[r, o] (+)= sum over i of W[o, i] x[r, i] (+ bias[o]) for any number of rows and a <see cref="PackedMatrix"/> W.</summary>
/// <remarks>A step's codes become whole numbers less their zero point, exact in 16 bits, once for all rows; a group's products are scaled in F32 as they are added up.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="product">What it computes.</param>
/// <param name="tiling">How its blocks are shaped.</param>
public sealed class PackedGemmKernel(KernelCache cache, PackedProduct product, GemmTiling tiling)
    : GemmKernel(cache, Build(cache.Target, product, tiling), tiling, 2 * product.Format.TileInputs)
{
    /// <summary>The tiling for a product with a matrix.</summary>
    public static GemmTiling TilingFor(PtxTarget target, PackedMatrix matrix, int rows, int multiprocessors)
    {
        ArgumentNullException.ThrowIfNull(matrix);
        return GemmTiling.For(target, matrix.Outputs, rows, multiprocessors, MostRows(matrix.Format));
    }

    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, PackedProduct product, GemmTiling tiling)
    {
        product.Check();
        ArgumentOutOfRangeException.ThrowIfNotEqual(product.Norm, FusedNorm.None, nameof(product));
        tiling.Check(target, MostRows(product.Format));
        var k = new PtxBuilder(target, $"packed_gemm_{product}_{tiling}", tiling.Warps * 32, tiling.Blocks);
        Global weights = k.Pointer("weights"), scales = k.Pointer("scales");
        U32 outputs = k.Number("outputs"), inputs = k.Number("inputs");
        new GemmEmission(
            k, new GemmResult(product.Activations, product.Result, product.Accumulate, product.Bias, product.Gated), tiling, outputs, inputs,
            () => new PackedGemmWeights(k, product, weights, scales, outputs, inputs)).Emit();
        return k.Build();
    }

    /// <summary>Bytes of workspace that a product needs.</summary>
    public long WorkspaceBytes(PackedMatrix matrix, int rows) => WorkspaceBytes(matrix.Outputs, matrix.Inputs, rows);

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="matrix">W.</param>
    /// <param name="weights">W's bytes, as <see cref="PackedMatrix"/> lays them out, aligned to 16.</param>
    /// <param name="x">[rows, Inputs], aligned to 16.</param>
    /// <param name="bias">F32 [Outputs], where the product has a bias.</param>
    /// <param name="y">[rows, Outputs]; [rows, Outputs / 2] where the product is gated.</param>
    /// <param name="rows">At least 1.</param>
    /// <param name="workspace">At least <see cref="WorkspaceBytes(PackedMatrix, int)"/>, aligned to 16.</param>
    public void Launch(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer x, DevicePointer bias, DevicePointer y, int rows, DevicePointer workspace)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(matrix.Format, product.Format, nameof(matrix));
        if (product.Gated && !PackedGemvKernel.CanGate(matrix))
            throw new ArgumentOutOfRangeException(nameof(matrix), matrix.Outputs, "outputs of a gate and an up projection must be whole tiles each.");
        Launch(stream, weights, weights + matrix.CodeBytes, x, bias, y, workspace, matrix.Outputs, matrix.Inputs, rows);
    }

    /// <summary>The most rows of a tiling: minima take as many registers again for sums of x; many small groups, for their codes and scales.</summary>
    internal static int MostRows(PackedFormat format) =>
        format.Offset == PackedOffset.Minimum ? 32 : format is { Bits: 4, GroupSize: 32 } ? 64 : GemmTiling.MostRows;
}
