using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>A row of a matrix in the registers of a block: thread i holds vectors i, i + threads, ... of four columns.</summary>
/// <remarks>
/// Four F32 are one 16-byte access, and a warp's 32 vectors are 128 neighbouring columns: the groups that block-scaled FP8 has. Up to four
/// vectors a thread are in flight at once, so that full multiprocessors have enough bytes under way, and a lone row uses many threads.
/// </remarks>
internal sealed class BlockRow
{
    private const int Width = 4, VectorsPerThread = 4, MostThreads = 1024;
    private const float MostE4M3 = 448, Tiny = 1e-30f;

    private readonly PtxBuilder _k;
    private readonly int _columns;
    private readonly U32[] _first; // column of each vector
    private readonly Pred?[] _inside; // null where every thread has that vector

    /// <summary>The layout, for a builder of <see cref="ThreadsFor"/> threads.</summary>
    public BlockRow(PtxBuilder k, int columns)
    {
        (_k, _columns) = (k, columns);
        int step = k.Threads * Width, count = (columns + step - 1) / step;
        (_first, _inside) = (new U32[count], new Pred?[count]);
        for (int v = 0; v < count; v++)
        {
            _first[v] = (k.Thread * Width) + (v * step);
            _inside[v] = (v + 1) * step <= columns ? null : _first[v] < columns;
        }
    }

    /// <summary>Threads for rows of a width.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The width is not a positive multiple of 4.</exception>
    public static int ThreadsFor(int columns)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        ArgumentOutOfRangeException.ThrowIfNotEqual(columns % Width, 0, nameof(columns));
        int perThread = Width * VectorsPerThread;
        return Math.Min((((columns + perThread - 1) / perThread) + 31) / 32 * 32, MostThreads);
    }

    /// <summary>Where a row begins.</summary>
    public Global At(Global matrix, ElementType type, U32 row) => matrix.At(row, _columns * type.Bytes());

    /// <summary>Loads the row; zeros past its end.</summary>
    public F32[][] Load(ElementType type, Global row, CacheHint hint = CacheHint.None) =>
        Each(v => Load(type, row, v, hint));

    /// <summary>Loads a vector of the row; zeros past its end.</summary>
    public F32[] Load(ElementType type, Global row, int vector, CacheHint hint = CacheHint.None) =>
        _k.LoadElements(type, row.At(_first[vector], type.Bytes()), Width, hint, _inside[vector]);

    /// <summary>Stores the row.</summary>
    public void Store(ElementType type, Global row, F32[][] values)
    {
        for (int v = 0; v < values.Length; v++)
            _k.StoreElements(type, row.At(_first[v], type.Bytes()), values[v], _inside[v]);
    }

    /// <summary>Stores the row as E4M3 codes, and the scales they are multiplied by: the largest magnitude of the row, or of each 128 columns, / 448.</summary>
    /// <param name="values">The row.</param>
    /// <param name="codes">Where it goes.</param>
    /// <param name="granularity">Row, or RowGroup128.</param>
    /// <param name="scales">[rows], or [ceil(columns / 128), scaleStride].</param>
    /// <param name="row">The row's number.</param>
    /// <param name="scaleStride">Scales from a group to the next: rows, rounded up to a multiple of 4.</param>
    public void Quantize(F32[][] values, Global codes, MatmulScale granularity, Global scales, U32 row, U32 scaleStride)
    {
        F32[] largest = [.. values.Select(vector => vector.Select(_k.Abs).Aggregate(_k.Max))];
        if (granularity == MatmulScale.Row)
        {
            F32 ofRow = _k.MaxBlock(largest.Aggregate(_k.Max), _k.AllocateShared(_k.Warps * sizeof(float)));
            _k.Store(scales.At(row, sizeof(float)), Scale(ofRow), _k.Thread.Is(0));
            F32 inverse = Inverse(ofRow);
            Store(ElementType.E4M3, codes, Each(v => Times(values[v], inverse)));
            return;
        }

        Store(ElementType.E4M3, codes, Each(v =>
        {
            F32 ofGroup = _k.MaxLanes(largest[v]);
            Pred writes = _inside[v] is { } inside ? _k.Lane.Is(0) & inside : _k.Lane.Is(0);
            _k.Store(scales.At(_k.MultiplyAdd(_first[v] / 128, scaleStride, row), sizeof(float)), Scale(ofGroup), writes);
            return Times(values[v], Inverse(ofGroup));
        }));
    }

    /// <summary>A value for each vector.</summary>
    public F32[][] Each(Func<int, F32[]> make) => [.. Enumerable.Range(0, _first.Length).Select(make)];

    private static F32[] Times(F32[] vector, F32 factor) => [.. vector.Select(value => value * factor)];

    private F32 Scale(F32 largest) => _k.DivideExactly(largest, MostE4M3);

    /// <summary>448 / largest; 0 for what is as good as zero, whose quotient would overflow.</summary>
    private F32 Inverse(F32 largest) => _k.Select(largest < Tiny, 0f, _k.DivideExactly(MostE4M3, largest));
}
