using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Qwen.Cpu;

namespace Qwen.Runtime.Formats;

/// <summary>The sizes of a dense Qwen network.</summary>
/// <param name="Architecture">qwen2 (with biases) or qwen3 (with norms of query and key heads).</param>
/// <param name="Hidden">Width of the hidden state.</param>
/// <param name="Layers">Decoder layers.</param>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key and value heads.</param>
/// <param name="HeadDim">Width of a head.</param>
/// <param name="Intermediate">Width of the MLP.</param>
/// <param name="Tied">The output projection is the embedding.</param>
/// <param name="Vocabulary">Rows of the embedding.</param>
/// <param name="Context">Positions.</param>
public sealed record SyntheticShape(
    string Architecture, int Hidden, int Layers, int Heads, int KvHeads, int HeadDim, int Intermediate, bool Tied, int Vocabulary = 151936, int Context = 32768)
{
    /// <summary>The published models, by the name they have in <c>synthetic:</c>.</summary>
    public static IReadOnlyDictionary<string, SyntheticShape> Known { get; } = new Dictionary<string, SyntheticShape>(StringComparer.Ordinal)
    {
        ["qwen2.5-0.5b"] = new("qwen2", 896, 24, 14, 2, 64, 4864, true),
        ["qwen2.5-1.5b"] = new("qwen2", 1536, 28, 12, 2, 128, 8960, true),
        ["qwen2.5-3b"] = new("qwen2", 2048, 36, 16, 2, 128, 11008, true),
        ["qwen2.5-7b"] = new("qwen2", 3584, 28, 28, 4, 128, 18944, false, 152064),
        ["qwen2.5-14b"] = new("qwen2", 5120, 48, 40, 8, 128, 13824, false, 152064),
        ["qwen2.5-32b"] = new("qwen2", 5120, 64, 40, 8, 128, 27648, false, 152064),
        ["qwen2.5-72b"] = new("qwen2", 8192, 80, 64, 8, 128, 29568, false, 152064),
        ["qwen3-0.6b"] = new("qwen3", 1024, 28, 16, 8, 128, 3072, true, Context: 40960),
        ["qwen3-1.7b"] = new("qwen3", 2048, 28, 16, 8, 128, 6144, true, Context: 40960),
        ["qwen3-4b"] = new("qwen3", 2560, 36, 32, 8, 128, 9728, true, Context: 40960),
        ["qwen3-8b"] = new("qwen3", 4096, 36, 32, 8, 128, 12288, false, Context: 40960),
        ["qwen3-14b"] = new("qwen3", 5120, 40, 40, 8, 128, 17408, false, Context: 40960),
        ["qwen3-32b"] = new("qwen3", 5120, 64, 64, 8, 128, 25600, false, Context: 40960),
    };
}

/// <summary>Random weights of a real shape, made in memory: for benchmarks and tests where no weights can be had. The same seed gives the same weights.</summary>
public static unsafe class SyntheticCheckpoint
{
    /// <summary>What a model's name starts with.</summary>
    public const string Prefix = "synthetic:";

    private const double Deviation = 0.03; // of the weights, about what trained ones have
    private const int ChunkBlocks = 4096;

    private static readonly string[] Formats =
        ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k", "iq4_nl", "iq4_xs", "q4_k_m", "q5_k_m"];

    /// <summary>Makes <c>synthetic:shape[:format]</c>; the format is bf16 where none is given.</summary>
    /// <exception cref="ModelFormatException">An unknown shape or format; the message lists the known ones.</exception>
    public static Checkpoint Create(string specification, IProgress<double>? progress = null)
    {
        string[] parts = specification.Split(':');
        if (parts is not [_, _] and not [_, _, _] || parts[0] + ":" != Prefix)
            throw new ModelFormatException(specification, "is not of the form synthetic:shape[:format]");
        if (!SyntheticShape.Known.TryGetValue(parts[1], out SyntheticShape? shape))
            throw new ModelFormatException(specification, $"shape '{parts[1]}' is not known; known are {string.Join(", ", SyntheticShape.Known.Keys)}");
        return Create(specification, shape, parts.Length == 3 ? parts[2] : "bf16", 1, progress);
    }

    /// <summary>Makes weights of any shape.</summary>
    /// <param name="name">What the checkpoint is called.</param>
    /// <param name="shape">Its sizes.</param>
    /// <param name="format">A type of GGUF in lower case, or a mix: q4_k_m, q5_k_m.</param>
    /// <param name="seed">Which weights.</param>
    /// <param name="progress">The fraction made.</param>
    /// <exception cref="ModelFormatException">An unknown format.</exception>
    public static Checkpoint Create(string name, SyntheticShape shape, string format, ulong seed = 1, IProgress<double>? progress = null)
    {
        if (!Formats.Contains(format))
            throw new ModelFormatException(name, $"format '{format}' is not known; known are {string.Join(", ", Formats)}");
        (string Name, TensorType Type, long[] Shape)[] plan = [.. Plan(shape, format)];
        long total = plan.Sum(t => Align(Bytes(t.Type, t.Shape)));
        var memory = new NativeBuffer<byte>(total);
        try
        {
            var tensors = new List<Tensor>();
            long offset = 0;
            foreach ((string tensorName, TensorType type, long[] sizes) in plan)
            {
                var tensor = new Tensor(name, tensorName, type, ImmutableArray.Create(sizes), memory.Pointer + offset);
                Fill(tensor, seed + (ulong)tensors.Count * 0x9e3779b97f4a7c15);
                tensors.Add(tensor);
                offset += Align(tensor.ByteCount);
                progress?.Report((double)offset / total);
            }

            return new Checkpoint(name, tensors, Metadata(name, shape), [memory]);
        }
        catch
        {
            memory.Dispose();
            throw;
        }
    }

    private static long Align(long bytes) => (bytes + 63) & ~63L;

    private static long Bytes(TensorType type, long[] shape) => shape.Aggregate(1L, (a, b) => a * b) / type.BlockElements * type.BlockBytes;

    private static GgufMetadata Metadata(string name, SyntheticShape shape) => new(name, new Dictionary<string, object>
    {
        ["general.architecture"] = shape.Architecture,
        [$"{shape.Architecture}.block_count"] = (uint)shape.Layers,
        [$"{shape.Architecture}.context_length"] = (uint)shape.Context,
        [$"{shape.Architecture}.embedding_length"] = (uint)shape.Hidden,
        [$"{shape.Architecture}.feed_forward_length"] = (uint)shape.Intermediate,
        [$"{shape.Architecture}.attention.head_count"] = (uint)shape.Heads,
        [$"{shape.Architecture}.attention.head_count_kv"] = (uint)shape.KvHeads,
        [$"{shape.Architecture}.attention.key_length"] = (uint)shape.HeadDim,
        [$"{shape.Architecture}.attention.layer_norm_rms_epsilon"] = 1e-6f,
        [$"{shape.Architecture}.rope.freq_base"] = 1e6f,
    });

    private static IEnumerable<(string Name, TensorType Type, long[] Shape)> Plan(SyntheticShape s, string format)
    {
        long queries = (long)s.Heads * s.HeadDim, keys = (long)s.KvHeads * s.HeadDim;
        (string, TensorType, long[]) Matrix(string name, int layer, long outputs, long inputs) => (name, TypeOf(format, name, layer, s, inputs), [outputs, inputs]);
        (string, TensorType, long[]) Vector(string name, long length) => (name, TensorType.F32, [length]);

        yield return Matrix("token_embd.weight", 0, s.Vocabulary, s.Hidden);
        for (int i = 0; i < s.Layers; i++)
        {
            string p = $"blk.{i}.";
            yield return Vector(p + "attn_norm.weight", s.Hidden);
            yield return Matrix(p + "attn_q.weight", i, queries, s.Hidden);
            yield return Matrix(p + "attn_k.weight", i, keys, s.Hidden);
            yield return Matrix(p + "attn_v.weight", i, keys, s.Hidden);
            if (s.Architecture == "qwen2")
            {
                yield return Vector(p + "attn_q.bias", queries);
                yield return Vector(p + "attn_k.bias", keys);
                yield return Vector(p + "attn_v.bias", keys);
            }
            else
            {
                yield return Vector(p + "attn_q_norm.weight", s.HeadDim);
                yield return Vector(p + "attn_k_norm.weight", s.HeadDim);
            }

            yield return Matrix(p + "attn_output.weight", i, s.Hidden, queries);
            yield return Vector(p + "ffn_norm.weight", s.Hidden);
            yield return Matrix(p + "ffn_gate.weight", i, s.Intermediate, s.Hidden);
            yield return Matrix(p + "ffn_up.weight", i, s.Intermediate, s.Hidden);
            yield return Matrix(p + "ffn_down.weight", i, s.Hidden, s.Intermediate);
        }

        yield return Vector("output_norm.weight", s.Hidden);
        if (!s.Tied)
            yield return Matrix("output.weight", 0, s.Vocabulary, s.Hidden);
    }

    /// <summary>llama.cpp's mixes keep the output, and half of the values and down projections, in Q6_K; rows that are no multiple of 256 fall back to blocks of 32.</summary>
    private static TensorType TypeOf(string format, string name, int layer, SyntheticShape shape, long columns)
    {
        bool isMix = format.EndsWith("_m", StringComparison.Ordinal);
        TensorType type = Enum.Parse<TensorType>(isMix ? format[..^2] : format, ignoreCase: true);
        if (isMix)
        {
            int eighth = shape.Layers / 8;
            bool more = layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2;
            if (name == "output.weight" || (name == "token_embd.weight" && shape.Tied) || (more && (name.Contains("attn_v", StringComparison.Ordinal) || name.Contains("ffn_down", StringComparison.Ordinal))))
                type = TensorType.Q6_K;
        }

        if (columns % type.BlockElements == 0)
            return type;
        return type switch
        {
            TensorType.Q2_K or TensorType.Q3_K => TensorType.Q4_0,
            TensorType.Q4_K => TensorType.Q5_0,
            TensorType.IQ4_XS => TensorType.IQ4_NL,
            _ => TensorType.Q8_0,
        };
    }

    private static void Fill(Tensor tensor, ulong seed)
    {
        if (tensor.Shape.Length == 1)
        {
            // Norms are near one, biases near zero.
            float center = tensor.Name.EndsWith("norm.weight", StringComparison.Ordinal) ? 1 : 0;
            var random = new SplitMix64(seed);
            for (long i = 0; i < tensor.ElementCount; i++)
                ((float*)tensor.Data)[i] = center + (0.1f * random.NextNormal());
            return;
        }

        TensorType type = tensor.Type;
        long blocks = tensor.ElementCount / type.BlockElements;
        byte* data = tensor.Data;
        Parallel.For(0, (blocks + ChunkBlocks - 1) / ChunkBlocks, chunk =>
        {
            long first = chunk * ChunkBlocks;
            int count = (int)Math.Min(ChunkBlocks, blocks - first);
            var random = new SplitMix64(seed ^ ((ulong)chunk * 0xd1342543de82ef95));
            FillBlocks(type, data + (first * type.BlockBytes), count, ref random);
        });
    }

    private static void FillBlocks(TensorType type, byte* blocks, int count, ref SplitMix64 random)
    {
        if (type.BlockElements == 1)
        {
            for (int i = 0; i < count; i++)
            {
                float value = (float)Deviation * random.NextNormal();
                if (type == TensorType.F32)
                    ((float*)blocks)[i] = value;
                else
                    ((ushort*)blocks)[i] = type == TensorType.F16 ? BitConverter.HalfToUInt16Bits((Half)value) : (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
            }

            return;
        }

        // Random codes are uniform; the scales bring them to the deviation wanted.
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
