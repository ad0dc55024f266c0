namespace Qwen.Cpu.Tests;

public sealed unsafe class PagedAttentionTests
{
    /// <summary>Random caches, groups, block sizes, windows: close to a double-precision softmax over the stored keys and values.</summary>
    [Fact]
    public void Run_MatchesDoublePrecision()
    {
        for (int seed = 0; seed < 60; seed++)
        {
            using var test = new Case(new Random(seed));
            int tokens = test.Random.Next(1, 40), first = test.Context - tokens;
            if (first < 0)
                continue;
            float[] output = test.Run([(first, tokens)]);
            for (int t = 0; t < tokens; t++)
            {
                for (int head = 0; head < test.QueryHeads; head++)
                    test.CheckAgainstDouble(output.AsSpan(((t * test.QueryHeads) + head) * test.HeadDim, test.HeadDim), first + t, head, seed);
            }
        }
    }

    /// <summary>A query's bits do not depend on the chunk it comes in, its batch, or the number of threads.</summary>
    [Fact]
    public void Run_GivesTheSameBits_HoweverTheTokensAreCut()
    {
        for (int seed = 0; seed < 40; seed++)
        {
            using var test = new Case(new Random(seed), contextAtLeast: 150);
            float[] whole = test.Run([(0, test.Context)]);
            var cuts = new List<(int First, int Tokens)>();
            for (int first = 0; first < test.Context;)
            {
                int tokens = Math.Min(test.Random.Next(1, 60), test.Context - first);
                cuts.Add((first, tokens));
                first += tokens;
            }

            Assert.Equal(whole, test.Run([.. cuts])); // as one batch of many sequences over the same blocks
            float[] alone = [.. cuts.SelectMany(cut => test.Run([cut], threads: 1))];
            Assert.Equal(whole, alone);
        }
    }

    private sealed class Case : IDisposable
    {
        private readonly NativeBuffer<byte> _cache;
        private readonly NativeBuffer<float> _queries;
        private readonly NativeBuffer<int> _blocks;
        private readonly KvLayer _layer;
        private readonly float[] _keys, _values;
        private readonly int _window;

        public Case(Random random, int contextAtLeast = 1)
        {
            Random = random;
            HeadDim = new[] { 8, 32, 64, 72, 128 }[random.Next(5)];
            int kvHeads = random.Next(1, 4), blockSize = random.Next(1, 40);
            QueryHeads = kvHeads * random.Next(1, 5);
            Context = random.Next(contextAtLeast, 400);
            _window = random.Next(3) == 0 ? random.Next(1, Context + 10) : 0;
            var type = (KvType)random.Next(3);
            int blocks = ((Context + blockSize - 1) / blockSize) + 3;
            long half = (long)blocks * kvHeads * blockSize * HeadDim * KvLayer.ElementBytes(type);
            _cache = new NativeBuffer<byte>(2 * half);
            _layer = new KvLayer { Keys = _cache.Pointer, Values = _cache.Pointer + half, Type = type, BlockSize = blockSize, Heads = kvHeads, HeadDim = HeadDim };
            _blocks = new NativeBuffer<int>(blocks);
            int[] order = [.. Enumerable.Range(0, blocks)];
            random.Shuffle(order);
            order.CopyTo(_blocks.Span);

            _queries = TestData.Floats(random, (long)Context * QueryHeads * HeadDim, 2);
            using NativeBuffer<float> keys = TestData.Floats(random, (long)Context * kvHeads * HeadDim, 2), values = TestData.Floats(random, (long)Context * kvHeads * HeadDim);
            for (int p = 0; p < Context; p++)
                _layer.Write(keys.Pointer + ((long)p * kvHeads * HeadDim), values.Pointer + ((long)p * kvHeads * HeadDim), (_blocks.Pointer[p / blockSize] * blockSize) + (p % blockSize));
            _keys = [.. keys.Span.ToArray().Select(v => Stored(v, type))];
            _values = [.. values.Span.ToArray().Select(v => Stored(v, type))];
        }

        public Random Random { get; }

        public int HeadDim { get; }

        public int QueryHeads { get; }

        public int Context { get; }

        private float Scale => 1 / MathF.Sqrt(HeadDim);

        public float[] Run((int First, int Tokens)[] cuts, int threads = 3)
        {
            int width = QueryHeads * HeadDim, tokens = cuts.Sum(c => c.Tokens), row = 0;
            var sequences = new List<AttentionSequence>();
            using var queries = new NativeBuffer<float>((long)tokens * width);
            using var output = new NativeBuffer<float>((long)tokens * width);
            foreach ((int first, int count) in cuts)
            {
                sequences.Add(new AttentionSequence { FirstToken = row, Tokens = count, FirstPosition = first, Blocks = _blocks.Pointer });
                _queries.Span.Slice(first * width, count * width).CopyTo(queries.Span[(row * width)..]);
                row += count;
            }

            using var pool = new WorkerPool(threads);
            using var scratch = new NativeBuffer<byte>(PagedAttention.ScratchBytes(QueryHeads, _layer.Heads, HeadDim) * threads);
            PagedAttention.Run(pool, _layer, sequences.ToArray(), queries.Pointer, width, QueryHeads, Scale, _window, output.Pointer, width, scratch.Pointer);
            return output.Span.ToArray();
        }

        public void CheckAgainstDouble(ReadOnlySpan<float> actual, int position, int head, int seed)
        {
            int kvHeads = _layer.Heads, kvHead = head / (QueryHeads / kvHeads), begin = _window == 0 ? 0 : Math.Max(position - _window + 1, 0);
            var weights = new double[position + 1];
            double max = double.NegativeInfinity, sum = 0;
            for (int p = begin; p <= position; p++)
            {
                for (int i = 0; i < HeadDim; i++)
                    weights[p] += (double)_queries.Pointer[(((position * QueryHeads) + head) * HeadDim) + i] * _keys[(((p * kvHeads) + kvHead) * HeadDim) + i];
                weights[p] *= Scale;
                max = Math.Max(max, weights[p]);
            }

            for (int p = begin; p <= position; p++)
                sum += weights[p] = Math.Exp(weights[p] - max);
            for (int i = 0; i < HeadDim; i++)
            {
                double exact = 0;
                for (int p = begin; p <= position; p++)
                    exact += weights[p] / sum * _values[(((p * kvHeads) + kvHead) * HeadDim) + i];
                Assert.True(Math.Abs(exact - actual[i]) < 1e-5, $"seed {seed}, position {position}, head {head}, {i}: {exact} against {actual[i]}");
            }
        }

        public void Dispose()
        {
            _cache.Dispose();
            _queries.Dispose();
            _blocks.Dispose();
        }

        private static float Stored(float v, KvType type) => type switch
        {
            KvType.F16 => (float)(Half)v,
            KvType.BF16 => RoundedToBF16(v),
            _ => v,
        };

        private static float RoundedToBF16(float v)
        {
            uint bits = BitConverter.SingleToUInt32Bits(v);
            return BitConverter.UInt32BitsToSingle((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
        }
    }
}
