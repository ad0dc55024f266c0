using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// y[t, :] = x[t, :] / sqrt(mean(x[t, :]^2) + epsilon) * weight (Zhang and Sennrich, 2019), x F32 [rows, columns]; before that x += delta, where
/// there is one, so that the residual stream is read once.
/// </summary>
/// <remarks>
/// Memory-bound. A block holds a row in registers; the weights, which no kernel writes, are loaded while the one before ends. FP8 output is
/// quantized in the same pass, with a scale for each row, or each 128 columns of it.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="output">Type of y: F32, F16, BF16 or E4M3.</param>
/// <param name="columns">Width of a row, a multiple of 4.</param>
/// <param name="delta">Type of what is added to x first: F32, F16 or BF16; null for nothing.</param>
/// <param name="scale">How E4M3 codes are scaled: Row or RowGroup128. None otherwise.</param>
public sealed class RmsNormKernel(KernelCache cache, ElementType output, int columns, ElementType? delta = null, MatmulScale scale = MatmulScale.None)
    : Kernel(cache, Build(cache.Target, output, columns, delta, scale))
{
    /// <summary>The kernel for rows of a width.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType output, int columns, ElementType? delta = null, MatmulScale scale = MatmulScale.None)
    {
        if (output == ElementType.E4M3 ? scale is not (MatmulScale.Row or MatmulScale.RowGroup128) : scale != MatmulScale.None)
            throw new ArgumentOutOfRangeException(nameof(scale), scale, $"{output} rows can't be scaled so.");
        string added = delta is { } type ? $"_add_{PtxBuilder.Name(type)}" : "", scaled = scale == MatmulScale.None ? "" : $"_{scale.ToString().ToLowerInvariant()}";
        var k = new PtxBuilder(target, $"rms_norm_{PtxBuilder.Name(output)}_{columns}{added}{scaled}", BlockRow.ThreadsFor(columns));
        Global x = k.Pointer("x"), deltas = k.Pointer("delta"), weight = k.Pointer("weight"), y = k.Pointer("y"), scales = k.Pointer("scales");
        F32 epsilon = k.Float("epsilon");
        U32 scaleStride = k.Number("scale_stride");
        var row = new BlockRow(k, columns);
        k.LetNextKernelStart(); // the product after it fills its rings meanwhile
        F32[][] weights = row.Load(ElementType.F32, weight, CacheHint.ReadOnly);
        k.WaitForPreviousKernel();

        Global xRow = row.At(x, ElementType.F32, k.BlockX);
        F32[][] values = row.Load(ElementType.F32, xRow);
        if (delta is { } deltaType)
        {
            F32[][] more = row.Load(deltaType, row.At(deltas, deltaType, k.BlockX));
            values = row.Each(v => [.. values[v].Zip(more[v], (a, b) => a + b)]);
            row.Store(ElementType.F32, xRow, values);
        }

        F32 squares = k.Variable<F32>(0f);
        foreach (F32 value in values.SelectMany(vector => vector))
            k.FmaInto(squares, value, value);
        F32 mean = k.SumBlock(squares, k.AllocateShared(k.Warps * sizeof(float))) * (1f / columns);
        F32 inverse = k.ReciprocalSquareRoot(mean + epsilon);
        F32[][] normed = row.Each(v => [.. values[v].Zip(weights[v], (value, w) => (value * inverse) * w)]);

        Global yRow = row.At(y, output, k.BlockX);
        if (output == ElementType.E4M3)
            row.Quantize(normed, yRow, scale, scales, k.BlockX, scaleStride);
        else
            row.Store(output, yRow, normed);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">F32 [rows, columns]; written where there is a delta.</param>
    /// <param name="weight">F32 [columns].</param>
    /// <param name="epsilon">Keeps a row of zeros finite.</param>
    /// <param name="y">[rows, columns]; may be x, if F32 and there is no delta.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="delta">[rows, columns], where there is one.</param>
    /// <param name="scales">F32, of E4M3 codes: [rows], or [ceil(columns / 128), rows rounded up to a multiple of 4].</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer weight, float epsilon, DevicePointer y, int rows, DevicePointer delta = default, DevicePointer scales = default) =>
        Launch(
            stream, rows,
            [Argument.Of(x), Argument.Of(delta), Argument.Of(weight), Argument.Of(y), Argument.Of(scales), Argument.Of(epsilon), Argument.Of((rows + 3) / 4 * 4)],
            overlapPrevious: true);
}
