using System.Buffers.Binary;

namespace Qwen.Runtime.Formats;

/// <summary>Reference dequantizers: plain code from the formats' definitions, against which the kernels are tested. Exact, not fast.</summary>
/// <remarks>
/// The quantized types are those of ggml (ggml-common.h describes the blocks). The K-types are super-blocks of 256 elements with
/// scales that are themselves quantized.
/// </remarks>
public static class Dequantizer
{
    private static ReadOnlySpan<sbyte> NonLinearLevels => [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

    private const float NoMinimum = -0f; // x + -0 is x for every x, -0 included

    private delegate void Block(ReadOnlySpan<byte> block, Span<float> values);

    /// <summary>Writes the values of whole blocks.</summary>
    /// <param name="type">How they are stored.</param>
    /// <param name="blocks">A whole number of blocks.</param>
    /// <param name="values">As many values as the blocks hold.</param>
    /// <exception cref="ArgumentException">The lengths do not fit.</exception>
    public static void Dequantize(TensorType type, ReadOnlySpan<byte> blocks, Span<float> values)
    {
        int elements = type.BlockElements, bytes = type.BlockBytes;
        if (blocks.Length % bytes != 0 || blocks.Length / bytes * (long)elements != values.Length)
            throw new ArgumentException($"{blocks.Length} bytes of {type} are not {values.Length} values.", nameof(values));
        Block one = Of(type);
        for (int i = 0; i < blocks.Length / bytes; i++)
            one(blocks.Slice(i * bytes, bytes), values.Slice(i * elements, elements));
    }

    private static Block Of(TensorType type) => type switch
    {
        TensorType.F32 => (b, v) => v[0] = BinaryPrimitives.ReadSingleLittleEndian(b),
        TensorType.F16 => (b, v) => v[0] = Half16(b),
        TensorType.BF16 => (b, v) => v[0] = BitConverter.UInt32BitsToSingle((uint)BinaryPrimitives.ReadUInt16LittleEndian(b) << 16),
        TensorType.F64 => (b, v) => v[0] = (float)BinaryPrimitives.ReadDoubleLittleEndian(b),
        TensorType.F8_E4M3 => (b, v) => v[0] = Float8.FromE4M3(b[0]),
        TensorType.F8_E5M2 => (b, v) => v[0] = Float8.FromE5M2(b[0]),
        TensorType.I8 => (b, v) => v[0] = (sbyte)b[0],
        TensorType.U8 => (b, v) => v[0] = b[0],
        TensorType.I16 => (b, v) => v[0] = BinaryPrimitives.ReadInt16LittleEndian(b),
        TensorType.I32 => (b, v) => v[0] = BinaryPrimitives.ReadInt32LittleEndian(b),
        TensorType.I64 => (b, v) => v[0] = BinaryPrimitives.ReadInt64LittleEndian(b),
        TensorType.Q4_0 => (b, v) => Nibbles(b[2..], Half16(b), -8, NoMinimum, v),
        TensorType.Q4_1 => (b, v) => Nibbles(b[4..], Half16(b), 0, Half16(b[2..]), v),
        TensorType.Q5_0 => (b, v) => FiveBits(b[2..], b[6..], Half16(b), -16, NoMinimum, v),
        TensorType.Q5_1 => (b, v) => FiveBits(b[4..], b[8..], Half16(b), 0, Half16(b[2..]), v),
        TensorType.Q8_0 => (b, v) => Bytes(b[2..], Half16(b), v),
        TensorType.Q2_K => Q2K,
        TensorType.Q3_K => Q3K,
        TensorType.Q4_K => Q4K,
        TensorType.Q5_K => Q5K,
        TensorType.Q6_K => Q6K,
        TensorType.Q8_K => (b, v) => Bytes(b[4..], BinaryPrimitives.ReadSingleLittleEndian(b), v),
        TensorType.IQ4_NL => (b, v) => Levels(b[2..], Half16(b), v),
        TensorType.IQ4_XS => IQ4XS,
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, "is not known."),
    };

    private static float Half16(ReadOnlySpan<byte> b) => (float)BinaryPrimitives.ReadHalfLittleEndian(b);

    // 32 elements in 16 bytes: the first 16 in the low nibbles, the others in the high ones.
    private static void Nibbles(ReadOnlySpan<byte> codes, float scale, int offset, float minimum, Span<float> v)
    {
        for (int i = 0; i < 16; i++)
        {
            v[i] = (((codes[i] & 15) + offset) * scale) + minimum;
            v[i + 16] = (((codes[i] >> 4) + offset) * scale) + minimum;
        }
    }

    // As above, with the fifth bit of element i in bit i of a 32-bit word.
    private static void FiveBits(ReadOnlySpan<byte> high, ReadOnlySpan<byte> codes, float scale, int offset, float minimum, Span<float> v)
    {
        uint bits = BinaryPrimitives.ReadUInt32LittleEndian(high);
        for (int i = 0; i < 32; i++)
        {
            int low = i < 16 ? codes[i] & 15 : codes[i - 16] >> 4;
            v[i] = (((low | (int)((bits >> i) & 1) << 4) + offset) * scale) + minimum;
        }
    }

    private static void Bytes(ReadOnlySpan<byte> codes, float scale, Span<float> v)
    {
        for (int i = 0; i < v.Length; i++)
            v[i] = (sbyte)codes[i] * scale;
    }

    private static void Levels(ReadOnlySpan<byte> codes, float scale, Span<float> v)
    {
        for (int i = 0; i < 16; i++)
        {
            v[i] = scale * NonLinearLevels[codes[i] & 15];
            v[i + 16] = scale * NonLinearLevels[codes[i] >> 4];
        }
    }

    // scales[16] (scale | minimum << 4), codes[64], F16 scale, F16 minimum. Element e of half h: bits 2 * (e / 32) of byte 32 h + e % 32.
    private static void Q2K(ReadOnlySpan<byte> b, Span<float> v)
    {
        float d = Half16(b[80..]), dmin = Half16(b[82..]);
        for (int i = 0; i < 256; i++)
        {
            byte scale = b[i / 16];
            int code = (b[16 + (i / 128 * 32) + (i % 32)] >> (i % 128 / 32 * 2)) & 3;
            v[i] = (d * (scale & 15) * code) - (dmin * (scale >> 4));
        }
    }

    // high[32] (bit i / 32 of byte i % 32), codes[64] as in Q2_K, 16 scales of 6 bits in 12 bytes, F16 scale.
    private static void Q3K(ReadOnlySpan<byte> b, Span<float> v)
    {
        float d = Half16(b[108..]);
        ReadOnlySpan<byte> scales = b.Slice(96, 12);
        for (int i = 0; i < 256; i++)
        {
            int s = i / 16;
            int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4, high = (scales[8 + (s % 4)] >> (s / 4 * 2)) & 3;
            int code = ((b[32 + (i / 128 * 32) + (i % 32)] >> (i % 128 / 32 * 2)) & 3) - (((b[i % 32] >> (i / 32)) & 1) == 1 ? 0 : 4);
            v[i] = d * ((low | (high << 4)) - 32) * code;
        }
    }

    // F16 scale, F16 minimum, 8 pairs of 6 bits in 12 bytes, codes[128]. Pairs of sub-blocks share 32 bytes: low nibbles, high nibbles.
    private static void Q4K(ReadOnlySpan<byte> b, Span<float> v)
    {
        for (int i = 0; i < 256; i++)
            v[i] = WithMinimum(b, i / 32, Nibble(b[16..], i));
    }

    // As Q4_K, with the fifth bits, bit i / 32 of byte i % 32, between scales and codes.
    private static void Q5K(ReadOnlySpan<byte> b, Span<float> v)
    {
        for (int i = 0; i < 256; i++)
            v[i] = WithMinimum(b, i / 32, Nibble(b[48..], i) | ((b[16 + (i % 32)] >> (i / 32)) & 1) << 4);
    }

    private static int Nibble(ReadOnlySpan<byte> codes, int i) => (codes[(i / 64 * 32) + (i % 32)] >> (i % 64 / 32 * 4)) & 15;

    private static float WithMinimum(ReadOnlySpan<byte> b, int sub, int code)
    {
        ReadOnlySpan<byte> packed = b.Slice(4, 12);
        int scale = sub < 4 ? packed[sub] & 63 : (packed[sub + 4] & 15) | (packed[sub - 4] >> 6 << 4);
        int minimum = sub < 4 ? packed[sub + 4] & 63 : (packed[sub + 4] >> 4) | (packed[sub] >> 6 << 4);
        return (Half16(b) * scale * code) - (Half16(b[2..]) * minimum);
    }

    // low[128], high[64], 16 scales of 8 bits, F16 scale. Of each 128: low nibbles of 64 bytes, then high ones; high bits two at a time.
    private static void Q6K(ReadOnlySpan<byte> b, Span<float> v)
    {
        float d = Half16(b[208..]);
        for (int i = 0; i < 256; i++)
        {
            int half = i / 128, e = i % 128;
            int low = (b[(half * 64) + (e % 64)] >> (e / 64 * 4)) & 15, high = (b[128 + (half * 32) + (e % 32)] >> (e / 32 * 2)) & 3;
            v[i] = d * (sbyte)b[192 + (i / 16)] * ((low | (high << 4)) - 32);
        }
    }

    // F16 scale, 8 pairs of high scale bits in 16 bits, 8 low scale nibbles, codes[128]: blocks of 16 bytes as in IQ4_NL.
    private static void IQ4XS(ReadOnlySpan<byte> b, Span<float> v)
    {
        int high = BinaryPrimitives.ReadUInt16LittleEndian(b[2..]);
        for (int s = 0; s < 8; s++)
        {
            int scale = ((b[4 + (s / 2)] >> (s % 2 * 4)) & 15) | (((high >> (2 * s)) & 3) << 4);
            Levels(b.Slice(8 + (s * 16), 16), Half16(b) * (scale - 32), v.Slice(s * 32, 32));
        }
    }
}
