using Qwen.Native.Device;

namespace Qwen.DeviceCheck;

/// <summary>Random values of every element type, as bytes and as the numbers they stand for.</summary>
internal static class SmallFloats
{
    /// <summary>Values of both signs and of a few binades, none of them special.</summary>
    public static (byte[] Bytes, double[] Values) Random(Random random, ElementType type, int count)
    {
        int size = type.Bytes();
        var bytes = new byte[(long)count * size];
        var values = new double[count];
        for (int i = 0; i < count; i++)
        {
            float value = (random.NextSingle() * 4) - 2;
            uint bits = type switch
            {
                ElementType.F32 => BitConverter.SingleToUInt32Bits(value),
                ElementType.BF16 => BitConverter.SingleToUInt32Bits(value) >> 16,
                ElementType.F16 => BitConverter.HalfToUInt16Bits((Half)value),
                ElementType.E4M3 => (uint)((random.Next(2) << 7) | random.Next(0x20, 0x40)), // 2^-3 to 1.875
                ElementType.E5M2 => (uint)((random.Next(2) << 7) | random.Next(0x30, 0x40)), // 2^-3 to 1.75
                _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
            };
            for (int b = 0; b < size; b++)
                bytes[(i * size) + b] = (byte)(bits >> (8 * b));
            values[i] = Decode(type, bits);
        }

        return (bytes, values);
    }

    /// <summary>The values that bytes stand for.</summary>
    public static double[] Decode(ElementType type, ReadOnlySpan<byte> bytes)
    {
        int size = type.Bytes();
        var values = new double[bytes.Length / size];
        for (int i = 0; i < values.Length; i++)
        {
            uint bits = 0;
            for (int b = 0; b < size; b++)
                bits |= (uint)bytes[(i * size) + b] << (8 * b);
            values[i] = Decode(type, bits);
        }

        return values;
    }

    private static double Decode(ElementType type, uint bits) => type switch
    {
        ElementType.F32 => BitConverter.UInt32BitsToSingle(bits),
        ElementType.BF16 => BitConverter.UInt32BitsToSingle(bits << 16),
        ElementType.F16 => (double)BitConverter.UInt16BitsToHalf((ushort)bits),
        ElementType.E5M2 => (double)BitConverter.UInt16BitsToHalf((ushort)(bits << 8)), // the upper byte of a half
        ElementType.E4M3 => DecodeE4M3(bits),
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
    };

    private static double DecodeE4M3(uint bits)
    {
        int exponent = (int)(bits >> 3) & 15, mantissa = (int)bits & 7;
        double magnitude = exponent == 0 ? Math.ScaleB(mantissa, -9) : exponent == 15 && mantissa == 7 ? double.NaN : Math.ScaleB(8 + mantissa, exponent - 10);
        return (bits & 0x80) != 0 ? -magnitude : magnitude;
    }
}
