using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Qwen.Cpu;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends;

/// <summary>How AWQ's or GPTQ's groups come to lie in the CPU's blocks.</summary>
/// <param name="BlockColumns">Columns of a block: 32, 64 or 128.</param>
/// <param name="InputOrder">Which column of the matrix each column of the blocks is; null where they are the same.</param>
internal readonly record struct GroupPlan(int BlockColumns, int[]? InputOrder)
{
    public const int HeaderBytes = 4; // F16 scale, int16 zero point

    public int BlockBytes(GroupQuantizedMatrix matrix) => HeaderBytes + (BlockColumns * matrix.Bits / 8);

    public long RowBytes(GroupQuantizedMatrix matrix) => matrix.Columns / BlockColumns * (long)BlockBytes(matrix);

    public WeightType Type(GroupQuantizedMatrix matrix) => (matrix.Bits, BlockColumns) switch
    {
        (4, 32) => WeightType.Int4G32,
        (4, 64) => WeightType.Int4G64,
        (4, 128) => WeightType.Int4G128,
        (8, 32) => WeightType.Int8G32,
        (8, 64) => WeightType.Int8G64,
        _ => WeightType.Int8G128,
    };
}

/// <summary>Brings AWQ's and GPTQ's matrices, whose codes lie input-major in words, to rows of blocks { F16 scale, int16 zero, codes }. Exact: no value changes.</summary>
/// <remarks>
/// A piece of work is a block's columns of 512 rows: its codes are read a line of the stored matrix at a time (256 bytes of AWQ's words,
/// 2 KB of GPTQ's: lines lie pages apart, so fewer bytes would wait for memory once each), packed in pairs while rows lie side by side,
/// and then transposed inside the second-level cache.
/// </remarks>
internal static unsafe class GroupRepacker
{
    private const int TileRows = 512, MostBlockColumns = 128, RunColumns = 64;

    /// <summary>Finds the blocks for a matrix; false if it has none: groups that 32 columns don't divide, unequal groups in act-order, or scales that F16 can't hold.</summary>
    public static bool TryPlan(GroupQuantizedMatrix matrix, out GroupPlan plan)
    {
        plan = default;
        int block = BlockColumns(matrix);
        if (block == 0 || !HasHalfScales(matrix.Scales))
            return false;
        int[]? order = null;
        if (!matrix.GroupOf.IsEmpty)
        {
            order = SortByGroup(matrix.GroupOf);
            for (int c = 0; c < order.Length; c++)
            {
                if (matrix.GroupOf[order[c]] != c / matrix.GroupSize)
                    return false;
            }
        }

        plan = new GroupPlan(block, order);
        return true;
    }

    /// <summary>Writes the rows of blocks.</summary>
    public static void Run(WorkerPool pool, GroupQuantizedMatrix matrix, GroupPlan plan, byte* blocks)
    {
        var job = new RepackJob(matrix, plan, blocks);
        pool.Run(ref job, job.Tiles * job.Blocks, grain: 8);
    }

    private static int BlockColumns(GroupQuantizedMatrix matrix)
    {
        for (int columns = MostBlockColumns; columns >= 32; columns /= 2)
        {
            if (matrix.Columns % columns == 0 && (matrix.GroupSize % columns == 0 || matrix.GroupSize >= matrix.Columns))
                return columns;
        }

        return 0;
    }

    private static bool HasHalfScales(Tensor scales)
    {
        if (scales.Type == TensorType.F16)
            return true;
        for (long i = 0; i < scales.ElementCount; i++)
        {
            float scale = scales.FloatAt(i);
            if ((float)(Half)scale != scale)
                return false;
        }

        return true;
    }

    /// <summary>The columns of group 0 in their order, then those of group 1, and so on.</summary>
    private static int[] SortByGroup(ReadOnlySpan<int> groupOf)
    {
        var order = new int[groupOf.Length];
        int[] groups = groupOf.ToArray();
        for (int c = 0; c < order.Length; c++)
            order[c] = c;
        return [.. order.OrderBy(c => groups[c])]; // LINQ's sort is stable
    }

    private readonly struct RepackJob(GroupQuantizedMatrix matrix, GroupPlan plan, byte* blocks) : IJob
    {
        private readonly uint* _words = (uint*)matrix.Codes.Data;
        private readonly long _wordsPerLine = matrix.Codes.Shape[1];
        private readonly int _blockBytes = plan.BlockBytes(matrix);
        private readonly long _rowBytes = plan.RowBytes(matrix);

        public int Tiles => (matrix.Rows + TileRows - 1) / TileRows;

        public int Blocks => matrix.Columns / plan.BlockColumns;

        [SkipLocalsInit]
        public void Execute(int from, int to, int worker)
        {
            byte* codes = stackalloc byte[MostBlockColumns * TileRows]; // [BlockColumns, TileRows]
            for (int item = from; item < to; item++)
            {
                int firstRow = item / Blocks * TileRows, block = item % Blocks;
                int rows = Math.Min(TileRows, matrix.Rows - firstRow);
                for (int i = 0; i < plan.BlockColumns; i++)
                {
                    int column = (block * plan.BlockColumns) + i;
                    Unpack(plan.InputOrder is { } order ? order[column] : column, firstRow, rows, codes + (i * TileRows));
                }

                if (matrix.Bits == 4)
                    Pair(codes);
                int group = block * plan.BlockColumns / matrix.GroupSize, bytes = _blockBytes - GroupPlan.HeaderBytes;
                for (int r = 0; r < rows; r++)
                {
                    byte* head = blocks + ((firstRow + r) * _rowBytes) + ((long)block * _blockBytes);
                    Unsafe.WriteUnaligned(head, ScaleBits(firstRow + r, group));
                    Unsafe.WriteUnaligned(head + 2, (short)matrix.Zero(firstRow + r, group));
                    for (int i = 0; i < bytes; i++)
                        head[GroupPlan.HeaderBytes + i] = codes[(i * TileRows) + r];
                }
            }
        }

        private ushort ScaleBits(int row, int group) => matrix.Scales.Type == TensorType.F16
            ? Unsafe.ReadUnaligned<ushort>(matrix.Scales.Data + ((((long)group * matrix.Rows) + row) * sizeof(ushort)))
            : BitConverter.HalfToUInt16Bits((Half)matrix.Scale(row, group));

        /// <summary>The codes of a column in rows that lie side by side.</summary>
        private void Unpack(int column, int firstRow, int rows, byte* codes)
        {
            if (matrix.IsAwq)
            {
                uint* line = _words + (column * _wordsPerLine) + (firstRow / 8);
                for (int i = 0; i < rows / 8; i++)
                    ((ulong*)codes)[i] = Spread(line[i] & 0xffff) | (Spread(line[i] >> 16) << 8);
            }
            else
            {
                int perWord = 32 / matrix.Bits, shift = column % perWord * matrix.Bits;
                Narrow(_words + (column / perWord * _wordsPerLine) + firstRow, shift, (1u << matrix.Bits) - 1, rows, codes);
            }
        }

        /// <summary>Four nibbles, a byte of 0 after each: the even rows of an AWQ word are in its lower half, the odd ones in its upper.</summary>
        private static ulong Spread(ulong nibbles)
        {
            nibbles = (nibbles | (nibbles << 24)) & 0x000000ff_000000ff;
            return (nibbles | (nibbles << 12)) & 0x000f000f_000f000f;
        }

        private static void Narrow(uint* words, int shift, uint mask, int rows, byte* codes)
        {
            int r = 0;
            Vector128<uint> masks = Vector128.Create(mask);
            for (; r + 16 <= rows; r += 16)
            {
                Vector128<ushort> low = Vector128.Narrow(Field(r), Field(r + 4)), high = Vector128.Narrow(Field(r + 8), Field(r + 12));
                Vector128.Narrow(low, high).Store(codes + r);
            }

            for (; r < rows; r++)
                codes[r] = (byte)((words[r] >> shift) & mask);

            Vector128<uint> Field(int row) => Vector128.ShiftRightLogical(Vector128.Load(words + row), shift) & masks;
        }

        /// <summary>Codes of column i and i + half a run of columns become one byte, for all rows at once.</summary>
        private void Pair(byte* codes)
        {
            int run = Math.Min(RunColumns, plan.BlockColumns), half = run / 2;
            for (int first = 0; first < plan.BlockColumns; first += run)
            {
                for (int i = 0; i < half; i++)
                {
                    // Written no later than it was read: line first / 2 + i is never ahead of line first + i.
                    ulong* low = (ulong*)(codes + ((first + i) * TileRows)), high = (ulong*)(codes + ((first + half + i) * TileRows));
                    ulong* pair = (ulong*)(codes + (((first / 2) + i) * TileRows));
                    for (int r = 0; r < TileRows / 8; r++)
                        pair[r] = low[r] | (high[r] << 4);
                }
            }
        }
    }
}
