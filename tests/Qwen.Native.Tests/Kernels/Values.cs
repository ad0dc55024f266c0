using System.Runtime.InteropServices;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Values in device types, in plain code.</summary>
internal static class Values
{
    private static readonly float[] _e4m3 = [.. Enumerable.Range(0, 127).Select(code => Float8(code, 3, 7))], _e5m2 = [.. Enumerable.Range(0, 124).Select(code => Float8(code, 2, 15))];

    /// <summary>The nearest value of a 16-bit type.</summary>
    public static float Round(ElementType type, float x) => type switch
    {
        ElementType.F16 => (float)(Half)x,
        ElementType.BF16 => BitConverter.UInt32BitsToSingle((uint)BFloat16(x) << 16),
        _ => x,
    };

    /// <summary>As bytes of F32, F16 or BF16.</summary>
    public static byte[] Encode(ElementType type, ReadOnlySpan<float> values)
    {
        if (type == ElementType.F32)
            return MemoryMarshal.AsBytes(values).ToArray();
        ushort[] codes = new ushort[values.Length];
        for (int i = 0; i < codes.Length; i++)
            codes[i] = type == ElementType.F16 ? BitConverter.HalfToUInt16Bits((Half)values[i]) : BFloat16(values[i]);
        return MemoryMarshal.AsBytes<ushort>(codes).ToArray();
    }

    /// <summary>From bytes of F16 or BF16.</summary>
    public static float[] Decode(ElementType type, ReadOnlySpan<byte> bytes)
    {
        ReadOnlySpan<ushort> codes = MemoryMarshal.Cast<byte, ushort>(bytes);
        float[] values = new float[codes.Length];
        for (int i = 0; i < values.Length; i++)
            values[i] = type == ElementType.F16 ? (float)BitConverter.UInt16BitsToHalf(codes[i]) : BitConverter.UInt32BitsToSingle((uint)codes[i] << 16);
        return values;
    }

    /// <summary>From bytes of a cache's type, S8 without its scale.</summary>
    public static float[] DecodeCached(ElementType type, ReadOnlySpan<byte> bytes)
    {
        if (type == ElementType.F32)
            return MemoryMarshal.Cast<byte, float>(bytes).ToArray();
        if (type.Bytes() == 2)
            return Decode(type, bytes);
        float[] values = new float[bytes.Length], levels = type == ElementType.E4M3 ? _e4m3 : _e5m2;
        for (int i = 0; i < values.Length; i++)
            values[i] = type == ElementType.S8 ? (sbyte)bytes[i] : bytes[i] < 128 ? levels[bytes[i]] : -levels[bytes[i] - 128];
        return values;
    }

    /// <summary>Rows in a cache's type: bytes, scales of rows (of S8), and the values that these mean.</summary>
    public static (byte[] Codes, float[] Scales, double[] Exact) Quantize(ElementType type, float[] x, int columns)
    {
        float[] scales = new float[x.Length / columns];
        if (type is ElementType.F32 or ElementType.F16 or ElementType.BF16)
            return (Encode(type, x), scales, [.. x.Select(value => (double)Round(type, value))]);
        byte[] codes = new byte[x.Length];
        double[] exact = new double[x.Length];
        for (int row = 0; row < scales.Length; row++)
        {
            scales[row] = x.AsSpan(row * columns, columns).ToArray().Max(MathF.Abs) / 127;
            for (int i = row * columns; i < (row + 1) * columns; i++)
            {
                if (type == ElementType.S8)
                {
                    sbyte code = (sbyte)Math.Clamp(MathF.Round(x[i] / scales[row]), -127, 127);
                    (codes[i], exact[i]) = ((byte)code, code * (double)scales[row]);
                    continue;
                }

                float[] levels = type == ElementType.E4M3 ? _e4m3 : _e5m2;
                int nearest = Array.IndexOf(levels, levels.MinBy(level => Math.Abs(level - Math.Abs(x[i]))));
                (codes[i], exact[i]) = ((byte)(nearest | (x[i] < 0 ? 0x80 : 0)), Math.CopySign(levels[nearest], x[i]));
            }
        }

        return (codes, scales, exact);
    }

    private static ushort BFloat16(float x)
    {
        uint bits = BitConverter.SingleToUInt32Bits(x);
        return (ushort)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }

    private static float Float8(int code, int mantissa, int bias)
    {
        int exponent = code >> mantissa, fraction = code & ((1 << mantissa) - 1);
        return exponent == 0 ? MathF.ScaleB(fraction, 1 - bias - mantissa) : MathF.ScaleB((1 << mantissa) + fraction, exponent - bias - mantissa);
    }
}
