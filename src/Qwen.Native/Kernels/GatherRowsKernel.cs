using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[i, :] = x[rows[i], :], whatever the type.</summary>
/// <remarks>Memory-bound: each thread moves 16 bytes where the row's size allows.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="rowBytes">Bytes of a row, a multiple of 4.</param>
public sealed class GatherRowsKernel(KernelCache cache, int rowBytes) : Kernel(cache, Build(cache.Target, rowBytes))
{
    /// <summary>The kernel for rows of a size.</summary>
    public static PtxKernel Build(PtxTarget target, int rowBytes)
    {
        int width = Width(rowBytes);
        var k = new PtxBuilder(target, $"gather_rows_{rowBytes}", threads: 128);
        Global x = k.Pointer("x"), rows = k.Pointer("rows"), y = k.Pointer("y");
        U32 offset = ((k.BlockY * k.Threads) + k.Thread) * width;
        k.ReturnIf(offset >= rowBytes);
        k.WaitForPreviousKernel();
        U32 row = k.Load<U32>(rows.At(k.BlockX, sizeof(int)));
        U32[] words = k.LoadVector<U32>(x.At(row, rowBytes).At(offset, 1), width / 4);
        k.StoreVector<U32>(y.At(k.BlockX, rowBytes).At(offset, 1), words);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">The rows.</param>
    /// <param name="rows">S32 [count], each a row of x.</param>
    /// <param name="y">[count] rows; not x.</param>
    /// <param name="count">Rows of y.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer rows, DevicePointer y, int count)
    {
        int perBlock = Threads * Width(rowBytes);
        Launch(stream, new Dim3(count, (rowBytes + perBlock - 1) / perBlock), [Argument.Of(x), Argument.Of(rows), Argument.Of(y)], overlapPrevious: true);
    }

    private static int Width(int rowBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rowBytes);
        ArgumentOutOfRangeException.ThrowIfNotEqual(rowBytes % 4, 0, nameof(rowBytes));
        return rowBytes % 16 == 0 ? 16 : rowBytes % 8 == 0 ? 8 : 4;
    }
}
