using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Models;

/// <summary>The promise of the CPU backend: a sequence has the same bits alone or in any batch, read at once or in chunks, on any number of threads.</summary>
public sealed class BatchInvarianceTests
{
    private const int Sequences = 33, Longest = 40;

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
        int[][] sequences = [.. Enumerable.Range(0, Sequences).Select(_ => Enumerable.Range(0, random.Next(1, Longest)).Select(_ => random.Next(shape.Vocabulary)).ToArray())];

        float[][] expected;
        using (var backend = new CpuBackend(1))
        using (var alone = new SideBySide(checkpoint, backend, cacheType, Sequences, Longest))
            expected = [.. sequences.Select(s => alone.Read([s], () => s.Length)[0])];
        for (int round = 0; round < 4; round++)
        {
            int threads = random.Next(1, 4), count = random.Next(2, Sequences + 1), mostAtOnce = random.Next(1, Longest);
            int[] chosen = [.. Enumerable.Range(0, Sequences)];
            random.Shuffle(chosen);
            using var backend = new CpuBackend(threads);
            using var together = new SideBySide(checkpoint, backend, cacheType, Sequences, Longest);
            float[][] actual = together.Read([.. chosen[..count].Select(i => sequences[i])], () => random.Next(1, mostAtOnce + 1));
            for (int i = 0; i < count; i++)
            {
                Assert.True(
                    expected[chosen[i]].AsSpan().SequenceEqual(actual[i]),
                    $"seed {seed}, round {round}: {format}, {cacheType}, {shape.Architecture}, {threads} threads, {count} sequences, chunks of up to {mostAtOnce}, sequence of {sequences[chosen[i]].Length} tokens");
            }
        }
    }
}
