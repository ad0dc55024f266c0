namespace Qwen.Emulation.Numbers;

/// <summary>The FP8 formats of arXiv 2209.05433.</summary>
internal sealed class Float8
{
    private readonly int _mantissa;
    private readonly int _bias;
    private readonly byte _largest;
    private readonly float[] _values = new float[256];

    private Float8(int mantissa, int bias, byte largest)
    {
        (_mantissa, _bias, _largest) = (mantissa, bias, largest);
        for (int code = 0; code < 256; code++)
        {
            int magnitude = code & 0x7f, exponent = magnitude >> mantissa, fraction = magnitude & ((1 << mantissa) - 1);
            double value = exponent == 0 ? fraction * Math.Pow(2, 1 - bias - mantissa) : (fraction + (1 << mantissa)) * Math.Pow(2, exponent - bias - mantissa);
            if (magnitude > largest)
                value = mantissa == 2 && fraction == 0 ? double.PositiveInfinity : double.NaN;
            _values[code] = (float)(code >= 128 ? -value : value);
        }
    }

    /// <summary>Largest value 448; no infinities.</summary>
    public static Float8 E4M3 { get; } = new(3, 7, 0x7e);

    /// <summary>Largest finite value 57344.</summary>
    public static Float8 E5M2 { get; } = new(2, 15, 0x7b);

    public ReadOnlySpan<float> Values => _values;

    /// <summary>The nearest code, ties to even, what is too large to the largest, NaN to 0x7f.</summary>
    public byte Encode(float value)
    {
        if (float.IsNaN(value))
            return 0x7f;
        uint bits = BitConverter.SingleToUInt32Bits(value);
        byte sign = (byte)(bits >> 24 & 0x80);
        double magnitude = Math.Abs((double)value);
        if (magnitude >= _values[_largest])
            return (byte)(sign | _largest);

        // In units of the last place of its binade, the nearest even integer; a carry runs into the exponent by itself.
        int exponent = Math.Max((int)(bits >> 23 & 0xff) - 127, 1 - _bias);
        int units = (int)Math.Round(magnitude * Math.Pow(2, _mantissa - exponent), MidpointRounding.ToEven);
        int code = ((exponent + _bias - 1) << _mantissa) + units;
        return (byte)(sign | code);
    }
}
