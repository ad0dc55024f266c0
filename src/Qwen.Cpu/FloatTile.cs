using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Rows of a stored float matrix: count rows, stride bytes apart; the first is row firstRow of the scales, where the type has some.</summary>
internal readonly unsafe struct FloatWeights(byte* data, long stride, int count, ScaleGrid scales = default, int firstRow = 0)
{
    public readonly byte* Data = data;
    public readonly long Stride = stride;
    public readonly int Count = count;

    public readonly ScaleGrid Scales = scales;
    public readonly int FirstRow = firstRow;

    public FloatWeights Slice(int row, int rows) => new(Data + (row * Stride), Stride, Math.Min(rows, Count - row), Scales, FirstRow + row);
}

/// <summary>F32 vectors: count vectors, stride elements apart.</summary>
internal readonly unsafe struct FloatVectors(float* data, long stride, int count)
{
    public readonly float* Data = data;
    public readonly long Stride = stride;
    public readonly int Count = count;

    public FloatVectors Slice(int vector, int vectors) => new(Data + (vector * Stride), Stride, Math.Min(vectors, Count - vector));
}

/// <summary>Where products go: y[vector * stride + row], overwritten or added to.</summary>
internal readonly unsafe struct FloatOutput(float* data, long stride, bool accumulate)
{
    public readonly float* Data = data;
    public readonly long Stride = stride;
    public readonly bool Accumulate = accumulate;

    public FloatOutput At(int vector, int row) => new(Data + (vector * Stride) + row, Stride, Accumulate);

    /// <summary>Rows [0, count) of one vector, count up to 4.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Store(int vector, Vector128<float> sums, int count)
    {
        float* y = Data + (vector * Stride);
        if (count == 4)
        {
            (Accumulate ? Vector128.Load(y) + sums : sums).Store(y);
            return;
        }

        for (int i = 0; i < count; i++)
            y[i] = Accumulate ? y[i] + sums.GetElement(i) : sums.GetElement(i);
    }
}

/// <summary>Which part of a sum a tile adds: it starts from zero or from the sums at rest, and finishes or lays them to rest.</summary>
[Flags]
internal enum TilePart
{
    Middle = 0,
    First = 1,
    Last = 2,
    Whole = First | Last,
}

/// <summary>How the lane sums of a block of columns join those of the row: total = sum * scale + total.</summary>
/// <param name="totals">The row's sums at rest.</param>
/// <param name="scales">Of the tile's four rows in this block.</param>
/// <param name="part">First block, last block of the row.</param>
internal readonly unsafe struct BlockScale(float* totals, Vector128<float> scales, TilePart part)
{
    public readonly float* Totals = totals;
    public readonly Vector128<float> Scales = scales;

    public bool IsFirst => (part & TilePart.First) != 0;

    public bool IsLast => (part & TilePart.Last) != 0;
}

/// <summary>The register tile of the float kernels: up to 4 rows times up to <see cref="Vectors{TLanes}"/> vectors.</summary>
/// <remarks>
/// Sums stay in registers over the whole loop; the methods therefore make no call after it (no vector register survives a call, so the
/// sums would be spilled in every iteration). Missing rows and vectors repeat the last one and are not stored.
/// </remarks>
internal static unsafe class FloatTile
{
    public const int Rows = 4;

    /// <summary>4 x 5 sums fill 20 of AVX-512's 32 registers (with 4 x 6, the JIT puts four of them on the stack in every step); with 4 x 1, AVX2 fills 8 of 16.</summary>
    public static int Vectors<TLanes>() => typeof(TLanes) == typeof(Lanes512) ? 5 : 1;

    /// <summary>y (= or +=) w x over a range of columns: width, a multiple of 16, from where the pointers point.</summary>
    /// <param name="w">Up to 4 rows.</param>
    /// <param name="x">Up to <see cref="Vectors{TLanes}"/> vectors.</param>
    /// <param name="width">Columns.</param>
    /// <param name="y">Written, or added to, once the sum is finished.</param>
    /// <param name="sums">The sums at rest, where the range is not the whole of a sum.</param>
    /// <param name="part">Which part of a sum the range is: of a scaled block's, else of the row's.</param>
    /// <param name="scale">For rows whose blocks of columns have scales.</param>
    public static void Multiply<TLanes, TElement>(
        in FloatWeights w, in FloatVectors x, int width, in FloatOutput y, float* sums = null, TilePart part = TilePart.Whole, in BlockScale scale = default)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        if (Vectors<TLanes>() == 1 || x.Count == 1)
            FourRows<TLanes, TElement>(w, x.Data, width, y, sums, part, scale);
        else if (x.Count <= 4)
            FourRowsManyVectors<TLanes, TElement, UpTo4>(w, x, width, y, sums, part, scale);
        else
            FourRowsManyVectors<TLanes, TElement, UpTo5>(w, x, width, y, sums, part, scale);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // hot in its first call: not to be run unoptimised first
    private static void FourRows<TLanes, TElement>(
        in FloatWeights w, float* x, int width, in FloatOutput y, float* sums, TilePart part, in BlockScale scale)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        byte* w0 = w.Data;
        byte* w1 = w0 + (Math.Min(1, w.Count - 1) * w.Stride);
        byte* w2 = w0 + (Math.Min(2, w.Count - 1) * w.Stride);
        byte* w3 = w0 + (Math.Min(3, w.Count - 1) * w.Stride);
        TLanes s0 = TLanes.Zero, s1 = TLanes.Zero, s2 = TLanes.Zero, s3 = TLanes.Zero; // not FourLanes: here TLanes may be two registers
        if ((part & TilePart.First) == 0)
            (s0, s1, s2, s3) = (TLanes.Load(sums), TLanes.Load(sums + 16), TLanes.Load(sums + 32), TLanes.Load(sums + 48));
        for (nint k = 0; k < width; k += 16)
        {
            nint b = k * TElement.Bytes;
            PrefetchNextRows<TElement>(w0, w.Stride, b);
            TLanes xk = TLanes.Load(x + k);
            s0 = TLanes.MultiplyAdd(TElement.Load<TLanes>(w0 + b), xk, s0);
            s1 = TLanes.MultiplyAdd(TElement.Load<TLanes>(w1 + b), xk, s1);
            s2 = TLanes.MultiplyAdd(TElement.Load<TLanes>(w2 + b), xk, s2);
            s3 = TLanes.MultiplyAdd(TElement.Load<TLanes>(w3 + b), xk, s3);
        }

        FourLanes<TLanes> s = new(s0, s1, s2, s3);
        bool rests = (part & TilePart.Last) == 0;
        if (!rests && scale.Totals is not null)
        {
            sums = scale.Totals;
            s.ScaleAdd(scale.Scales, scale.IsFirst ? null : sums);
            rests = !scale.IsLast;
        }

        if (rests)
            s.Store(sums);
        else
            y.Store(0, s.Fold(), w.Count);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void FourRowsManyVectors<TLanes, TElement, TCount>(
        in FloatWeights w, in FloatVectors x, int width, in FloatOutput y, float* sums, TilePart part, in BlockScale scale)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
        where TCount : struct, ICount
    {
        byte* w0 = w.Data;
        byte* w1 = w0 + (Math.Min(1, w.Count - 1) * w.Stride);
        byte* w2 = w0 + (Math.Min(2, w.Count - 1) * w.Stride);
        byte* w3 = w0 + (Math.Min(3, w.Count - 1) * w.Stride);
        float* x0 = x.Data;
        float* x1 = x0 + (Math.Min(1, x.Count - 1) * x.Stride);
        float* x2 = x0 + (Math.Min(2, x.Count - 1) * x.Stride);
        float* x3 = x0 + (Math.Min(3, x.Count - 1) * x.Stride);
        float* x4 = x0 + (Math.Min(4, x.Count - 1) * x.Stride);
        FourLanes<TLanes> s0 = default, s1 = default, s2 = default, s3 = default, s4 = default;
        if ((part & TilePart.First) == 0)
        {
            s0 = FourLanes<TLanes>.Load(sums);
            s1 = FourLanes<TLanes>.Load(sums + 64);
            s2 = FourLanes<TLanes>.Load(sums + 128);
            s3 = FourLanes<TLanes>.Load(sums + 192);
            if (TCount.IsAbove4)
                s4 = FourLanes<TLanes>.Load(sums + 256);
        }

        for (nint k = 0; k < width; k += 16)
        {
            nint b = k * TElement.Bytes;
            PrefetchNextRows<TElement>(w0, w.Stride, b);
            TLanes a0 = TElement.Load<TLanes>(w0 + b), a1 = TElement.Load<TLanes>(w1 + b);
            TLanes a2 = TElement.Load<TLanes>(w2 + b), a3 = TElement.Load<TLanes>(w3 + b);
            s0.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(x0 + k));
            s1.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(x1 + k));
            s2.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(x2 + k));
            s3.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(x3 + k));
            if (TCount.IsAbove4)
                s4.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(x4 + k));
        }

        bool rests = (part & TilePart.Last) == 0;
        if (!rests && scale.Totals is not null)
        {
            sums = scale.Totals;
            s0.ScaleAdd(scale.Scales, scale.IsFirst ? null : sums);
            s1.ScaleAdd(scale.Scales, scale.IsFirst ? null : sums + 64);
            s2.ScaleAdd(scale.Scales, scale.IsFirst ? null : sums + 128);
            s3.ScaleAdd(scale.Scales, scale.IsFirst ? null : sums + 192);
            if (TCount.IsAbove4)
                s4.ScaleAdd(scale.Scales, scale.IsFirst ? null : sums + 256);
            rests = !scale.IsLast;
        }

        if (rests)
        {
            s0.Store(sums);
            s1.Store(sums + 64);
            s2.Store(sums + 128);
            s3.Store(sums + 192);
            if (TCount.IsAbove4)
                s4.Store(sums + 256);
            return;
        }

        y.Store(0, s0.Fold(), w.Count);
        if (x.Count > 1)
            y.Store(1, s1.Fold(), w.Count);
        if (x.Count > 2)
            y.Store(2, s2.Fold(), w.Count);
        if (x.Count > 3)
            y.Store(3, s3.Fold(), w.Count);
        if (x.Count > 4)
            y.Store(4, s4.Fold(), w.Count);
    }

    /// <summary>Asks L2 for the four rows after these, in memory order: 4 x 16 elements, one or more cache lines, per step of a tile.</summary>
    /// <remarks>
    /// Converting costs so many operations per byte that out-of-order execution alone does not look far enough ahead. Measured on Zen 5, one
    /// core, beside a plain read of 45 GB/s: F16 19 -> 40 GB/s, BF16 24 -> 34, F32 unchanged at 36. A prefetch past the matrix is harmless.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void PrefetchNextRows<TElement>(byte* w, long stride, nint offset)
        where TElement : struct, IFloatElement
    {
        if (!Sse.IsSupported || !TElement.InMemory)
            return;
        byte* next = w + (Rows * (stride + offset));
        Sse.Prefetch1(next);
        Sse.Prefetch1(next + 64);
        if (TElement.Bytes == 4)
        {
            Sse.Prefetch1(next + 128);
            Sse.Prefetch1(next + 192);
        }
    }

    /// <summary>How many vectors a tile holds sums for: with few, those of the missing ones would cost what they do not give.</summary>
    private interface ICount
    {
        static abstract bool IsAbove4 { get; }
    }

    private readonly struct UpTo4 : ICount
    {
        public static bool IsAbove4 => false;
    }

    private readonly struct UpTo5 : ICount
    {
        public static bool IsAbove4 => true;
    }
}
