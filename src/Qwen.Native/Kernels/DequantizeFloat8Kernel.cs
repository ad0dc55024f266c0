using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[r, i] = code * scale of element i of row r (or of row rows[r]) of an E4M3 matrix with F32 scales: one, one a row, or one a block.</summary>
/// <remarks>Eight consecutive values a thread. All codes of scale blocks of any extent: where a block is as wide as the matrix it is a row's, and so on.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="result">Type of y: F32, F16 or BF16.</param>
/// <param name="gather">Take the rows that a list names.</param>
public sealed class DequantizeFloat8Kernel(KernelCache cache, ElementType result, bool gather) : Kernel(cache, Build(cache.Target, result, gather))
{
    private const int PerThread = 8;

    /// <summary>The kernel for a result.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType result, bool gather)
    {
        var k = new PtxBuilder(target, $"dequantize_e4m3_{PtxBuilder.Name(result)}{(gather ? "_rows" : "")}", threads: 128);
        Global codes = k.Pointer("codes"), scales = k.Pointer("scales"), list = k.Pointer("list"), y = k.Pointer("y");
        U32 columns = k.Number("columns"), tableRows = k.Number("table_rows"), blockRows = k.Number("block_rows"), blockColumns = k.Number("block_columns");
        U32 column = ((k.BlockY * k.Threads) + k.Thread) * PerThread;
        k.ReturnIf(column >= columns);
        k.WaitForPreviousKernel();
        U32 row = gather ? k.Min(k.Load<U32>(list.At(k.BlockX, sizeof(int))), tableRows - 1) : k.BlockX;
        U32 blocksAcross = (columns + (blockColumns - 1)) / blockColumns;
        F32 scale = k.Load<F32>(scales.At(((row / blockRows) * blocksAcross) + (column / blockColumns), sizeof(float)));
        F32[] values = k.LoadElements(ElementType.E4M3, codes.At(row, columns).At(column, 1), PerThread);
        k.StoreElements(result, y.At(k.BlockX, columns * result.Bytes()).At(column, result.Bytes()), [.. values.Select(value => value * scale)]);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="codes">E4M3 [tableRows, columns], aligned to 8.</param>
    /// <param name="scales">F32 [ceil(tableRows / blockRows), ceil(columns / blockColumns)].</param>
    /// <param name="list">Where it gathers: S32 [rows], each below tableRows; a larger one reads the last row.</param>
    /// <param name="y">[rows, columns].</param>
    /// <param name="rows">Rows of y.</param>
    /// <param name="columns">A multiple of 8.</param>
    /// <param name="tableRows">Rows there are; not fewer than <paramref name="rows"/> unless it gathers.</param>
    /// <param name="blockRows">Rows that share a scale: tableRows for a scale of all.</param>
    /// <param name="blockColumns">Columns that share a scale: a multiple of 8, or <paramref name="columns"/>.</param>
    public void Launch(
        IDeviceStream stream, DevicePointer codes, DevicePointer scales, DevicePointer list, DevicePointer y, int rows, int columns, int tableRows, int blockRows, int blockColumns)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        ArgumentOutOfRangeException.ThrowIfNotEqual(columns % PerThread, 0, nameof(columns));
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(rows);
        ArgumentOutOfRangeException.ThrowIfLessThan(tableRows, gather ? 1 : rows);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockRows);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockColumns);
        ArgumentOutOfRangeException.ThrowIfNotEqual(blockColumns % PerThread, 0, nameof(blockColumns));
        int chunk = Threads * PerThread;
        Launch(
            stream, new Dim3(rows, (columns + chunk - 1) / chunk),
            [
                Argument.Of(codes), Argument.Of(scales), Argument.Of(list), Argument.Of(y), Argument.Of(columns), Argument.Of(tableRows), Argument.Of(blockRows), Argument.Of(blockColumns),
            ],
            overlapPrevious: true);
    }
}
