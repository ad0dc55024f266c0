using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using Qwen.Cpu.Quantized;

namespace Qwen.Cpu;

/// <summary>Rounds F32 activations to int8, a scale per 32 columns.</summary>
/// <remarks>
/// Per block: scale = max|x| / 127, code = x * (1 / scale) rounded half to even. A block whose scale has no finite reciprocal (all
/// |x| below 4e-37) is zero. A block with an infinity or a NaN gets the scale NaN, so that it shows in every output.
/// </remarks>
public static unsafe class ActivationQuantizer
{
    /// <summary>Quantizes the tokens [<paramref name="fromToken"/>, <paramref name="toToken"/>), the zeros of their padding included.</summary>
    /// <param name="x">Token t begins at x + t * <paramref name="xStride"/>.</param>
    /// <param name="xStride">Floats from a token to the next.</param>
    /// <param name="fromToken">First token.</param>
    /// <param name="toToken">One past the last token.</param>
    /// <param name="quantized">Takes the codes, scales and sums; its columns say how many floats of a token are read.</param>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // the loops run hot on the first call: no time in the interpreter-like tier 0
    public static void Quantize(float* x, long xStride, int fromToken, int toToken, in QuantizedActivations quantized)
    {
        int blocks = quantized.Columns / 32, padded = quantized.PaddedColumns / 32;
        for (int token = fromToken; token < toToken; token++)
        {
            float* values = x + (token * xStride);
            sbyte* codes = quantized.Codes(token);
            float* scales = quantized.Scales(token);
            int* sums32 = quantized.Sums(token, 32);
            int* sums16 = quantized.Sums(token, 16);
            for (int b = 0; b < blocks; b++)
                QuantizeBlock(values + (b * 32), codes + (b * 32), scales + b, sums32 + b, sums16 + (b * 2));

            int rest = padded - blocks;
            new Span<sbyte>(codes + (blocks * 32), rest * 32).Clear();
            new Span<float>(scales + blocks, rest).Clear();
            new Span<int>(sums32 + blocks, rest).Clear();
            new Span<int>(sums16 + (blocks * 2), rest * 2).Clear();
            PrepareForPanels(quantized, token);
        }
    }

    private static void PrepareForPanels(in QuantizedActivations quantized, int token)
    {
        sbyte* codes = quantized.Codes(token);
        byte* plus128 = quantized.UnsignedCodes(token);
        short* wide = quantized.WideCodes(token);
        float* scales = quantized.Scales(token), scaled32 = quantized.ScaledSums(token, 32), scaled16 = quantized.ScaledSums(token, 16);
        int* sums32 = quantized.Sums(token, 32), sums16 = quantized.Sums(token, 16);
        for (int i = 0; i < quantized.PaddedColumns; i += 32)
        {
            int b = i / 32;
            scaled32[b] = sums32[b] * scales[b];
            scaled16[2 * b] = sums16[2 * b] * scales[b];
            scaled16[(2 * b) + 1] = sums16[(2 * b) + 1] * scales[b];
            Vector256<sbyte> block = Vector256.Load(codes + i);
            (block.AsByte() ^ Vector256.Create((byte)0x80)).Store(plus128 + i);
            if (!PanelDot.HasWords)
                continue;
            short* even = wide + (i & ~63) + ((i & 32) / 2);
            (block.AsInt16() << 8 >> 8).Store(even);
            (block.AsInt16() >> 8).Store(even + QuantizedActivations.WordRun);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void QuantizeBlock(float* x, sbyte* codes, float* scale, int* sum32, int* sum16)
    {
        Vector512<float> low = Vector512.Load(x), high = Vector512.Load(x + 16);
        float d = LargestMagnitude(low, high) / 127f;
        float inverse = 1f / d;
        if (!float.IsFinite(inverse) || !float.IsFinite(d))
        {
            Vector256<sbyte>.Zero.Store(codes);
            *scale = float.IsFinite(d) ? 0f : float.NaN;
            *sum32 = sum16[0] = sum16[1] = 0;
            return;
        }

        Vector512<int> lowCodes = Vector512.ConvertToInt32Native(Vector512.Round(low * inverse));
        Vector512<int> highCodes = Vector512.ConvertToInt32Native(Vector512.Round(high * inverse));
        Vector512<short> narrow = Vector512.Narrow(lowCodes, highCodes);
        Vector256.Narrow(narrow.GetLower(), narrow.GetUpper()).Store(codes);
        *scale = d;
        sum16[0] = Vector512.Sum(lowCodes);
        sum16[1] = Vector512.Sum(highCodes);
        *sum32 = sum16[0] + sum16[1];
    }

    /// <remarks>The bits of magnitudes order as integers do, with infinity and then NaN on top.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static float LargestMagnitude(Vector512<float> low, Vector512<float> high)
    {
        Vector512<int> of32 = Vector512.Max(Vector512.Abs(low).AsInt32(), Vector512.Abs(high).AsInt32());
        Vector256<int> of16 = Vector256.Max(of32.GetLower(), of32.GetUpper());
        Vector128<int> of8 = Vector128.Max(of16.GetLower(), of16.GetUpper());
        Vector128<int> of4 = Vector128.Max(of8, Vector128.Shuffle(of8, Vector128.Create(2, 3, 0, 1)));
        return BitConverter.Int32BitsToSingle(Math.Max(of4[0], of4[1]));
    }
}
