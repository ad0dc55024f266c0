using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>y[t, r] = dot(W[r, :], x[t, :]) for some panels of 16 rows and many tokens: the rows are unpacked once, to L2, with rows in the lanes.</summary>
/// <remarks>
/// A few panels take their turn at each tile of tokens, which comes from L3 or memory once for all of them.
/// Rows lie in a vector's lanes, so nothing is summed across lanes: a tile of 16 rows and 4 tokens is <see cref="PanelDot"/>'s products alone.
/// <see cref="RowDot"/>'s lane p is here the sum over sub-blocks p, p + 16, ..; walking p in bit-reversed order and adding finished sums
/// in pairs, as a binary counter carries, is the same tree as its fold: the bits are the same. The panel lies in the order of that walk.
/// </remarks>
internal static unsafe class RowPanel
{
    /// <summary>Rows of a panel: the lanes of an accumulator.</summary>
    public const int Rows = Lanes.Count;

    private const int MostPanels = 4;
    private const long GroupBytes = 512 << 10; // of panels that take turns: half of a usual L2
    private const int TileTokens = 4;
    private const int Levels = 4; // 16 lanes fold in four steps

    /// <summary>Whether this machine has the byte products that make panels worth their while.</summary>
    public static bool IsSupported => Avx2.IsSupported;

    private static ReadOnlySpan<byte> BitReversed => [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];

    /// <summary>Bytes of scratch memory.</summary>
    public static long ScratchBytes(int columns) => RowBlocks<Q2_K>.TailBytes + (Panels(columns) * PanelBytes(columns));

    /// <summary>Multiplies the rows from <paramref name="row"/> on, as many whole panels as there are before <paramref name="to"/>, at most some; returns how many rows.</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static int Multiply<TFormat>(in WeightMatrix w, int row, int to, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
    {
        int* lanes = stackalloc int[Lanes.Count]; // where in the walk a lane's sub-blocks begin
        int walked = 0, subBlocks = w.Columns / TFormat.SubBlock;
        foreach (byte lane in BitReversed)
        {
            lanes[lane] = walked;
            walked += (subBlocks - lane + Lanes.Count - 1) / Lanes.Count;
        }

        int panels = Math.Min(Panels(w.Columns), (to - row) / Rows);
        byte* memory = scratch + RowBlocks<TFormat>.TailBytes;
        long bytes = PanelBytes(w.Columns);
        for (int i = 0; i < panels; i++)
        {
            Panel panel = Panel.At<TFormat>(memory + (i * bytes), w.Columns);
            PanelUnpacker.Codes<TFormat>(w.Data + ((row + (i * Rows)) * w.RowBytes), w.RowBytes, w.Columns, panel, lanes);
            PanelUnpacker.Scales<TFormat>(w, row + (i * Rows), panel, lanes, scratch);
        }

        for (int token = 0; token < tokens; token += TileTokens)
        {
            for (int i = 0; i < panels; i++)
                MultiplyTile<TFormat>(Panel.At<TFormat>(memory + (i * bytes), w.Columns), x, token, Math.Min(TileTokens, tokens - token), output.At(i * Rows));
        }

        return panels * Rows;
    }

    private static int Panels(int columns) => (int)Math.Clamp(GroupBytes / PanelBytes(columns), 1, MostPanels);

    /// <summary>Per row a byte or an int16 for each column, and for each 16 or 32 a start, an F32 scale and a bias.</summary>
    private static long PanelBytes(int columns) => Rows * (((long)columns * (PanelDot.HasWords ? 2 : 1)) + ((long)columns / 16 * 3 * sizeof(float)));

    /// <summary>The outputs of 16 rows for four tokens, of which <paramref name="count"/> are kept; the records of the others are padding.</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplyTile<TFormat>(in Panel panel, in QuantizedActivations x, int token, int count, in Output output)
        where TFormat : struct, IQuantizedFormat
    {
        uint subBlocks = (uint)x.Columns / (uint)TFormat.SubBlock;
        long next = x.TokenBytes, toBiases = panel.Biases - panel.Scales;
        byte* xCodes = PanelDot.IsVnni<TFormat>() ? (byte*)x.Codes(token) : PanelDot.IsWords<TFormat>() ? (byte*)x.WideCodes(token) : x.UnsignedCodes(token);
        byte* xScales = (byte*)x.Scales(token), xSums = PanelDot.IsVnni<TFormat>() ? (byte*)x.Sums(token, TFormat.SubBlock) : (byte*)x.ScaledSums(token, TFormat.SubBlock);
        byte* xNext = xCodes + (TileTokens * next); // of the tokens after these, past the last of which nothing comes of it
        byte* codes = panel.Codes, starts = panel.Starts;
        float* scales = panel.Scales;
        float* waiting = stackalloc float[(Levels + 1) * TileTokens * Rows]; // a tile for each bit of p: finished sums that wait for their sibling
        for (int i = 0; i < Lanes.Count; i++)
        {
            Vector512<float> y0 = Vector512<float>.Zero, y1 = y0, y2 = y0, y3 = y0;
            for (uint b = BitReversed[i]; b < subBlocks; b += Lanes.Count)
            {
                PanelDot.Dots<TFormat>(
                    codes, starts, xCodes + (b * (uint)TFormat.SubBlock * (PanelDot.IsWords<TFormat>() ? 2 : 1)), next,
                    out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3);
                Prefetch(xNext, next);
                xNext += TFormat.SubBlock * (PanelDot.IsWords<TFormat>() ? 2 : 1);
                byte* scale = xScales + (b * (uint)TFormat.SubBlock / QuantizedActivations.BlockColumns * sizeof(float)), sum = xSums + (b * sizeof(int));
                y0 = Accumulate<TFormat>(y0, d0, scales, toBiases, (float*)scale, sum);
                y1 = Accumulate<TFormat>(y1, d1, scales, toBiases, (float*)(scale + next), sum + next);
                y2 = Accumulate<TFormat>(y2, d2, scales, toBiases, (float*)(scale + (2 * next)), sum + (2 * next));
                y3 = Accumulate<TFormat>(y3, d3, scales, toBiases, (float*)(scale + (3 * next)), sum + (3 * next));
                codes += PanelDot.Steps<TFormat>() * PanelDot.StepBytes;
                starts += PanelDot.Steps<TFormat>() / PanelDot.StepsPerSum<TFormat>() * PanelDot.StepBytes;
                scales += Rows;
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

    /// <summary>Asks L2 for activations of the next tile: walking a record in strides, the processor does not look ahead by itself.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Prefetch(byte* x, long next)
    {
        Sse.Prefetch1(x);
        Sse.Prefetch1(x + next);
        Sse.Prefetch1(x + (2 * next));
        Sse.Prefetch1(x + (3 * next));
    }

    /// <summary>Adds a token's dots with a sub-block to its sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Accumulate<TFormat>(Vector512<float> y, Vector512<int> dots, float* scales, long toBiases, float* scale, byte* sum)
        where TFormat : struct, IQuantizedFormat
    {
        Vector512<float> floats = PanelDot.IsVnni<TFormat>() ? Lanes.Floats<TFormat>(dots, Vector512.Create(*(int*)sum)) : Vector512.ConvertToSingle(dots);
        y = Vector512.FusedMultiplyAdd(floats, Vector512.Load(scales) * Vector512.Create(*scale), y);
        if (!TFormat.HasBias)
            return y;
        return Vector512.FusedMultiplyAdd(Vector512.Load(scales + toBiases), Vector512.Create(PanelDot.IsVnni<TFormat>() ? *(int*)sum * *scale : *(float*)sum), y);
    }
}
