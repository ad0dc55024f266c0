using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>One row of weights as floats: the embedding lookup.</summary>
internal static unsafe class RowDequantizer
{
    /// <summary>destination[k] = scale * (code[k] - Offset) + bias, each operation rounded once, as the formats define it.</summary>
    [SkipLocalsInit]
    public static void Dequantize<TFormat>(in WeightMatrix w, int row, float* destination)
        where TFormat : struct, IQuantizedFormat
    {
        byte* tail = stackalloc byte[RowBlocks<TFormat>.TailBytes];
        float* scales = stackalloc float[Lanes.Count], biases = stackalloc float[Lanes.Count];
        RowBlocks<TFormat> blocks = new(w.Data + (row * w.RowBytes), w.Data + (w.Rows * w.RowBytes), w.Columns, tail);
        for (int first = 0; first < blocks.SubBlocks; first += Lanes.Count)
        {
            byte* chunk = blocks.Chunk(first);
            blocks.Scales(chunk, first, out Vector512<float> chunkScales, out Vector512<float> chunkBiases);
            chunkScales.Store(scales);
            chunkBiases.Store(biases);
            int columns = Math.Min(Lanes.Count, blocks.SubBlocks - first) * TFormat.SubBlock;
            for (int k = 0; k < columns; k += 32)
            {
                Vector256<byte> codes = TFormat.Codes(chunk, k / 32);
                int low = k / TFormat.SubBlock, high = (k + 16) / TFormat.SubBlock;
                Store<TFormat>(codes.GetLower(), scales[low], biases[low], destination);
                Store<TFormat>(codes.GetUpper(), scales[high], biases[high], destination + 16);
                destination += 32;
            }
        }
    }

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
