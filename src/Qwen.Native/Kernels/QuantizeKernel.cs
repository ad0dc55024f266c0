using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>codes[t, i] = x[t, i] / scale, as E4M3, rounded to nearest even and saturated: [rows, columns] -> [rows, columns].</summary>
/// <remarks>
/// Memory-bound. A block holds a row in registers, so x is read once. The scale of a row, or of each 128 columns of it, is the largest magnitude
/// there / 448, and is written; that of the whole tensor is read: a model's own, or <see cref="TensorScaleKernel"/>'s.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="from">Type of x: F32, F16 or BF16.</param>
/// <param name="columns">Width of a row, a multiple of 4.</param>
/// <param name="scale">Tensor, Row or RowGroup128.</param>
public sealed class QuantizeKernel(KernelCache cache, ElementType from, int columns, MatmulScale scale) : Kernel(cache, Build(cache.Target, from, columns, scale))
{
    /// <summary>The kernel for rows of a width.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType from, int columns, MatmulScale scale)
    {
        if (scale is not (MatmulScale.Tensor or MatmulScale.Row or MatmulScale.RowGroup128))
            throw new ArgumentOutOfRangeException(nameof(scale), scale, "Activations are scaled as a whole, by row, or by 128 columns of a row.");
        var k = new PtxBuilder(target, $"quantize_{PtxBuilder.Name(from)}_{columns}_{scale.ToString().ToLowerInvariant()}", BlockRow.ThreadsFor(columns));
        Global x = k.Pointer("x"), codes = k.Pointer("codes"), scales = k.Pointer("scales");
        U32 scaleStride = k.Number("scale_stride");
        var row = new BlockRow(k, columns);
        k.WaitForPreviousKernel();
        F32[][] values = row.Load(from, row.At(x, from, k.BlockX));
        k.LetNextKernelStart();
        Global codesRow = row.At(codes, ElementType.E4M3, k.BlockX);
        if (scale == MatmulScale.Tensor)
        {
            F32 given = k.Load<F32>(scales);
            F32 inverse = k.Select(given.Is(0f), 0f, k.DivideExactly(1f, given));
            row.Store(ElementType.E4M3, codesRow, row.Each(v => [.. values[v].Select(value => value * inverse)]));
        }
        else
        {
            row.Quantize(values, codesRow, scale, scales, k.BlockX, scaleStride);
        }

        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">[rows, columns].</param>
    /// <param name="codes">E4M3 [rows, columns].</param>
    /// <param name="scales">F32: [1], read; or [rows], or [ceil(columns / 128), rows rounded up to a multiple of 4], written.</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer codes, DevicePointer scales, int rows) =>
        Launch(stream, rows, [Argument.Of(x), Argument.Of(codes), Argument.Of(scales), Argument.Of((rows + 3) / 4 * 4)], overlapPrevious: true);
}

/// <summary>scale = the largest magnitude of x / 448.</summary>
/// <remarks>Memory-bound. Non-negative floats order as their bits, so that blocks meet in an integer maximum; what it starts from is zero.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="from">Type of x: F32, F16 or BF16.</param>
/// <param name="columns">Width of a row, a multiple of 4.</param>
public sealed class TensorScaleKernel(KernelCache cache, ElementType from, int columns) : Kernel(cache, Build(cache.Target, from, columns))
{
    /// <summary>The kernel for rows of a width.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType from, int columns)
    {
        var k = new PtxBuilder(target, $"tensor_scale_{PtxBuilder.Name(from)}_{columns}", BlockRow.ThreadsFor(columns));
        Global x = k.Pointer("x"), scale = k.Pointer("scale");
        var row = new BlockRow(k, columns);
        k.WaitForPreviousKernel();
        F32[][] values = row.Load(from, row.At(x, from, k.BlockX));
        F32 largest = k.MaxBlock(values.SelectMany(vector => vector).Select(k.Abs).Aggregate(k.Max), k.AllocateShared(k.Warps * sizeof(float)));
        k.AtomicMax(scale, k.DivideExactly(largest, 448f).AsU32, k.Thread.Is(0));
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">[rows, columns].</param>
    /// <param name="scale">F32 [1].</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer scale, int rows)
    {
        ArgumentNullException.ThrowIfNull(stream);
        stream.Fill(scale, 0, sizeof(float));
        Launch(stream, rows, [Argument.Of(x), Argument.Of(scale)]);
    }
}
