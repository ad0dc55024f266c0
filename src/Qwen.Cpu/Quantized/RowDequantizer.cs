using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>One row of weights as floats: the embedding lookup.</summary>
internal static unsafe class RowDequantizer
{
    /// <summary>destination[k] = scale * (code[k] - Offset) + bias, each operation rounded once, as the formats define it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    [SkipLocalsInit]
    public static void Dequantize<TFormat>(in WeightMatrix w, int row, float* destination)
        where TFormat : struct, IQuantizedFormat
    {
        IntegerRows.CheckBlocks<TFormat>(w);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)row, (uint)w.Rows);
        float* scales = stackalloc float[16], biases = stackalloc float[16];
        byte* block = w.Data + (row * w.RowBytes);
        for (int column = 0; column < w.Columns; column += TFormat.BlockColumns, block += TFormat.BlockBytes)
        {
            TFormat.Scales(block, 1, scales, biases);
            for (int group = 0; group < TFormat.BlockColumns / 32; group++)
            {
                Vector256<byte> codes = TFormat.Codes(block, group);
                int first = TFormat.SubBlock == 32 ? group : 2 * group, second = TFormat.SubBlock == 32 ? group : first + 1;
                float* values = destination + column + (32 * group);
                Store<TFormat>(codes.GetLower(), scales[first], biases[first], values);
                Store<TFormat>(codes.GetUpper(), scales[second], biases[second], values + 16);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store<TFormat>(Vector128<byte> codes, float scale, float bias, float* destination)
        where TFormat : struct, IQuantizedFormat
    {
        (Vector128<ushort> low, Vector128<ushort> high) = Vector128.Widen(codes);
        Store(low, destination);
        Store(high, destination + 8);

        void Store(Vector128<ushort> words, float* values)
        {
            (Vector128<uint> a, Vector128<uint> b) = Vector128.Widen(words);
            Vector256<int> signed = Vector256.Create(a, b).AsInt32() - Vector256.Create(TFormat.Offset);
            Vector256<float> value = Vector256.ConvertToSingle(signed) * scale;
            (TFormat.HasBias ? value + Vector256.Create(bias) : value).Store(values);
        }
    }
}
