using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>y[t, r] = dot(W[r, :], x[t, :]) for 16 rows and many tokens: the rows are unpacked once, to L2, with rows in the lanes.</summary>
/// <remarks>
/// Rows lie in a vector's lanes, so nothing is summed across lanes: a tile of 16 rows and 4 tokens runs VPDPBUSD (or VPMADDUBSW) alone.
/// <see cref="RowDot"/>'s lane p is here the sum over sub-blocks p, p + 16, ..; walking p in bit-reversed order and adding finished sums
/// in pairs, as a binary counter carries, is the same tree as its fold: the bits are the same.
/// </remarks>
internal static unsafe class RowPanel
{
    /// <summary>Rows of a panel: the lanes of an accumulator.</summary>
    public const int Rows = Lanes.Count;

    private const int TileTokens = 4;
    private const int Levels = 4; // 16 lanes fold in four steps

    /// <summary>Whether this machine has the byte products that make panels worth their while.</summary>
    public static bool IsSupported => Avx2.IsSupported;

    private static ReadOnlySpan<byte> BitReversed => [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

    /// <summary>Bytes of scratch memory: per row a code for each column, and an F32 scale and bias for each 16.</summary>
    public static long ScratchBytes(int columns) => RowBlocks<Q2_K>.TailBytes + (Rows * (long)columns) + (Rows * ((long)columns / 16) * 2 * sizeof(float));

    /// <summary>Multiplies the rows [<paramref name="row"/>, row + 16).</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply<TFormat>(in WeightMatrix w, int row, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        Panel panel = new(scratch + RowBlocks<TFormat>.TailBytes, w.Columns, TFormat.SubBlock);
        UnpackCodes<TFormat>(w.Data + (row * w.RowBytes), w.RowBytes, w.Columns, panel);
        UnpackScales<TFormat>(w, row, panel, scratch);
        for (int token = 0; token < tokens; token += TileTokens)
            MultiplyTile<TFormat>(panel, x, token, Math.Min(TileTokens, tokens - token), output);
    }

    /// <summary>The codes of sixteen rows as [columns / 4, 16 rows, 4].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void UnpackCodes<TFormat>(byte* blocks, long rowBytes, int columns, in Panel panel)
        where TFormat : struct, IQuantizedFormat
    {
        for (int half = 0; half < Rows; half += 8)
        {
            byte* rows = blocks + (half * rowBytes);
            for (int group = 0; group < columns / 32; group++)
            {
                Transpose(
                    TFormat.Codes(rows, group), TFormat.Codes(rows + rowBytes, group),
                    TFormat.Codes(rows + (2 * rowBytes), group), TFormat.Codes(rows + (3 * rowBytes), group),
                    TFormat.Codes(rows + (4 * rowBytes), group), TFormat.Codes(rows + (5 * rowBytes), group),
                    TFormat.Codes(rows + (6 * rowBytes), group), TFormat.Codes(rows + (7 * rowBytes), group),
                    panel.Codes + ((long)group * 32 * Rows) + (half * 4));
            }
        }
    }

    /// <summary>The scales and biases of sixteen rows as [sub-blocks, 16 rows].</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void UnpackScales<TFormat>(in WeightMatrix w, int first, in Panel panel, byte* tail)
        where TFormat : struct, IQuantizedFormat
    {
        float* scales = stackalloc float[Lanes.Count], biases = stackalloc float[Lanes.Count];
        for (int row = 0; row < Rows; row++)
        {
            RowBlocks<TFormat> blocks = new(w.Data + ((first + row) * w.RowBytes), w.Data + (w.Rows * w.RowBytes), w.Columns, tail);
            for (int b = 0; b < blocks.SubBlocks; b++)
            {
                if (b % Lanes.Count == 0)
                {
                    blocks.Scales(blocks.Chunk(b), b, out Vector512<float> chunkScales, out Vector512<float> chunkBiases);
                    chunkScales.Store(scales);
                    chunkBiases.Store(biases);
                }

                panel.Scales[(b * Rows) + row] = scales[b % Lanes.Count];
                if (TFormat.HasBias)
                    panel.Biases[(b * Rows) + row] = biases[b % Lanes.Count];
            }
        }
    }

    /// <summary>Eight rows of eight 4-byte groups: group i of row r goes to destination + 64 i + 4 r.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Transpose(
        Vector256<byte> r0, Vector256<byte> r1, Vector256<byte> r2, Vector256<byte> r3,
        Vector256<byte> r4, Vector256<byte> r5, Vector256<byte> r6, Vector256<byte> r7, byte* destination)
    {
        StoreColumns(r0, r1, r2, r3, r4, r5, r6, r7, destination, high: false);
        StoreColumns(r0, r1, r2, r3, r4, r5, r6, r7, destination + (2 * Rows * 4), high: true);
    }

    /// <summary>Groups 0, 1, 4 and 5 of eight rows; or, high, groups 2, 3, 6 and 7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreColumns(
        Vector256<byte> r0, Vector256<byte> r1, Vector256<byte> r2, Vector256<byte> r3,
        Vector256<byte> r4, Vector256<byte> r5, Vector256<byte> r6, Vector256<byte> r7, byte* destination, bool high)
    {
        Vector256<long> r01 = Zip(r0, r1, high), r23 = Zip(r2, r3, high), r45 = Zip(r4, r5, high), r67 = Zip(r6, r7, high);
        Vector256<long> even03 = Avx2.UnpackLow(r01, r23), odd03 = Avx2.UnpackHigh(r01, r23);
        Vector256<long> even47 = Avx2.UnpackLow(r45, r67), odd47 = Avx2.UnpackHigh(r45, r67);
        Vector256.Create(even03.GetLower(), even47.GetLower()).AsByte().Store(destination);
        Vector256.Create(odd03.GetLower(), odd47.GetLower()).AsByte().Store(destination + (Rows * 4));
        Vector256.Create(even03.GetUpper(), even47.GetUpper()).AsByte().Store(destination + (4 * Rows * 4));
        Vector256.Create(odd03.GetUpper(), odd47.GetUpper()).AsByte().Store(destination + (5 * Rows * 4));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<long> Zip(Vector256<byte> a, Vector256<byte> b, bool high) =>
        (high ? Avx2.UnpackHigh(a.AsInt32(), b.AsInt32()) : Avx2.UnpackLow(a.AsInt32(), b.AsInt32())).AsInt64();

    /// <summary>The outputs of 16 rows for four tokens, of which <paramref name="count"/> are kept; the records of the others are padding.</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplyTile<TFormat>(in Panel panel, in QuantizedActivations x, int token, int count, in Output output)
        where TFormat : struct, IQuantizedFormat
    {
        int subBlocks = x.Columns / TFormat.SubBlock;
        long next = x.TokenBytes;
        sbyte* codes = x.Codes(token);
        byte* scales = (byte*)x.Scales(token), sums = (byte*)x.Sums(token, TFormat.SubBlock);
        float* waiting = stackalloc float[(Levels + 1) * TileTokens * Rows]; // a tile for each bit of p: finished sums that wait for their sibling
        for (int i = 0; i < Lanes.Count; i++)
        {
            Vector512<float> y0 = Vector512<float>.Zero, y1 = y0, y2 = y0, y3 = y0;
            for (int b = BitReversed[i]; b < subBlocks; b += Lanes.Count)
            {
                PanelDot.Dots<TFormat>(
                    panel.Codes + ((long)b * TFormat.SubBlock * Rows), codes + (b * TFormat.SubBlock), next,
                    out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3);
                Vector512<float> weightScales = Vector512.Load(panel.Scales + ((long)b * Rows));
                Vector512<float> weightBiases = TFormat.HasBias ? Vector512.Load(panel.Biases + ((long)b * Rows)) : default;
                byte* scale = scales + (b * TFormat.SubBlock / QuantizedActivations.BlockColumns * sizeof(float)), sum = sums + (b * sizeof(int));
                y0 = Accumulate<TFormat>(y0, d0, weightScales, weightBiases, (float*)scale, (int*)sum);
                y1 = Accumulate<TFormat>(y1, d1, weightScales, weightBiases, (float*)(scale + next), (int*)(sum + next));
                y2 = Accumulate<TFormat>(y2, d2, weightScales, weightBiases, (float*)(scale + (2 * next)), (int*)(sum + (2 * next)));
                y3 = Accumulate<TFormat>(y3, d3, weightScales, weightBiases, (float*)(scale + (3 * next)), (int*)(sum + (3 * next)));
            }

            // Each one bit at the low end of i is a sibling that waits: add it, and carry.
            float* slot = waiting;
            for (int carry = i; (carry & 1) != 0; carry >>= 1, slot += TileTokens * Rows)
            {
                y0 += Vector512.Load(slot);
                y1 += Vector512.Load(slot + Rows);
                y2 += Vector512.Load(slot + (2 * Rows));
                y3 += Vector512.Load(slot + (3 * Rows));
            }

            // The last sum has carried past every bit; it lands above the waiting tiles.
            y0.Store(slot);
            y1.Store(slot + Rows);
            y2.Store(slot + (2 * Rows));
            y3.Store(slot + (3 * Rows));
        }

        for (int t = 0; t < count; t++)
        {
            float* y = output.Token(token + t);
            Vector512<float> dots = Vector512.Load(waiting + (((Levels * TileTokens) + t) * Rows));
            (output.Accumulate ? Vector512.Load(y) + dots : dots).Store(y);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Accumulate<TFormat>(
        Vector512<float> y, Vector512<int> dots, Vector512<float> scales, Vector512<float> biases, float* scale, int* sum)
        where TFormat : struct, IQuantizedFormat
    {
        Vector512<float> scaleOfX = Vector512.Create(*scale);
        Vector512<int> sumOfX = Vector512.Create(*sum);
        y = Vector512.FusedMultiplyAdd(Lanes.Floats<TFormat>(dots, sumOfX), scales * scaleOfX, y);
        return TFormat.HasBias ? Vector512.FusedMultiplyAdd(biases * scaleOfX, Vector512.ConvertToSingle(sumOfX), y) : y;
    }

    /// <summary>Sixteen unpacked rows.</summary>
    private readonly struct Panel(byte* memory, int columns, int subBlock)
    {
        public readonly byte* Codes = memory;
        public readonly float* Scales = (float*)(memory + ((long)columns * Rows));
        public readonly float* Biases = (float*)(memory + ((long)columns * Rows)) + ((long)columns / subBlock * Rows);
    }
}
