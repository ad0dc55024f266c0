using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Models;

/// <summary>The promise of the CPU backend: a sequence has the same bits alone or in any batch, read at once or in chunks, on any number of threads.</summary>
public sealed class BatchInvarianceTests
{
    private const int BlockSize = 16, MaxTokens = 160, Longest = 40;

    private static readonly string[] Formats =
    [
        "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k", "iq4_nl", "iq4_xs", "q4_k_m", "q5_k_m",
        "awq", "gptq", "gptq-int8", "fp8", "fp8-block",
    ];

    public static TheoryData<string, KvCacheType> Cases()
    {
        // Every format, and every type of the cache; not all pairs, as they share nothing.
        TheoryData<string, KvCacheType> cases = [];
        KvCacheType[] types = Enum.GetValues<KvCacheType>();
        for (int i = 0; i < Formats.Length; i++)
            cases.Add(Formats[i], types[i % types.Length]);
        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Logits_AreTheSameBits_InAnyBatch_ChunkingAndThreads(string format, KvCacheType cacheType)
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        var shape = new SyntheticShape(random.Next(2) == 0 ? "qwen2" : "qwen3", Hidden: 256, Layers: 2, Heads: 4, KvHeads: 2, HeadDim: 32, Intermediate: 512, Tied: random.Next(2) == 0, Vocabulary: 320, Context: 64);
        using Checkpoint checkpoint = SyntheticCheckpoint.Create($"{shape.Architecture}:{format}", shape, format, (ulong)seed);
        int[][] sequences = [.. Enumerable.Range(0, 33).Select(_ => Enumerable.Range(0, random.Next(1, Longest)).Select(_ => random.Next(shape.Vocabulary)).ToArray())];

        float[][] expected;
        using (var alone = new Runner(checkpoint, cacheType, threads: 1))
            expected = [.. sequences.Select(s => alone.Read([s], () => s.Length)[0])];
        for (int round = 0; round < 4; round++)
        {
            int threads = random.Next(1, 4), count = random.Next(2, 34), mostAtOnce = random.Next(1, Longest);
            int[] chosen = [.. Enumerable.Range(0, 33)];
            random.Shuffle(chosen);
            using var runner = new Runner(checkpoint, cacheType, threads);
            float[][] actual = runner.Read([.. chosen[..count].Select(i => sequences[i])], () => random.Next(1, mostAtOnce + 1));
            for (int i = 0; i < count; i++)
            {
                Assert.True(
                    expected[chosen[i]].AsSpan().SequenceEqual(actual[i]),
                    $"seed {seed}, round {round}: {format}, {cacheType}, {shape.Architecture}, {threads} threads, {count} sequences, chunks of up to {mostAtOnce}, sequence of {sequences[chosen[i]].Length} tokens");
            }
        }
    }

    /// <summary>A network with room for all sequences at once.</summary>
    private sealed class Runner : IDisposable
    {
        private readonly CpuBackend _backend;
        private readonly QwenModel _model;
        private readonly KvCache _cache;
        private readonly Batch _batch = new(MaxTokens, 33);

        public Runner(Checkpoint checkpoint, KvCacheType type, int threads)
        {
            _backend = new CpuBackend(threads);
            ModelConfig config = ModelConfig.Load(checkpoint);
            _model = new QwenModel(checkpoint, config, LayerPlacement.Whole(_backend, config.Layers), MaxTokens, 33, Longest);
            _cache = _model.AllocateCache(type, 33 * 4, BlockSize);
        }

        /// <summary>Reads all sequences side by side, each in chunks of the lengths given, and returns the logits after the last token of each.</summary>
        public float[][] Read(int[][] sequences, Func<int> chunk)
        {
            var pool = new BlockPool(33 * 4, BlockSize);
            BlockTable[] tables = [.. sequences.Select(_ => new BlockTable(pool, Longest))];
            int[] read = new int[sequences.Length], row = new int[sequences.Length];
            var logits = new float[sequences.Length][];
            while (logits.Contains(null))
            {
                _batch.Clear();
                for (int i = 0; i < sequences.Length; i++)
                {
                    int count = Math.Min(Math.Min(chunk(), sequences[i].Length - read[i]), MaxTokens - _batch.TokenCount);
                    row[i] = -1;
                    if (count == 0)
                        continue;
                    Assert.True(tables[i].TryGrow(read[i] + count));
                    row[i] = _batch.Add(sequences[i].AsSpan(read[i], count), read[i], tables[i], wantLogits: read[i] + count == sequences[i].Length);
                    read[i] += count;
                }

                _model.Forward(_batch, _cache);
                for (int i = 0; i < sequences.Length; i++)
                {
                    if (row[i] >= 0)
                        logits[i] = _model.Logits(row[i]).ToArray();
                }
            }

            foreach (BlockTable table in tables)
                table.Dispose();
            return logits;
        }

        public void Dispose()
        {
            _cache.Dispose();
            _model.Dispose();
            _backend.Dispose();
            _batch.Dispose();
        }
    }
}
