using System.Runtime.InteropServices;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Floats in memory types and back, plainly: the reference for what kernels load and store.</summary>
internal static class TypedValues
{
    /// <summary>The codes of an 8-bit float format that are numbers, in the order of their values, negative ones left out.</summary>
    private static readonly Dictionary<ElementType, float[]> _float8 = new()
    {
        [ElementType.E4M3] = [.. Enumerable.Range(0, 127).Select(code => Positive(code, 3, 7))],
        [ElementType.E5M2] = [.. Enumerable.Range(0, 124).Select(code => Positive(code, 2, 15))],
    };

    /// <summary>The value of a code.</summary>
    public static float Decode(ElementType type, uint bits) => type switch
    {
        ElementType.F32 => BitConverter.UInt32BitsToSingle(bits),
        ElementType.F16 => (float)BitConverter.UInt16BitsToHalf((ushort)bits),
        ElementType.BF16 => BitConverter.UInt32BitsToSingle(bits << 16),
        ElementType.S8 => (sbyte)bits,
        _ => ((bits & 0x80) != 0 ? -1 : 1) * ((bits & 0x7f) < _float8[type].Length ? _float8[type][bits & 0x7f] : type == ElementType.E5M2 && (bits & 0x7f) == 0x7c ? float.PositiveInfinity : float.NaN),
    };

    /// <summary>The code of a value: nearest, ties to even, saturated where the type is narrow.</summary>
    public static uint Encode(ElementType type, float value)
    {
        switch (type)
        {
            case ElementType.F32:
                return BitConverter.SingleToUInt32Bits(value);
            case ElementType.F16:
                return BitConverter.HalfToUInt16Bits((Half)Math.Clamp(value, -65504, 65504));
            case ElementType.BF16:
                uint bits = BitConverter.SingleToUInt32Bits(value);
                return float.IsNaN(value) ? 0x7fff : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
            case ElementType.S8:
                return (byte)(sbyte)Math.Clamp(MathF.Round(value, MidpointRounding.ToEven), -127, 127);
            default:
                if (float.IsNaN(value))
                    return 0x7f;
                float[] values = _float8[type];
                double size = Math.Min(Math.Abs(value), values[^1]);
                int code = Enumerable.Range(0, values.Length).MinBy(i => (Math.Abs(values[i] - size), i & 1));
                return (uint)code | (float.IsNegative(value) ? 0x80u : 0);
        }
    }

    /// <summary>As the type holds it.</summary>
    public static float Round(ElementType type, float value) => Decode(type, Encode(type, value));

    public static byte[] ToBytes(ElementType type, ReadOnlySpan<float> values)
    {
        byte[] bytes = new byte[values.Length * type.Bytes()];
        for (int i = 0; i < values.Length; i++)
        {
            uint code = Encode(type, values[i]);
            MemoryMarshal.AsBytes(new ReadOnlySpan<uint>(in code))[..type.Bytes()].CopyTo(bytes.AsSpan(i * type.Bytes()));
        }

        return bytes;
    }

    public static float[] FromBytes(ElementType type, ReadOnlySpan<byte> bytes)
    {
        float[] values = new float[bytes.Length / type.Bytes()];
        for (int i = 0; i < values.Length; i++)
        {
            uint code = 0;
            bytes.Slice(i * type.Bytes(), type.Bytes()).CopyTo(MemoryMarshal.AsBytes(new Span<uint>(ref code)));
            values[i] = Decode(type, code);
        }

        return values;
    }

    /// <summary>Half a unit in the last place of a value near 1, and a little for the arithmetic before.</summary>
    public static float Tolerance(ElementType type) => type switch
    {
        ElementType.F32 => 4e-6f,
        ElementType.F16 => 1f / 2048 * 1.02f,
        ElementType.BF16 => 1f / 256 * 1.01f,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
    };

    private static float Positive(int code, int mantissaBits, int bias)
    {
        int exponent = code >> mantissaBits, mantissa = code & ((1 << mantissaBits) - 1);
        return exponent == 0
            ? MathF.ScaleB(mantissa, 1 - bias - mantissaBits)
            : MathF.ScaleB((1 << mantissaBits) + mantissa, exponent - bias - mantissaBits);
    }
}
