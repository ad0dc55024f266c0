namespace Qwen.Runtime.Formats;

/// <summary>The 8-bit floats of the OCP specification (OFP8, 2023), widened.</summary>
internal static class Float8
{
    /// <summary>E4M3 ("fn"): bias 7, no infinities, NaN where all of exponent and mantissa are ones.</summary>
    public static float FromE4M3(byte bits) => (bits & 0x7f) == 0x7f ? float.NaN : Widen(bits, exponentBits: 4, mantissaBits: 3, bias: 7);

    /// <summary>E5M2: bias 15, infinities and NaN as in IEEE 754; the upper byte of a binary16.</summary>
    public static float FromE5M2(byte bits) => (float)BitConverter.UInt16BitsToHalf((ushort)(bits << 8));

    private static float Widen(byte bits, int exponentBits, int mantissaBits, int bias)
    {
        int exponent = (bits >> mantissaBits) & ((1 << exponentBits) - 1), mantissa = bits & ((1 << mantissaBits) - 1);
        float magnitude = exponent == 0
            ? MathF.ScaleB(mantissa, 1 - bias - mantissaBits)
            : MathF.ScaleB(mantissa | (1 << mantissaBits), exponent - bias - mantissaBits);
        return bits >= 0x80 ? -magnitude : magnitude;
    }
}
