using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[r, i] = the value of element i of row r (or of row rows[r]) of a matrix in a block format of GGUF: whole matrices, or rows of a table.</summary>
/// <remarks>
/// Eight consecutive values a thread: they share a scale and lie in eight consecutive bytes, the same bits of each. Blocks are aligned to 2
/// bytes only, so bytes come in pairs. Values are computed as the formats define them; in F32 they are the reference's bit for bit.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="format">Of the blocks.</param>
/// <param name="result">Type of y: F32, F16 or BF16.</param>
/// <param name="gather">Take the rows that a list names.</param>
public sealed class DequantizeKernel(KernelCache cache, BlockFormat format, ElementType result, bool gather) : Kernel(cache, Build(cache.Target, format, result, gather))
{
    private const int PerThread = 8;

    /// <summary>The kernel for a format.</summary>
    public static PtxKernel Build(PtxTarget target, BlockFormat format, ElementType result, bool gather)
    {
        var k = new PtxBuilder(target, $"dequantize_{format.ToString().ToLowerInvariant()}_{PtxBuilder.Name(result)}{(gather ? "_rows" : "")}", threads: 128);
        Global blocks = k.Pointer("blocks"), list = k.Pointer("list"), y = k.Pointer("y");
        U32 columns = k.Number("columns"), tableRows = k.Number("table_rows");
        U32 column = ((k.BlockY * k.Threads) + k.Thread) * PerThread;
        k.ReturnIf(column >= columns);
        k.WaitForPreviousKernel();
        U32 row = gather ? k.Min(k.Load<U32>(list.At(k.BlockX, sizeof(int))), tableRows - 1) : k.BlockX;
        Global block = blocks.At(row, columns / format.Elements() * format.Bytes()).At(column / format.Elements(), format.Bytes());
        F32[] values = new BlockReader(k, block, column % format.Elements()).Read(format);
        k.StoreElements(result, y.At(k.BlockX, columns * result.Bytes()).At(column, result.Bytes()), values);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="blocks">[tableRows, columns] in blocks, aligned to 2.</param>
    /// <param name="list">Where it gathers: S32 [rows], each below tableRows; a larger one reads the last row.</param>
    /// <param name="y">[rows, columns].</param>
    /// <param name="rows">Rows of y.</param>
    /// <param name="columns">A multiple of the format's block.</param>
    /// <param name="tableRows">Rows there are; not fewer than <paramref name="rows"/> unless it gathers.</param>
    public void Launch(IDeviceStream stream, DevicePointer blocks, DevicePointer list, DevicePointer y, int rows, int columns, int tableRows)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(columns % format.Elements(), 0, nameof(columns));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfLessThan(tableRows, gather ? 1 : rows);
        int chunk = Threads * PerThread;
        Launch(
            stream, new Dim3(rows, (columns + chunk - 1) / chunk),
            [Argument.Of(blocks), Argument.Of(list), Argument.Of(y), Argument.Of(columns), Argument.Of(tableRows)], overlapPrevious: true);
    }
}
