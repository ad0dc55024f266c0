using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>y[r] = dot(W[r, :], x) for rows of F8_E4M3 and one vector: codes become F32 in registers, in the order that <see cref="FloatRows"/> defines.</summary>
/// <remarks>
/// Bound by memory in decode: 64 codes of a row are one load, 10 operations and 4 fused multiply-adds. Through a panel in L1, as other
/// machines and several tokens go, they would also be 4 stores and 4 more loads: half the speed.
/// </remarks>
internal static unsafe class Float8Dot
{
    private const int Step = 64;

    /// <summary>How far ahead lines are asked for. Measured on Zen 5, one core, beside a plain read of 39 GB/s: 14 GB/s without, 32 with 8 KB, 25 with 32 KB.</summary>
    private const int PrefetchBytes = 8192;

    /// <summary>Whether the machine can, and blocks of columns are whole steps.</summary>
    public static bool Takes(in FloatWeights w, int columns) =>
        Avx512Vbmi.IsSupported && columns % Step == 0 && (w.Scales.BlockColumns % Step == 0 || w.Scales.BlockColumns >= columns);

    /// <summary>All rows of w [rows, columns] times x [columns].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // hot in its first call: not to be run unoptimised first
    public static void Multiply(in FloatWeights w, float* x, int columns, in FloatOutput y)
    {
        Float8Conversion.Tables(out Vector512<byte> upper0, out Vector512<byte> upper1, out Vector512<byte> lower0, out Vector512<byte> lower1);
        int width = Math.Min(columns, w.Scales.BlockColumns);
        long ahead = Math.Max(PrefetchBytes, FloatTile.Rows * w.Stride); // at least to the next four rows
        for (int row = 0; row < w.Count; row += FloatTile.Rows)
        {
            FloatWeights four = w.Slice(row, FloatTile.Rows);
            int last = four.Count - 1;
            byte* w0 = four.Data;
            byte* w1 = w0 + (Math.Min(1, last) * w.Stride);
            byte* w2 = w0 + (Math.Min(2, last) * w.Stride);
            byte* w3 = w0 + (Math.Min(3, last) * w.Stride);
            float* scale0 = w.Scales.Row(four.FirstRow, columns), scale1 = w.Scales.Row(four.FirstRow + Math.Min(1, last), columns);
            float* scale2 = w.Scales.Row(four.FirstRow + Math.Min(2, last), columns), scale3 = w.Scales.Row(four.FirstRow + Math.Min(3, last), columns);
            Vector512<float> total0 = default, total1 = default, total2 = default, total3 = default;
            for (nint k = 0, block = 0; k < columns; block++)
            {
                Vector512<float> sum0 = default, sum1 = default, sum2 = default, sum3 = default;
                for (nint end = Math.Min(columns, k + width); k < end; k += Step)
                {
                    byte* next = w0 + (FloatTile.Rows * k) + ahead; // four lines a step, in the order of memory
                    Sse.Prefetch0(next);
                    Sse.Prefetch0(next + 64);
                    Sse.Prefetch0(next + 128);
                    Sse.Prefetch0(next + 192);
                    Vector512<float> x0 = Vector512.Load(x + k), x1 = Vector512.Load(x + k + 16), x2 = Vector512.Load(x + k + 32), x3 = Vector512.Load(x + k + 48);
                    sum0 = Add(w0 + k, sum0, x0, x1, x2, x3);
                    sum1 = Add(w1 + k, sum1, x0, x1, x2, x3);
                    sum2 = Add(w2 + k, sum2, x0, x1, x2, x3);
                    sum3 = Add(w3 + k, sum3, x0, x1, x2, x3);
                }

                total0 = Avx512F.FusedMultiplyAdd(sum0, Vector512.Create(scale0[block]), total0);
                total1 = Avx512F.FusedMultiplyAdd(sum1, Vector512.Create(scale1[block]), total1);
                total2 = Avx512F.FusedMultiplyAdd(sum2, Vector512.Create(scale2[block]), total2);
                total3 = Avx512F.FusedMultiplyAdd(sum3, Vector512.Create(scale3[block]), total3);
            }

            y.At(0, row).Store(0, Lanes512.Fold(new(total0), new(total1), new(total2), new(total3)), four.Count);
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        Vector512<float> Add(byte* codes, Vector512<float> sum, Vector512<float> x0, Vector512<float> x1, Vector512<float> x2, Vector512<float> x3)
        {
            Float8Conversion.Widen(
                codes, upper0, upper1, lower0, lower1,
                out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d);
            sum = Avx512F.FusedMultiplyAdd(a, x0, sum);
            sum = Avx512F.FusedMultiplyAdd(b, x1, sum);
            sum = Avx512F.FusedMultiplyAdd(c, x2, sum);
            return Avx512F.FusedMultiplyAdd(d, x3, sum);
        }
    }
}
