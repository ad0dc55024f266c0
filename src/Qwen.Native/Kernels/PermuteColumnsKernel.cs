using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[t, i] = x[t, order[i]], 16-bit values: [rows, columns] -> [rows, columns]. GPTQ's act-order, given to the inputs instead of the weights.</summary>
/// <remarks>Memory-bound. A block brings a row to shared memory in 16-byte pieces and picks from there, as picks from global memory would fetch 32 bytes for 2.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="columns">Width of a row, a multiple of 8.</param>
public sealed class PermuteColumnsKernel(KernelCache cache, int columns) : Kernel(cache, Build(cache.Target, columns))
{
    private const int PerPiece = 8, PerThread = 4;

    /// <summary>The kernel for rows of a width.</summary>
    public static PtxKernel Build(PtxTarget target, int columns)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        ArgumentOutOfRangeException.ThrowIfNotEqual(columns % PerPiece, 0, nameof(columns));
        int threads = Math.Min(((columns / PerPiece) + 31) / 32 * 32, 512);
        var k = new PtxBuilder(target, $"permute_columns_{columns}", threads);
        Global x = k.Pointer("x"), order = k.Pointer("order"), y = k.Pointer("y");
        Shared row = k.AllocateShared(columns * sizeof(ushort));
        Global from = x.At(k.BlockX, columns * sizeof(ushort)), to = y.At(k.BlockX, columns * sizeof(ushort));
        k.WaitForPreviousKernel();
        using (k.For(k.Thread, columns / PerPiece, k.Threads, out U32 piece))
            k.StoreVector<U32>(row.At(piece, 16), k.LoadVector<U32>(from.At(piece, 16), 4));
        k.Barrier();
        k.LetNextKernelStart();
        using (k.For(k.Thread * PerThread, columns, k.Threads * PerThread, out U32 column))
        {
            U32[] source = k.LoadVector<U32>(order.At(column, sizeof(int)), PerThread, CacheHint.ReadOnly);
            B16[] picked = [.. source.Select(i => k.Load<B16>(row.At(i, sizeof(ushort))))];
            k.StoreVector<U32>(to.At(column, sizeof(ushort)), [k.Join(picked[0], picked[1]), k.Join(picked[2], picked[3])]);
        }

        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">F16 or BF16 [rows, columns].</param>
    /// <param name="order">S32 [columns], each a column of x.</param>
    /// <param name="y">[rows, columns]; not x.</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer order, DevicePointer y, int rows) =>
        Launch(stream, rows, [Argument.Of(x), Argument.Of(order), Argument.Of(y)], overlapPrevious: true);
}
