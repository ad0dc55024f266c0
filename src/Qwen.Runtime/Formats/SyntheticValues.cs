using System.Runtime.InteropServices;

namespace Qwen.Runtime.Formats;

/// <summary>What a made-up tensor holds.</summary>
internal enum SyntheticContent
{
    Weights, Norm, Bias, Codes, AwqZeros, GptqInt4Zeros, GptqInt8Zeros, Int4Scales, Int8Scales, GroupIndex, Float8Codes, Float8Scales,
}

/// <summary>Fills tensors with random values of about the deviation that trained weights have.</summary>
internal static unsafe class SyntheticValues
{
    private const double Deviation = 0.03;
    private const double Int4Deviation = 4.6, Int8Deviation = 73.9; // of uniform codes
    private const float Float8Deviation = 100; // of normal ones: the largest of 256 stays below E4M3's 448
    private const int ChunkBlocks = 4096, GroupColumns = 128;

    private static readonly byte[] NormalFloat8 = MakeNormalFloat8();

    private delegate void FillChunk(long first, int count, ref SplitMix64 random);

    /// <summary>Fills a tensor, on all cores.</summary>
    public static void Fill(Tensor tensor, SyntheticContent content, ulong seed)
    {
        TensorType type = tensor.Type;
        byte* data = tensor.Data;
        FillChunk fill = content switch
        {
            // Norms are near one, biases near zero.
            SyntheticContent.Norm => (first, count, ref random) => Floats(type, data + (first * type.BlockBytes), count, 1, 0.1, ref random),
            SyntheticContent.Bias => (first, count, ref random) => Floats(type, data + (first * type.BlockBytes), count, 0, 0.1, ref random),
            SyntheticContent.Weights when type.BlockElements == 1 => (first, count, ref random) => Floats(type, data + (first * type.BlockBytes), count, 0, Deviation, ref random),
            SyntheticContent.Weights => (first, count, ref random) => Blocks(type, data + (first * type.BlockBytes), count, ref random),
            SyntheticContent.Codes => (first, count, ref random) => random.Fill(new Span<byte>(data + (first * sizeof(int)), count * sizeof(int))),
            SyntheticContent.AwqZeros => (first, count, ref random) => Words(data, first, count, ref random, (_, bits) => 0x66666666 + (bits & 0x33333333)), // 6 to 9
            SyntheticContent.GptqInt4Zeros => (first, count, ref random) => Words(data, first, count, ref random, (_, _) => 0x77777777), // the middle, 8, less the format's 1
            SyntheticContent.GptqInt8Zeros => (first, count, ref random) => Words(data, first, count, ref random, (_, _) => 0x7f7f7f7f),
            SyntheticContent.GroupIndex => (first, count, ref random) => Words(data, first, count, ref random, (index, _) => (uint)(index / GroupColumns)),
            SyntheticContent.Int4Scales => (first, count, ref random) => Scales(type, data, first, count, Deviation / Int4Deviation, ref random),
            SyntheticContent.Int8Scales => (first, count, ref random) => Scales(type, data, first, count, Deviation / Int8Deviation, ref random),
            SyntheticContent.Float8Scales => (first, count, ref random) => Scales(type, data, first, count, Deviation / Float8Deviation, ref random),
            _ => (first, count, ref random) => Float8Codes(data + first, count, ref random),
        };
        long blocks = tensor.ElementCount / type.BlockElements;
        Parallel.For(0, (blocks + ChunkBlocks - 1) / ChunkBlocks, chunk =>
        {
            long first = chunk * ChunkBlocks;
            var random = new SplitMix64(seed ^ ((ulong)chunk * 0xd1342543de82ef95));
            fill(first, (int)Math.Min(ChunkBlocks, blocks - first), ref random);
        });
    }

    private static void Floats(TensorType type, byte* data, int count, double center, double deviation, ref SplitMix64 random)
    {
        for (int i = 0; i < count; i++)
            WriteFloat(type, data, i, (float)center + ((float)deviation * random.NextNormal()));
    }

    /// <summary>Scales that vary by a quarter to either side.</summary>
    private static void Scales(TensorType type, byte* data, long first, int count, double scale, ref SplitMix64 random)
    {
        for (int i = 0; i < count; i++)
            WriteFloat(type, data, first + i, (float)(scale * (0.75 + (0.5 * (byte)random.Next() / 255))));
    }

    private static void WriteFloat(TensorType type, byte* data, long index, float value)
    {
        if (type == TensorType.F32)
            ((float*)data)[index] = value;
        else
            ((ushort*)data)[index] = type == TensorType.F16 ? BitConverter.HalfToUInt16Bits((Half)value) : (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
    }

    private static void Words(byte* data, long first, int count, ref SplitMix64 random, Func<long, uint, uint> word)
    {
        for (int i = 0; i < count; i++)
            ((uint*)data)[first + i] = word(first + i, (uint)random.Next());
    }

    private static void Float8Codes(byte* codes, int count, ref SplitMix64 random)
    {
        random.Fill(new Span<byte>(codes, count));
        for (int i = 0; i < count; i++)
            codes[i] = NormalFloat8[codes[i]];
    }

    /// <summary>256 codes whose values are spread as a normal distribution is: a random byte picks one.</summary>
    private static byte[] MakeNormalFloat8()
    {
        var random = new SplitMix64(8);
        var codes = new byte[256];
        for (int i = 0; i < codes.Length; i++)
        {
            float value = Float8Deviation * random.NextNormal();
            codes[i] = Enumerable.Range(0, 256).Select(c => (byte)c).Where(c => (c & 0x7f) != 0x7f).MinBy(c => Math.Abs(Float8.FromE4M3(c) - value));
        }

        return codes;
    }

    /// <summary>Random codes, which are uniform; the scales bring them to the deviation wanted.</summary>
    private static void Blocks(TensorType type, byte* blocks, int count, ref SplitMix64 random)
    {
        int bytes = type.BlockBytes;
        Span<byte> all = new(blocks, count * bytes);
        random.Fill(all);
        (int ScaleAt, double Scale, int MinimumAt, double Minimum) = type switch
        {
            TensorType.Q4_0 => (0, 1 / 4.6, -1, 0),
            TensorType.Q4_1 => (0, 1 / 4.6, 2, -7.5 / 4.6),
            TensorType.Q5_0 => (0, 1 / 9.2, -1, 0),
            TensorType.Q5_1 => (0, 1 / 9.2, 2, -15.5 / 9.2),
            TensorType.Q8_0 => (0, 1 / 73.0, -1, 0),
            TensorType.Q2_K => (80, 1 / (1.1 * 8.8), 82, 1.5 / (1.1 * 8.8)),
            TensorType.Q3_K => (108, 1 / (2.3 * 18), -1, 0),
            TensorType.Q4_K => (0, 1 / (4.6 * 36), 2, 7.5 / (4.6 * 36)),
            TensorType.Q5_K => (0, 1 / (9.2 * 36), 2, 15.5 / (9.2 * 36)),
            TensorType.Q6_K => (208, 1 / (18.5 * 73), -1, 0),
            TensorType.IQ4_NL => (0, 1 / 70.0, -1, 0),
            TensorType.IQ4_XS => (0, 1 / (70.0 * 18), -1, 0),
            _ => (0, 1 / 73.0, -1, 0), // Q8_K
        };
        for (int i = 0; i < count; i++)
        {
            Span<byte> block = all.Slice(i * bytes, bytes);
            if (type == TensorType.Q8_K)
                MemoryMarshal.Write(block, (float)(Deviation * Scale));
            else
                MemoryMarshal.Write(block[ScaleAt..], (Half)(Deviation * Scale));
            if (MinimumAt >= 0)
                MemoryMarshal.Write(block[MinimumAt..], (Half)(Deviation * Minimum));
        }
    }

    /// <summary>SplitMix64 (Steele, Lea and Flood, 2014): a counter and a mixer.</summary>
    private struct SplitMix64(ulong seed)
    {
        private ulong _state = seed;

        public ulong Next()
        {
            ulong z = _state += 0x9e3779b97f4a7c15;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
            z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
            return z ^ (z >> 31);
        }

        public void Fill(Span<byte> bytes)
        {
            Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes);
            for (int i = 0; i < words.Length; i++)
                words[i] = Next();
            foreach (ref byte b in bytes[(words.Length * 8)..])
                b = (byte)Next();
        }

        /// <summary>Close to normal, with deviation one: the sum of the four 16-bit words (Irwin and Hall).</summary>
        public float NextNormal()
        {
            ulong z = Next();
            int sum = (int)(z & 0xffff) + (int)((z >> 16) & 0xffff) + (int)((z >> 32) & 0xffff) + (int)(z >> 48);
            return (sum - 131070) * (1 / 37837f);
        }
    }
}
