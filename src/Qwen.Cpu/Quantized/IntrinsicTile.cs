using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>A panel times four tokens with the products of <see cref="PanelDot"/>.</summary>
internal readonly unsafe struct IntrinsicTile : IPanelTile
{
    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static PanelCodes Codes<TFormat>()
        where TFormat : struct, IQuantizedFormat =>
        PanelDot.IsVnni<TFormat>() ? PanelCodes.Unsigned : PanelDot.IsWords<TFormat>() ? PanelCodes.Words : PanelCodes.Signed;

    /// <inheritdoc/>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply<TFormat>(in Panel panel, int count, in QuantizedActivations x, int token, int first, float* sums, byte* ahead, int step)
        where TFormat : struct, IQuantizedFormat
    {
        long next = x.TokenBytes, toBiases = panel.Biases - panel.Scales;
        byte* xCodes = PanelDot.IsVnni<TFormat>() ? (byte*)(x.Codes(token) + (first * TFormat.SubBlock))
            : PanelDot.IsWords<TFormat>() ? (byte*)(x.WideCodes(token) + (first * TFormat.SubBlock)) : x.UnsignedCodes(token) + (first * TFormat.SubBlock);
        byte* xScales = (byte*)(x.Scales(token) + (first * TFormat.SubBlock / QuantizedActivations.BlockColumns));
        byte* xSums = PanelDot.IsVnni<TFormat>() ? (byte*)(x.Sums(token, TFormat.SubBlock) + first) : (byte*)(x.ScaledSums(token, TFormat.SubBlock) + first);
        byte* xNext = xCodes + (4 * next); // of the tokens after these, past the last of which nothing comes of it
        byte* codes = panel.Codes, starts = panel.Starts;
        float* scales = panel.Scales;
        bool isFirst = first == 0;
        for (uint b = 0; b < (uint)count; b++)
        {
            PanelDot.Dots<TFormat>(
                codes, starts, xCodes + PanelDot.ActivationBytes<TFormat>(b), next,
                out Vector512<int> d0, out Vector512<int> d1, out Vector512<int> d2, out Vector512<int> d3);
            RowPanel.Prefetch(xNext, next);
            RowPanel.Prefetch(ahead, IPanelTile.AheadBytes / 4);
            ahead += step;
            xNext += TFormat.SubBlock * (PanelDot.IsWords<TFormat>() ? 2 : 1);
            byte* scale = xScales + (b * (uint)TFormat.SubBlock / QuantizedActivations.BlockColumns * sizeof(float)), sum = xSums + (b * sizeof(int));
            Accumulate<TFormat>(sums, isFirst, d0, scales, toBiases, (float*)scale, sum);
            Accumulate<TFormat>(sums + RowPanel.Rows, isFirst, d1, scales, toBiases, (float*)(scale + next), sum + next);
            Accumulate<TFormat>(sums + (2 * RowPanel.Rows), isFirst, d2, scales, toBiases, (float*)(scale + (2 * next)), sum + (2 * next));
            Accumulate<TFormat>(sums + (3 * RowPanel.Rows), isFirst, d3, scales, toBiases, (float*)(scale + (3 * next)), sum + (3 * next));
            codes += PanelDot.Steps<TFormat>() * PanelDot.StepBytes;
            starts += PanelDot.Steps<TFormat>() / PanelDot.StepsPerSum<TFormat>() * PanelDot.StepBytes;
            scales += RowPanel.Rows;
            sums += 4 * RowPanel.Rows;
        }
    }

    /// <summary>Adds a token's dots with a sub-block to its sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Accumulate<TFormat>(float* sums, bool isFirst, Vector512<int> dots, float* scales, long toBiases, float* scale, byte* sum)
        where TFormat : struct, IQuantizedFormat
    {
        Vector512<float> floats = PanelDot.IsVnni<TFormat>() ? Lanes.Floats<TFormat>(dots, Vector512.Create(*(int*)sum)) : Vector512.ConvertToSingle(dots);
        Vector512<float> y = isFirst ? default : Vector512.Load(sums);
        y = Vector512.FusedMultiplyAdd(floats, Vector512.Load(scales) * Vector512.Create(*scale), y);
        if (TFormat.HasBias)
            y = Vector512.FusedMultiplyAdd(Vector512.Load(scales + toBiases), Vector512.Create(PanelDot.IsVnni<TFormat>() ? *(int*)sum * *scale : *(float*)sum), y);
        y.Store(sums);
    }
}
