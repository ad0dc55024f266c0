using System.Numerics.Tensors;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Backends.Cuda;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Cuda;

public sealed class DecodeGraphTests
{
    private const int Longest = 32, MaxSequences = 6;

    private static readonly SyntheticShape Shape = new("qwen2", Hidden: 128, Layers: 2, Heads: 2, KvHeads: 1, HeadDim: 64, Intermediate: 192, Tied: true, Vocabulary: 320, Context: 64);

    /// <summary>Steps of 3, 4, 5 and 1 sequences, padded to 4, 4, 8 and 1: each size runs once, is captured once, and replayed; what is replayed reads the step's own numbers.</summary>
    [Fact]
    public void DecodingSteps_AreCapturedOnceForEachSize_AndGiveTheCpusLogits()
    {
        using Checkpoint checkpoint = SyntheticCheckpoint.Create("decode", Shape, "bf16");
        using var cpu = new CpuBackend(1);
        using var gpu = new EmulatedBackend(checkpoint, MaxSequences, Longest, maxTokens: MaxSequences);
        using var expected = new Decoder(checkpoint, cpu);
        using var actual = new Decoder(checkpoint, gpu.Backend);
        int[] sizes = [3, 3, 3, 4, 3, 5, 5, 5, 1, 1, 1, 4], graphs = [0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3];
        for (int step = 0; step < sizes.Length; step++)
        {
            float[][] a = expected.Step(sizes[step], step), b = actual.Step(sizes[step], step);
            Assert.Equal(graphs[step], gpu.Backend.Graphs);
            for (int i = 0; i < a.Length; i++)
                Assert.InRange(TensorPrimitives.Distance<float>(a[i], b[i]) / TensorPrimitives.Norm<float>(a[i]), 0, 0.03);
        }
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 2)]
    [InlineData(3, 4)]
    [InlineData(5, 8)]
    [InlineData(8, 8)]
    [InlineData(9, 16)]
    [InlineData(33, 40)]
    public void Batches_ArePadded(int rows, int padded) => Assert.Equal(padded, CudaStep.Padded(rows));

    /// <summary>Sequences that get a token each in every step they're in.</summary>
    private sealed class Decoder : IDisposable
    {
        private readonly QwenModel _model;
        private readonly KvCache _cache;
        private readonly Batch _batch = new(MaxSequences, MaxSequences);
        private readonly BlockTable[] _tables;
        private readonly int[] _lengths = new int[MaxSequences];

        public Decoder(Checkpoint checkpoint, IBackend backend)
        {
            _model = new QwenModel(checkpoint, ModelConfig.Load(checkpoint), LayerPlacement.Whole(backend, Shape.Layers), MaxSequences, MaxSequences, Longest);
            _cache = _model.AllocateCache(KvCacheType.F16, MaxSequences * 2, 16);
            var pool = new BlockPool(MaxSequences * 2, 16);
            _tables = [.. Enumerable.Range(0, MaxSequences).Select(_ => new BlockTable(pool, Longest))];
        }

        /// <summary>A token for each of the last so many sequences.</summary>
        public float[][] Step(int count, int step)
        {
            _batch.Clear();
            for (int i = MaxSequences - count; i < MaxSequences; i++)
            {
                Assert.True(_tables[i].TryGrow(_lengths[i] + 1));
                _batch.Add([((i * 7) + (step * 13)) % Shape.Vocabulary], _lengths[i]++, _tables[i], wantLogits: true);
            }

            _model.Forward(_batch, _cache);
            return [.. Enumerable.Range(0, count).Select(row => _model.Logits(row).ToArray())];
        }

        public void Dispose()
        {
            foreach (BlockTable table in _tables)
                table.Dispose();
            _cache.Dispose();
            _model.Dispose();
            _batch.Dispose();
        }
    }
}
