namespace Qwen.Cpu.Tests;

public sealed unsafe class PagedAttentionTests
{
    public static TheoryData<Isa, KvType> Kernels()
    {
        TheoryData<Isa, KvType> data = [];
        foreach (Isa isa in Enum.GetValues<Isa>())
        {
            foreach (KvType type in Enum.GetValues<KvType>())
                data.Add(isa, type);
        }

        return data;
    }

    [SkippableTheory]
    [MemberData(nameof(Kernels))]
    public void Run_EqualsTheCanonicalOrder_BitForBit_ForAnyShape(Isa isa, KvType type)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);
        foreach ((int headDim, int kvHeads, int group) in (ReadOnlySpan<(int, int, int)>)[(32, 2, 2), (64, 1, 7), (128, 2, 1), (8, 1, 5), (24, 1, 3), (72, 1, 6), (256, 1, 2), (48, 1, 14), (16, 1, 100)])
        {
            Cache cache = new(
                type, random.Next(1, 3) == 1 ? 16 : random.Next(1, 40), kvHeads, headDim, sequences: 3, positions: 700, random, hasBias: type.IsQuantized && random.Next(3) != 0);
            (int First, int Tokens)[] batch = [(random.Next(600), 1), (random.Next(500), random.Next(2, 40)), (0, random.Next(1, 30))];
            int window = random.Next(3) == 0 ? random.Next(1, 300) : 0;
            float[] q = Cache.RandomFloats(batch.Sum(s => s.Tokens) * kvHeads * group * headDim, random);
            float[] actual = cache.Attend(isa, q, batch, group, window, threads: random.Next(1, 4), partialBytes: random.Next(2) * 100_000);

            int row = 0;
            for (int s = 0; s < batch.Length; s++)
            {
                for (int t = 0; t < batch[s].Tokens; t++, row++)
                {
                    // The first, the last and some of the others: the reference is slow.
                    if (t != 0 && t != batch[s].Tokens - 1 && random.Next(4) != 0)
                        continue;
                    for (int h = 0; h < kvHeads * group; h++)
                    {
                        int at = ((row * kvHeads * group) + h) * headDim;
                        float[] expected = cache.Reference(s, h / group, batch[s].First + t, q.AsSpan(at, headDim), window);
                        Assert.True(
                            expected.AsSpan().SequenceEqual(actual.AsSpan(at, headDim)),
                            $"seed {seed}: headDim {headDim}, {kvHeads} x {group} heads, block {cache.BlockSize}, window {window}, position {batch[s].First + t}, head {h}");
                    }
                }
            }
        }
    }

    [Theory]
    [InlineData(KvType.F16)]
    [InlineData(KvType.BF16)]
    [InlineData(KvType.F32)]
    [InlineData(KvType.Int8)]
    [InlineData(KvType.F8_E4M3)]
    [InlineData(KvType.F8_E5M2)]
    public void Run_GivesTheSameBits_AloneOrInABatch_WholeOrInChunks_OnAnyThreads(KvType type)
    {
        int seed = Environment.TickCount;
        Random random = new(seed);
        const int Group = 4, HeadDim = 64, Heads = 2, Tokens = 300, First = 1400;
        Cache small = new(type, 16, Heads, HeadDim, 2, First + Tokens, random, hasBias: type.IsQuantized);
        Cache large = small.WithBlockSize(37, random);
        float[] q = Cache.RandomFloats(2 * Tokens * Heads * Group * HeadDim, random);
        float[] whole = small.Attend(Isa.Avx512, q, [(First, Tokens), (First, Tokens)], Group, 0, threads: 1, partialBytes: 0);
        Assert.Equal(whole, large.Attend(Isa.Avx512, q, [(First, Tokens), (First, Tokens)], Group, 0, threads: 3, partialBytes: 16 << 20));

        int width = Heads * Group * HeadDim;
        for (int t = 0; t < Tokens;)
        {
            int chunk = Math.Min(random.Next(3) == 0 ? 1 : random.Next(1, 120), Tokens - t);
            float[] part = large.Attend(Isa.Avx512, q[(t * width)..((t + chunk) * width)], [(First + t, chunk)], Group, 0, threads: 2, partialBytes: 16 << 20);
            Assert.True(whole.AsSpan(t * width, chunk * width).SequenceEqual(part), $"seed {seed}: tokens {t}..{t + chunk}");
            t += chunk;
        }
    }

    [Theory]
    [InlineData(KvType.Int8, 0.02)]
    [InlineData(KvType.F8_E4M3, 0.05)]
    [InlineData(KvType.F8_E5M2, 0.1)]
    public void Run_WithAHugeKeyBias_StaysAccurate_WherePlainQuantizationDoesNot(KvType type, double tolerance)
    {
        // As in Qwen2.5: a norm of some 750, nearly all of it in a few channels that turn slowly.
        const int HeadDim = 64, Heads = 2, Group = 4, Positions = 1500;
        int seed = Environment.TickCount;
        Random random = new(seed);
        float[] bias = Cache.RandomFloats(Heads * HeadDim, random);
        foreach (int channel in (ReadOnlySpan<int>)[26, 30, 58, 63])
        {
            for (int h = 0; h < Heads; h++)
                bias[(h * HeadDim) + channel] = (random.Next(2) == 0 ? -1 : 1) * (350 + random.Next(50));
        }

        Assert.InRange(Math.Sqrt(bias.AsSpan(0, HeadDim).ToArray().Sum(b => (double)b * b)), 600, 900);
        float[] values = Cache.RandomFloats(Positions * Heads * HeadDim, random), keys = Cache.RandomFloats(values.Length, random);
        float[] biased = [.. keys];
        for (int p = 0; p < Positions; p++)
        {
            for (int h = 0; h < Heads; h++)
                KeyBiases.AddRotated(bias.AsSpan(h * HeadDim, HeadDim), p, Cache.Magnitude, biased.AsSpan(((p * Heads) + h) * HeadDim, HeadDim));
        }

        float[] q = Cache.RandomFloats(Heads * Group * HeadDim, random, v => v * 0.5f);
        float[] exact = Attend(KvType.F32, biased, null);
        double ours = Error(Attend(type, keys, bias)), plain = Error(Attend(type, biased, null)), unbiased = Error(Attend(type, keys, null), Attend(KvType.F32, keys, null));
        Assert.True(ours < tolerance && ours < 3 * unbiased && plain > 5 * ours, $"seed {seed}: {type}: {ours:E2} with the bias apart, {plain:E2} with it in the keys, {unbiased:E2} without any");

        float[] Attend(KvType kvType, float[] k, float[]? b) =>
            new Cache(kvType, 16, Heads, HeadDim, Positions, random, [k], [values], b).Attend(Isa.Avx512, q, [(Positions - 1, 1)], Group, 0, threads: 1, partialBytes: 0);

        double Error(float[] actual, float[]? expected = null)
        {
            double error = actual.Zip(expected ?? exact, (a, e) => Math.Pow(a - e, 2)).Sum(), size = (expected ?? exact).Sum(e => Math.Pow(e, 2));
            return Math.Sqrt(error / size);
        }
    }

    [Theory]
    [InlineData(KvType.Int8)]
    [InlineData(KvType.F8_E4M3)]
    [InlineData(KvType.F8_E5M2)]
    public void Write_ShowsWhatIsNotFinite_AndStoresNothingsAsZeros(KvType type)
    {
        Random random = new(5);
        foreach (float bad in (ReadOnlySpan<float>)[float.NaN, float.PositiveInfinity, float.NegativeInfinity])
        {
            Cache cache = new(type, 16, 1, 40, 40, random, [Cache.RandomFloats(40 * 40, random)], [Cache.RandomFloats(40 * 40, random)], null);
            cache.Spoil(0, position: 20, bad);
            float[] output = cache.Attend(Isa.Avx512, Cache.RandomFloats(40 * 40, random), [(0, 40)], 1, 0, 1, 0);
            Assert.All(output[..(20 * 40)], v => Assert.True(float.IsFinite(v)));
            Assert.All(output[(20 * 40)..], v => Assert.True(float.IsNaN(v)));
        }

        Cache nothing = new(type, 16, 1, 40, 4, random, [new float[160]], [[.. Enumerable.Repeat(1e-31f, 160)]], null);
        Assert.All(nothing.Attend(Isa.Avx512, Cache.RandomFloats(160, random), [(0, 4)], 1, 0, 1, 0), v => Assert.Equal(0f, v));
    }

    [Fact]
    public void Run_IgnoresWhatLaterPositionsHold_EvenInfinityAndNaN()
    {
        Random random = new(11);
        Cache cache = new(KvType.F32, 16, 1, 32, 1, 64, random);
        float[] q = Cache.RandomFloats(40 * 32, random);
        float[] clean = cache.Attend(Isa.Avx512, q, [(0, 40)], 1, 0, 1, 0);
        cache.Poison(0, fromPosition: 20);
        float[] poisoned = cache.Attend(Isa.Avx512, q, [(0, 40)], 1, 0, 1, 0);
        Assert.Equal(clean[..(20 * 32)], poisoned[..(20 * 32)]);
        Assert.All(poisoned[(20 * 32)..], v => Assert.True(float.IsNaN(v)));
    }

    [Fact]
    public void Run_NamesWhatIsWrong()
    {
        using WorkerPool pool = new(1);
        ArgumentException heads = Assert.Throws<ArgumentException>(() => Run(pool, new() { Heads = 2, HeadDim = 32 }));
        Assert.Contains("3 query heads", heads.Message, StringComparison.Ordinal);
        ArgumentException dimension = Assert.Throws<ArgumentException>(() => Run(pool, new() { Heads = 3, HeadDim = 20 }));
        Assert.Contains("20", dimension.Message, StringComparison.Ordinal);

        static void Run(WorkerPool pool, KvLayer layer) => PagedAttention.Run(pool, layer, [], null, 0, queryHeads: 3, 1f, 0, null, 0, null);
    }

    [Fact]
    public void Run_AllocatesNothing()
    {
        Random random = new(3);
        Cache cache = new(KvType.F16, 16, 2, 64, 1, 2000, random);
        float[] q = Cache.RandomFloats(2 * 4 * 64, random);
        long allocated = 0;
        cache.Attend(Isa.Avx512, q, [(1900, 1)], 4, 0, threads: 2, partialBytes: 16 << 20, run =>
        {
            run();
            long before = GC.GetAllocatedBytesForCurrentThread();
            run();
            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        });
        Assert.Equal(0, allocated);
    }

    /// <summary>Sequences with random keys and values in randomly scattered blocks, and the plain references over them.</summary>
    private sealed class Cache
    {
        private readonly KvType _type;
        private readonly int _heads;
        private readonly int _headDim;
        private readonly int _positions;
        private readonly float[][] _keys; // [sequence][position, head, headDim], rounded to the type.
        private readonly float[][] _values;
        private readonly float[]? _bias; // [head, headDim]
        private readonly float[][] _keyCodes, _keyScales, _valueCodes, _valueScales;
        private readonly int[][] _blocks;

        public const double Magnitude = 1.2;

        public Cache(KvType type, int blockSize, int heads, int headDim, int sequences, int positions, Random random, bool hasBias = false)
            : this(
                type, blockSize, heads, headDim, positions, random, Rows(type, sequences, positions * heads * headDim, random),
                Rows(type, sequences, positions * heads * headDim, random), hasBias ? RandomFloats(heads * headDim, random, v => v * 5) : null)
        {
        }

        public Cache(KvType type, int blockSize, int heads, int headDim, int positions, Random random, float[][] keys, float[][] values, float[]? bias)
        {
            (_type, BlockSize, _heads, _headDim, _positions, _keys, _values, _bias) = (type, blockSize, heads, headDim, positions, keys, values, bias);
            (_keyCodes, _keyScales) = ReferenceKv.Quantize(type, keys, headDim);
            (_valueCodes, _valueScales) = ReferenceKv.Quantize(type, values, headDim);
            int perSequence = (positions + blockSize - 1) / blockSize;
            int[] scattered = [.. Enumerable.Range(0, perSequence * keys.Length)];
            random.Shuffle(scattered);
            _blocks = [.. scattered.Chunk(perSequence)];
        }

        public int BlockSize { get; }

        public static float[] RandomFloats(int count, Random random, Func<float, float>? map = null) =>
            [.. Enumerable.Range(0, count).Select(_ => (random.NextSingle() * 4) - 2).Select(v => map is null ? v : map(v))];

        public Cache WithBlockSize(int blockSize, Random random) => new(_type, blockSize, _heads, _headDim, _positions, random, _keys, _values, _bias);

        public KvLayer Layer(byte* keys, byte* values, float* scales, int vectors) =>
            new() { Keys = keys, Values = values, KeyScales = scales, ValueScales = scales + vectors, Type = _type, BlockSize = BlockSize, Heads = _heads, HeadDim = _headDim };

        public void Poison(int sequence, int fromPosition)
        {
            int from = fromPosition * _heads * _headDim;
            _keys[sequence].AsSpan(from).Fill(float.NaN);
            _values[sequence].AsSpan(from).Fill(float.PositiveInfinity);
        }

        public void Spoil(int sequence, int position, float value) => _keys[sequence][(position * _heads * _headDim) + 3] = value;

        /// <summary>Writes the cache with <see cref="KvLayer.Write"/>, then attends. Each sequence's tokens are (first position, count).</summary>
        public float[] Attend(
            Isa isa, float[] q, (int First, int Tokens)[] batch, int group, int window, int threads, long partialBytes, Action<Action>? repeat = null)
        {
            long bytes = (long)BlockSize * _heads * _headDim * _type.ElementBytes * _blocks.Sum(b => b.Length);
            int vectors = BlockSize * _heads * _blocks.Sum(b => b.Length);
            using GuardedMemory<byte> keys = new(bytes), values = new(bytes);
            using GuardedMemory<float> scales = new(2L * vectors);
            KvLayer layer = Layer(keys.Pointer, values.Pointer, scales.Pointer, vectors);
            using ChunkRotations rotations = new(_positions, KeyBiases.Frequencies(_headDim), Magnitude);
            rotations.Reach(_positions);
            using NativeBuffer<float> biasMemory = new(_heads * _headDim);
            _bias?.CopyTo(biasMemory.Span);
            KeyBias bias = _bias is null ? default : new(biasMemory.Pointer, rotations);
            for (int s = 0; s < _keys.Length; s++)
            {
                fixed (float* k = _keys[s], v = _values[s])
                {
                    for (int p = 0; p < _positions; p++)
                        Write(isa, layer, k + (p * _heads * _headDim), v + (p * _heads * _headDim), (_blocks[s][p / BlockSize] * BlockSize) + (p % BlockSize));
                }
            }

            int queryHeads = _heads * group, width = queryHeads * _headDim;
            float[] output = new float[q.Length];
            int[] tables = [.. _blocks.SelectMany(b => b)];
            AttentionSequence[] sequences = new AttentionSequence[batch.Length];
            using WorkerPool pool = new(threads);
            using NativeBuffer<byte> scratch = new(PagedAttention.ScratchBytes(threads, batch.Length, queryHeads, _heads, _headDim));
            scratch.Span.Fill(0xFF); // NaN, should anything be read before it is written.
            fixed (float* query = q, result = output)
            fixed (int* table = tables)
            fixed (AttentionSequence* sequence = sequences)
            {
                int row = 0;
                for (int s = 0; s < batch.Length; s++)
                {
                    sequence[s] = new() { FirstToken = row, Tokens = batch[s].Tokens, FirstPosition = batch[s].First, Blocks = table + (s * _blocks[0].Length) };
                    row += batch[s].Tokens;
                }

                float* from = query, to = result;
                AttentionSequence* first = sequence;
                byte* memory = scratch.Pointer;
                float scale = Scale;
                void Run()
                {
                    switch (isa)
                    {
                        case Isa.Avx512 when Lanes512.IsSupported:
                            PagedAttention.Run<Lanes512>(pool, layer, new(first, batch.Length), from, width, queryHeads, scale, window, to, width, memory, partialBytes, bias);
                            break;
                        case Isa.Avx2:
                            PagedAttention.Run<Lanes256>(pool, layer, new(first, batch.Length), from, width, queryHeads, scale, window, to, width, memory, partialBytes, bias);
                            break;
                        default:
                            PagedAttention.Run<Lanes128>(pool, layer, new(first, batch.Length), from, width, queryHeads, scale, window, to, width, memory, partialBytes, bias);
                            break;
                    }
                }

                if (repeat is null)
                    Run();
                else
                    repeat(Run);
            }

            return output;
        }

        /// <summary>The canonical order in scalar code, itself checked against double precision.</summary>
        public float[] Reference(int sequence, int head, int position, ReadOnlySpan<float> q, int window)
        {
            int start = window == 0 ? 0 : Math.Max(0, position - window + 1);
            State total = new(_headDim);
            for (int span = start / AttentionTile.Span; span * AttentionTile.Span <= position; span++)
            {
                State spanState = new(_headDim);
                for (int chunk = span * AttentionTile.Span; chunk < (span + 1) * AttentionTile.Span; chunk += AttentionTile.Chunk)
                    spanState.Merge(ChunkState(chunk, Math.Max(start, chunk), Math.Min(position + 1, chunk + AttentionTile.Chunk), q));
                total.Merge(spanState);
            }

            float inverse = 1f / total.Sum;
            float[] result = [.. total.Output.Select(v => v * inverse)];
            double[] exact = Exact(sequence, head, start, position, q);
            for (int d = 0; d < _headDim; d++)
                Assert.InRange(Math.Abs(result[d] - exact[d]), 0, 2e-5);
            return result;

            State ChunkState(int chunk, int from, int to, ReadOnlySpan<float> query)
            {
                State state = new(_headDim);
                if (from >= to)
                    return state;
                float[] scores = new float[to - from];
                state.Max = float.NegativeInfinity;
                for (int p = from; p < to; p++)
                {
                    float dot = Canonical.Dot(Row(_keyCodes[sequence], p, head), query), keyScale = _keyScales[sequence][(p * _heads) + head];
                    float score = _bias is null ? dot * keyScale : MathF.FusedMultiplyAdd(dot, keyScale, KeyBiases.Score(query, _bias.AsSpan(head * _headDim, _headDim), p, Magnitude));
                    scores[p - from] = score * Scale;
                    state.Max = Math.Max(state.Max, scores[p - from]);
                }

                float[] lanes = new float[16];
                for (int p = from; p < to; p++)
                {
                    float weight = Canonical.Exp(scores[p - from] - state.Max);
                    lanes[(p - chunk) % 16] += weight;
                    weight *= _valueScales[sequence][(p * _heads) + head];
                    ReadOnlySpan<float> value = Row(_valueCodes[sequence], p, head);
                    for (int d = 0; d < _headDim; d++)
                        state.Output[d] = MathF.FusedMultiplyAdd(weight, value[d], state.Output[d]);
                }

                state.Sum = Canonical.Fold16(lanes);
                return state;
            }
        }

        private static void Write(Isa isa, KvLayer layer, float* k, float* v, int slot)
        {
            switch (isa)
            {
                case Isa.Avx512 when Lanes512.IsSupported:
                    layer.Write<Lanes512>(k, v, slot);
                    break;
                case Isa.Avx2:
                    layer.Write<Lanes256>(k, v, slot);
                    break;
                default:
                    layer.Write<Lanes128>(k, v, slot);
                    break;
            }
        }

        private static float[][] Rows(KvType type, int sequences, int length, Random random) =>
            [.. Enumerable.Range(0, sequences).Select(_ => RandomFloats(length, random, v => Round(type, v)))];

        private static float Round(KvType type, float value) => type switch
        {
            KvType.F16 => (float)(Half)value,
            KvType.BF16 => BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(value) & 0xFFFF0000),
            _ => value,
        };

        private float Scale => 1f / MathF.Sqrt(_headDim);

        private ReadOnlySpan<float> Row(float[] rows, int position, int head) => rows.AsSpan(((position * _heads) + head) * _headDim, _headDim);

        private double[] Exact(int sequence, int head, int start, int position, ReadOnlySpan<float> q)
        {
            double[] scores = new double[position + 1 - start], result = new double[_headDim];
            for (int p = start; p <= position; p++)
            {
                ReadOnlySpan<float> key = Row(_keyCodes[sequence], p, head);
                for (int d = 0; d < _headDim; d++)
                    scores[p - start] += (double)key[d] * _keyScales[sequence][(p * _heads) + head] * q[d] * Scale;
                if (_bias is not null)
                    scores[p - start] += KeyBiases.ExactScore(q, _bias.AsSpan(head * _headDim, _headDim), p, Magnitude) * Scale;
            }

            double max = scores.Max(), sum = scores.Sum(s => Math.Exp(s - max));
            for (int p = start; p <= position; p++)
            {
                for (int d = 0; d < _headDim; d++)
                    result[d] += Math.Exp(scores[p - start] - max) / sum * Row(_valueCodes[sequence], p, head)[d] * _valueScales[sequence][(p * _heads) + head];
            }

            return result;
        }

        private sealed class State(int headDim)
        {
            public float Max { get; set; }

            public float Sum { get; set; }

            public float[] Output { get; private set; } = new float[headDim];

            public void Merge(State later)
            {
                if (later.Sum == 0)
                    return;
                if (Sum == 0)
                {
                    (Max, Sum, Output) = (later.Max, later.Sum, [.. later.Output]);
                    return;
                }

                float max = Math.Max(Max, later.Max), a = Canonical.Exp(Max - max), b = Canonical.Exp(later.Max - max);
                (Max, Sum) = (max, MathF.FusedMultiplyAdd(later.Sum, b, Sum * a));
                for (int d = 0; d < Output.Length; d++)
                    Output[d] = MathF.FusedMultiplyAdd(later.Output[d], b, Output[d] * a);
            }
        }
    }
}
