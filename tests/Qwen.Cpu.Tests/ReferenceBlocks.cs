using System.Buffers.Binary;

namespace Qwen.Cpu.Tests;

/// <summary>
/// The block layouts of GGUF, and the engine's own of groups, read one element at a time: what the kernels are held against. GGUF's are held
/// against the goldens themselves.
/// </summary>
internal static class ReferenceBlocks
{
    private static readonly int[] NonLinear = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

    public static readonly WeightType[] Types =
    [
        WeightType.Q4_0, WeightType.Q4_1, WeightType.Q5_0, WeightType.Q5_1, WeightType.Q8_0, WeightType.Q2_K, WeightType.Q3_K,
        WeightType.Q4_K, WeightType.Q5_K, WeightType.Q6_K, WeightType.Q8_K, WeightType.IQ4_NL, WeightType.IQ4_XS,
        WeightType.Int4G32, WeightType.Int4G64, WeightType.Int4G128, WeightType.Int8G32, WeightType.Int8G64, WeightType.Int8G128,
    ];

    /// <summary>One column: value = Scale * Code + Bias. Bias is null where the format has none.</summary>
    public readonly record struct Weight(int Code, float Scale, float? Bias)
    {
        public float Value => Bias is float bias ? (float)(Scale * Code) + bias : Scale * Code;
    }

    public static (int Columns, int Bytes, int SubBlock) Layout(WeightType type) => type switch
    {
        WeightType.Q4_0 or WeightType.IQ4_NL => (32, 18, 32),
        WeightType.Q4_1 => (32, 20, 32),
        WeightType.Q5_0 => (32, 22, 32),
        WeightType.Q5_1 => (32, 24, 32),
        WeightType.Q8_0 => (32, 34, 32),
        WeightType.Q2_K => (256, 84, 16),
        WeightType.Q3_K => (256, 110, 16),
        WeightType.Q4_K => (256, 144, 32),
        WeightType.Q5_K => (256, 176, 32),
        WeightType.Q6_K => (256, 210, 16),
        WeightType.Q8_K => (256, 292, 32),
        WeightType.IQ4_XS => (256, 136, 32),
        WeightType.Int4G32 => (32, 20, 32),
        WeightType.Int4G64 => (64, 36, 32),
        WeightType.Int4G128 => (128, 68, 32),
        WeightType.Int8G32 => (32, 36, 32),
        WeightType.Int8G64 => (64, 68, 32),
        WeightType.Int8G128 => (128, 132, 32),
        _ => throw new ArgumentOutOfRangeException(nameof(type)),
    };

    /// <summary>Where a block keeps its binary16 scales (Q8_K has a binary32 instead).</summary>
    public static int[] HalfOffsets(WeightType type) => type switch
    {
        WeightType.Q4_1 or WeightType.Q5_1 or WeightType.Q4_K or WeightType.Q5_K => [0, 2],
        WeightType.Q2_K => [80, 82],
        WeightType.Q3_K => [108],
        WeightType.Q6_K => [208],
        WeightType.Q8_K => [],
        _ => [0],
    };

    /// <summary>Random rows with scales of about 0.01, of both signs, some zero.</summary>
    public static byte[] Random(WeightType type, int rows, int columns, Random random)
    {
        (int blockColumns, int blockBytes, _) = Layout(type);
        byte[] bytes = new byte[rows * (columns / blockColumns) * blockBytes];
        random.NextBytes(bytes);
        for (int block = 0; block < bytes.Length; block += blockBytes)
        {
            foreach (int offset in HalfOffsets(type))
                BinaryPrimitives.WriteHalfLittleEndian(bytes.AsSpan(block + offset), (Half)Scale());
            if (type == WeightType.Q8_K)
                BinaryPrimitives.WriteSingleLittleEndian(bytes.AsSpan(block), Scale());
            if (type >= WeightType.Int4G32)
                BinaryPrimitives.WriteInt16LittleEndian(bytes.AsSpan(block + 2), (short)random.Next(257));
        }

        return bytes;

        float Scale() => random.Next(16) == 0 ? 0f : (random.NextSingle() - 0.4f) * 0.02f;
    }

    /// <summary>The columns of one block.</summary>
    public static Weight[] Block(WeightType type, ReadOnlySpan<byte> block)
    {
        Weight[] weights = new Weight[Layout(type).Columns];
        for (int k = 0; k < weights.Length; k++)
            weights[k] = Column(type, block, k);
        return weights;
    }

    private static Weight Column(WeightType type, ReadOnlySpan<byte> b, int k)
    {
        switch (type)
        {
            case WeightType.Q4_0: return new(Nibble(b[2..], k) - 8, F16(b), null);
            case WeightType.Q4_1: return new(Nibble(b[4..], k), F16(b), F16(b[2..]));
            case WeightType.Q5_0: return new((Nibble(b[6..], k) | (Bit(b[2..], k) << 4)) - 16, F16(b), null);
            case WeightType.Q5_1: return new(Nibble(b[8..], k) | (Bit(b[4..], k) << 4), F16(b), F16(b[2..]));
            case WeightType.Q8_0: return new((sbyte)b[2 + k], F16(b), null);
            case WeightType.Q8_K: return new((sbyte)b[4 + k], BinaryPrimitives.ReadSingleLittleEndian(b), null);
            case WeightType.IQ4_NL: return new(NonLinear[Nibble(b[2..], k)], F16(b), null);
            case WeightType.Int4G32: return Group(Nibble(b[4..], k), b);
            case WeightType.Int4G64 or WeightType.Int4G128: return Group((b[4 + (k / 64 * 32) + (k % 32)] >> (k % 64 / 32 * 4)) & 15, b);
            case WeightType.Int8G32 or WeightType.Int8G64 or WeightType.Int8G128: return Group(b[4 + k], b);
            case WeightType.IQ4_XS:
            {
                int group = k / 32;
                int low = (b[4 + (group / 2)] >> (4 * (group % 2))) & 15;
                int high = (BinaryPrimitives.ReadUInt16LittleEndian(b[2..]) >> (2 * group)) & 3;
                return new(NonLinear[Nibble(b[(8 + (16 * group))..], k % 32)], F16(b) * ((low | (high << 4)) - 32), null);
            }

            case WeightType.Q2_K:
            {
                int half = k / 128, plane = k % 128 / 32, packed = b[k / 16];
                int code = (b[16 + (32 * half) + (k % 32)] >> (2 * plane)) & 3;
                return new(code, F16(b[80..]) * (packed & 15), -(F16(b[82..]) * (packed >> 4)));
            }

            case WeightType.Q3_K:
            {
                int half = k / 128, plane = k % 128 / 32, sub = k / 16;
                int code = (b[32 + (32 * half) + (k % 32)] >> (2 * plane)) & 3;
                int third = (b[k % 32] >> (k / 32)) & 1;
                int low = sub < 8 ? b[96 + sub] & 15 : b[96 + sub - 8] >> 4;
                int high = (b[104 + (sub % 4)] >> (2 * (sub / 4))) & 3;
                return new(code + (4 * third) - 4, F16(b[108..]) * ((low | (high << 4)) - 32), null);
            }

            case WeightType.Q4_K or WeightType.Q5_K:
            {
                int group = k / 32;
                (int scale, int minimum) = group < 4
                    ? (b[4 + group] & 63, b[8 + group] & 63)
                    : ((b[8 + group] & 15) | (b[group] >> 6 << 4), (b[8 + group] >> 4) | (b[4 + group] >> 6 << 4));
                int nibbles = type == WeightType.Q4_K ? 16 : 48;
                int code = (b[nibbles + (group / 2 * 32) + (k % 32)] >> (4 * (group % 2))) & 15;
                if (type == WeightType.Q5_K)
                    code |= ((b[16 + (k % 32)] >> group) & 1) << 4;
                return new(code, F16(b) * scale, -(F16(b[2..]) * minimum));
            }

            case WeightType.Q6_K:
            {
                int half = k / 128, plane = k % 128 / 32;
                int low = (b[(64 * half) + (32 * (plane % 2)) + (k % 32)] >> (4 * (plane / 2))) & 15;
                int high = (b[128 + (32 * half) + (k % 32)] >> (2 * plane)) & 3;
                return new((low | (high << 4)) - 32, F16(b[208..]) * (sbyte)b[192 + (k / 16)], null);
            }

            default: throw new ArgumentOutOfRangeException(nameof(type));
        }
    }

    private static Weight Group(int code, ReadOnlySpan<byte> b) => new(code, F16(b), -(F16(b) * BinaryPrimitives.ReadInt16LittleEndian(b[2..])));

    private static int Nibble(ReadOnlySpan<byte> bytes, int k) => k < 16 ? bytes[k] & 15 : bytes[k - 16] >> 4;

    private static int Bit(ReadOnlySpan<byte> bytes, int k) => (bytes[k / 8] >> (k % 8)) & 1;

    private static float F16(ReadOnlySpan<byte> bytes) => (float)BinaryPrimitives.ReadHalfLittleEndian(bytes);
}
