using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// y[t, o] (+)= sum over i of W[o, i] x[t, i] (+ bias[o]) for W row-major, as it is stored and as the matrix library takes it, and more tokens than
/// <see cref="DenseGemvKernel"/> has. E4M3 becomes x's type exactly, x is not quantized.
/// </summary>
/// <param name="cache">Where it is compiled.</param>
/// <param name="product">What it computes.</param>
/// <param name="tiling">How its blocks are shaped.</param>
public sealed class DenseGemmKernel(KernelCache cache, DenseProduct product, GemmTiling tiling)
    : GemmKernel(cache, Build(cache.Target, product, tiling), tiling, 128 / product.Weights.Bytes())
{
    /// <summary>The kernel for a product.</summary>
    public static PtxKernel Build(PtxTarget target, DenseProduct product, GemmTiling tiling)
    {
        product.Check();
        ArgumentOutOfRangeException.ThrowIfNotEqual(product.Norm, FusedNorm.None, nameof(product));
        tiling.Check(target, GemmTiling.MostRows);
        var k = new PtxBuilder(target, $"dense_gemm_{product}_{tiling}", tiling.Warps * 32, tiling.Blocks);
        Global weights = k.Pointer("weights"), scales = k.Pointer("scales");
        U32 outputs = k.Number("outputs"), inputs = k.Number("inputs");
        new GemmEmission(
            k, new GemmResult(product.Activations, product.Result, product.Accumulate, product.Bias, product.Gated), tiling, outputs, inputs,
            () => new DenseGemmWeights(k, product, weights, scales, outputs, inputs)).Emit();
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="weights">W [outputs, inputs], aligned to 16.</param>
    /// <param name="scales">Scales of E4M3, as <see cref="MatmulScale"/> lays them out.</param>
    /// <param name="x">[tokens, inputs], aligned to 16.</param>
    /// <param name="bias">F32 [outputs], where the product has a bias.</param>
    /// <param name="y">[tokens, outputs]; [tokens, outputs / 2] where the product is gated.</param>
    /// <param name="outputs">Rows of W.</param>
    /// <param name="inputs">Columns of W, a multiple of <see cref="DenseProduct.InputsMultiple"/>.</param>
    /// <param name="tokens">At least 1.</param>
    /// <param name="workspace">At least <see cref="GemmKernel.WorkspaceBytes"/>, aligned to 16.</param>
    public void Launch(IDeviceStream stream, DevicePointer weights, DevicePointer scales, DevicePointer x, DevicePointer bias, DevicePointer y, int outputs, int inputs, int tokens, DevicePointer workspace)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(outputs);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(inputs);
        ArgumentOutOfRangeException.ThrowIfNotEqual(inputs % product.InputsMultiple, 0, nameof(inputs));
        if (product.Gated)
            ArgumentOutOfRangeException.ThrowIfNotEqual(outputs % (product.Scale == MatmulScale.Block128 ? 16 : 2), 0, nameof(outputs)); // eight rows have one scale
        Launch(stream, weights, scales, x, bias, y, workspace, outputs, inputs, tokens);
    }
}
