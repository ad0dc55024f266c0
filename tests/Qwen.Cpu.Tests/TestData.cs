using System.Runtime.InteropServices;

namespace Qwen.Cpu.Tests;

/// <summary>Random inputs in native memory, and the canonical sum that every kernel must reproduce bit for bit.</summary>
internal static unsafe class TestData
{
    /// <summary>Random floats behind an offset that breaks every alignment.</summary>
    public static NativeBuffer<float> Floats(Random random, long count, float scale = 1)
    {
        var buffer = new NativeBuffer<float>(count);
        for (long i = 0; i < count; i++)
            buffer.Pointer[i] = ((float)random.NextDouble() - 0.5f) * 2 * scale;
        return buffer;
    }

    /// <summary>The sum of the 16 lanes in the engine's order: l + 8, l + 4, l + 2, l + 1.</summary>
    public static float Fold(ReadOnlySpan<float> lanes)
    {
        Span<float> a = stackalloc float[16];
        lanes.CopyTo(a);
        for (int half = 8; half > 0; half /= 2)
        {
            for (int l = 0; l < half; l++)
                a[l] += a[l + half];
        }

        return a[0];
    }

    /// <summary>The canonical dot product: lane k % 16 by fused multiply-add in rising k, then <see cref="Fold"/>.</summary>
    public static float Dot(Func<int, float> a, Func<int, float> b, int count)
    {
        Span<float> lanes = stackalloc float[16];
        for (int k = 0; k < count; k++)
            lanes[k % 16] = MathF.FusedMultiplyAdd(a(k), b(k), lanes[k % 16]);
        return Fold(lanes);
    }

    /// <summary>Equal to the bit, NaN included.</summary>
    public static void SameBits(float expected, float actual, string what) =>
        Assert.True(BitConverter.SingleToInt32Bits(expected) == BitConverter.SingleToInt32Bits(actual), $"{what}: expected {expected:R}, got {actual:R}");

    /// <summary>Bytes of a matrix of random floats in a type, rows without gaps, and a reader of its values.</summary>
    public static (NativeBuffer<byte> Bytes, WeightMatrix Matrix, Func<int, int, float> Value) Matrix(Random random, WeightType type, int rows, int columns)
    {
        int size = type == WeightType.F32 ? 4 : 2;
        var bytes = new NativeBuffer<byte>(((long)rows * columns * size) + 64);
        byte* data = bytes.Pointer + (random.Next(16) * size); // any alignment
        for (int i = 0; i < rows * columns; i++)
        {
            float value = ((float)random.NextDouble() - 0.5f) * MathF.Pow(2, random.Next(-20, 4));
            if (type == WeightType.F32)
                ((float*)data)[i] = value;
            else
                ((ushort*)data)[i] = type == WeightType.F16 ? BitConverter.HalfToUInt16Bits((Half)value) : (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
        }

        return (bytes, new WeightMatrix(type, rows, columns, data, (long)columns * size), (r, k) =>
        {
            long i = ((long)r * columns) + k;
            return type switch
            {
                WeightType.F32 => ((float*)data)[i],
                WeightType.F16 => (float)BitConverter.UInt16BitsToHalf(((ushort*)data)[i]),
                _ => BitConverter.UInt32BitsToSingle((uint)((ushort*)data)[i] << 16),
            };
        });
    }
}
