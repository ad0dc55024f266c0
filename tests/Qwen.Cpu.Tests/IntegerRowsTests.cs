using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text.Json;

namespace Qwen.Cpu.Tests;

public sealed unsafe class IntegerRowsTests
{
    /// <summary>Type, elements and bytes of a block, elements of a sub-block, where F16 scale and minimum lie (-1: none; Q8_K's scale is F32).</summary>
    public static TheoryData<WeightType, int, int, int, int, int> Types => new()
    {
        { WeightType.Q4_0, 32, 18, 32, 0, -1 },
        { WeightType.Q4_1, 32, 20, 32, 0, 2 },
        { WeightType.Q5_0, 32, 22, 32, 0, -1 },
        { WeightType.Q5_1, 32, 24, 32, 0, 2 },
        { WeightType.Q8_0, 32, 34, 32, 0, -1 },
        { WeightType.Q2_K, 256, 84, 16, 80, 82 },
        { WeightType.Q3_K, 256, 110, 16, 108, -1 },
        { WeightType.Q4_K, 256, 144, 32, 0, 2 },
        { WeightType.Q5_K, 256, 176, 32, 0, 2 },
        { WeightType.Q6_K, 256, 210, 16, 208, -1 },
        { WeightType.Q8_K, 256, 292, 32, 0, -1 },
        { WeightType.IQ4_NL, 32, 18, 32, 0, -1 },
        { WeightType.IQ4_XS, 256, 136, 32, 0, -1 },
    };

    /// <summary>The whole product against doubles on the dequantized row and the quantized activations: only F32 rounding may differ.</summary>
    [Theory]
    [MemberData(nameof(Types))]
    public void Multiply_IsTheProductOfWhatIsStored(WeightType type, int blockElements, int blockBytes, int subBlock, int scaleAt, int minimumAt)
    {
        for (int seed = 0; seed < 40; seed++)
        {
            using var test = new Case(new Random(seed), type, blockElements, blockBytes, scaleAt, minimumAt);
            float[] y = test.Run(test.Tokens, test.From, test.To, out float[] before);
            for (int t = 0; t < test.Tokens; t++)
            {
                for (int r = test.From; r < test.To; r++)
                {
                    (double exact, double magnitude) = test.Exact(t, r);
                    int i = (t * test.YStride) + r - test.From;
                    double expected = test.Accumulate ? before[i] + exact : exact;
                    Assert.True(Math.Abs(expected - y[i]) <= (magnitude + Math.Abs(expected)) * 2e-6, $"{type}, seed {seed}, sub-blocks of {subBlock}, token {t}, row {r}: {expected} against {y[i]}");
                }
            }
        }
    }

    /// <summary>Each element equals the canonical sum to the bit, on every instruction set.</summary>
    [Theory]
    [MemberData(nameof(Types))]
    public void Multiply_FollowsTheCanonicalOrder(WeightType type, int blockElements, int blockBytes, int subBlock, int scaleAt, int minimumAt)
    {
        for (int seed = 100; seed < 125; seed++)
        {
            using var test = new Case(new Random(seed), type, blockElements, blockBytes, scaleAt, minimumAt);
            float[] y = test.Run(test.Tokens, test.From, test.To, out float[] before);
            for (int t = 0; t < test.Tokens; t++)
            {
                for (int r = test.From; r < test.To; r++)
                {
                    int i = (t * test.YStride) + r - test.From;
                    float dot = test.Canonical(t, r, subBlock, minimumAt >= 0);
                    TestData.SameBits(test.Accumulate ? before[i] + dot : dot, y[i], $"{type}, seed {seed}, token {t}, row {r}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void Multiply_GivesATokenTheSameBits_AloneAndInABatch(WeightType type, int blockElements, int blockBytes, int subBlock, int scaleAt, int minimumAt)
    {
        Assert.True(subBlock is 16 or 32);
        using var test = new Case(new Random(5), type, blockElements, blockBytes, scaleAt, minimumAt, tokens: 33, accumulate: false);
        float[] all = test.Run(33, 0, test.Rows, out _);
        for (int t = 0; t < 33; t++)
        {
            float[] alone = test.Run(1, 0, test.Rows, out _, firstToken: t);
            Assert.Equal(all[(t * test.YStride)..((t * test.YStride) + test.Rows)], alone[..test.Rows]);
        }
    }

    [SkippableTheory]
    [MemberData(nameof(Types))]
    public void DequantizeRow_EqualsTheGolden_BitForBit(WeightType type, int blockElements, int blockBytes, int subBlock, int scaleAt, int minimumAt)
    {
        string path = Golden($"{type}.json".ToLowerInvariant());
        using JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(path));
        byte[] blocks = json.RootElement.GetProperty("raw_b64").GetBytesFromBase64();
        ReadOnlySpan<float> expected = MemoryMarshal.Cast<byte, float>(json.RootElement.GetProperty("values_f32le_b64").GetBytesFromBase64());
        Assert.Equal(expected.Length / blockElements, blocks.Length / blockBytes);
        Assert.True(scaleAt >= 0 && minimumAt >= -1 && subBlock > 0);
        var values = new float[expected.Length];
        fixed (byte* data = blocks)
        fixed (float* to = values)
            IntegerRows.DequantizeRow(new WeightMatrix(type, 1, expected.Length, data, blocks.Length), 0, to);
        for (int i = 0; i < values.Length; i++)
            Assert.True(expected[i] == values[i], $"{type} value {i}: {values[i]:R}, golden {expected[i]:R}"); // -0 may come out as 0
    }

    [Fact]
    public void Quantize_KeepsEachValueWithinHalfAStep_AndSumsItsCodes()
    {
        using var pool = new WorkerPool(2);
        for (int seed = 0; seed < 30; seed++)
        {
            var random = new Random(seed);
            int tokens = random.Next(1, 9), columns = 32 * random.Next(1, 40);
            using NativeBuffer<float> x = TestData.Floats(random, (long)tokens * columns, MathF.Pow(10, random.Next(-20, 20)));
            x.Span[..32].Clear();
            using var buffer = new QuantizedActivationBuffer(tokens, columns);
            QuantizedActivations q = buffer.Quantize(pool, x.Pointer, columns, tokens, columns);
            for (int t = 0; t < tokens; t++)
            {
                for (int b = 0; b < q.By32.Stride; b++)
                {
                    float scale = q.By32.Scales[(t * q.By32.Stride) + b];
                    int sum = 0;
                    for (int i = 0; i < 32; i++)
                    {
                        int code = q.Codes[(t * q.CodeStride) + (b * 32) + i];
                        sum += code;
                        if (b * 32 >= columns)
                            Assert.Equal(0, code);
                        else
                            Assert.InRange(Math.Abs((code * (double)scale) - x.Pointer[(t * columns) + (b * 32) + i]), 0, scale * 0.50001);
                    }

                    Assert.Equal(sum, q.By32.Sums[(t * q.By32.Stride) + b]);
                    Assert.Equal(sum, q.By16.Sums[(t * q.By16.Stride) + (2 * b)] + q.By16.Sums[(t * q.By16.Stride) + (2 * b) + 1]);
                    Assert.Equal(scale, q.By16.Scales[(t * q.By16.Stride) + (2 * b) + 1]);
                }
            }
        }
    }

    private static string Golden(string name)
    {
        DirectoryInfo? folder = new(AppContext.BaseDirectory);
        while (folder is not null && !File.Exists(Path.Combine(folder.FullName, "Engine.sln")))
            folder = folder.Parent;
        string path = Path.GetFullPath(Path.Combine(folder!.FullName, "..", "shared", "golden", "dequant", name));
        Skip.IfNot(File.Exists(path), $"The golden data is not here: {path}");
        return path;
    }

    /// <summary>A random matrix with sane scales, and random activations.</summary>
    private sealed class Case : IDisposable
    {
        private readonly NativeBuffer<byte> _bytes, _scratch;
        private readonly NativeBuffer<float> _x;
        private readonly QuantizedActivationBuffer _buffer;
        private readonly WorkerPool _pool = new(1);
        private readonly WeightMatrix _w;
        private readonly float[] _weights;

        public Case(Random random, WeightType type, int blockElements, int blockBytes, int scaleAt, int minimumAt, int? tokens = null, bool? accumulate = null)
        {
            Rows = random.Next(1, 20);
            Columns = blockElements * random.Next(1, blockElements == 32 ? 40 : 6);
            Tokens = tokens ?? random.Next(1, 9);
            From = random.Next(Rows);
            To = random.Next(From + 1, Rows + 1);
            YStride = Rows + random.Next(4);
            Accumulate = accumulate ?? random.Next(2) == 0;
            int rowBytes = Columns / blockElements * blockBytes;
            _bytes = new NativeBuffer<byte>(((long)Rows * rowBytes) + 64);
            byte* data = _bytes.Pointer + random.Next(60);
            random.NextBytes(new Span<byte>(data, Rows * rowBytes));
            for (byte* block = data; block < data + (Rows * rowBytes); block += blockBytes)
            {
                float scale = ((float)random.NextDouble() - 0.3f) * 0.02f;
                if (type == WeightType.Q8_K)
                    Unsafe.WriteUnaligned(block, scale);
                else
                    Unsafe.WriteUnaligned(block + scaleAt, (Half)scale);
                if (minimumAt >= 0)
                    Unsafe.WriteUnaligned(block + minimumAt, (Half)((float)random.NextDouble() * 0.05f));
            }

            _w = new WeightMatrix(type, Rows, Columns, data, rowBytes);
            _x = TestData.Floats(random, (long)Tokens * Columns, 3);
            _buffer = new QuantizedActivationBuffer(Tokens, Columns);
            _scratch = new NativeBuffer<byte>(IntegerRows.ScratchBytes(Columns));
            _weights = new float[Rows * Columns];
            fixed (float* weights = _weights)
            {
                for (int r = 0; r < Rows; r++)
                    IntegerRows.DequantizeRow(_w, r, weights + (r * Columns));
            }
        }

        public int Rows { get; }

        public int Columns { get; }

        public int Tokens { get; }

        public int From { get; }

        public int To { get; }

        public int YStride { get; }

        public bool Accumulate { get; }

        public float[] Run(int tokens, int from, int to, out float[] before, int firstToken = 0)
        {
            using NativeBuffer<float> y = TestData.Floats(new Random(1), (long)tokens * YStride);
            before = y.Span.ToArray();
            QuantizedActivations q = _buffer.Quantize(_pool, _x.Pointer + ((long)firstToken * Columns), Columns, tokens, Columns);
            IntegerRows.Multiply(_w, from, to, q, tokens, y.Pointer, YStride, Accumulate, _scratch.Pointer);
            return y.Span.ToArray();
        }

        public (double Value, double Magnitude) Exact(int t, int r)
        {
            double value = 0, magnitude = 0;
            (float[] scales, int[] codes) = Activations(t);
            for (int k = 0; k < Columns; k++)
            {
                double term = (double)_weights[(r * Columns) + k] * codes[k] * scales[k / 32];
                value += term;
                magnitude += Math.Abs(term);
            }

            // A minimum is taken off in one term per sub-block, so what cancels may be larger than the elements' products.
            return (value, (magnitude * 8) + 1e-6);
        }

        public float Canonical(int t, int r, int subBlock, bool hasMinimum)
        {
            (float[] xScales, int[] x) = Activations(t);
            byte* codes = stackalloc byte[256];
            float* scales = stackalloc float[16], minima = stackalloc float[16];
            Span<float> lanes = stackalloc float[16];
            (int elements, int bytes) = Unpack(_w.Type, null, null, null, null);
            for (int k = 0, b = 0; k < Columns; k += elements)
            {
                Unpack(_w.Type, _w.Data + (r * _w.RowBytes) + (k / elements * bytes), codes, scales, minima);
                for (int s = 0; s < elements / subBlock; s++, b++)
                {
                    int dot = 0, sum = 0;
                    for (int i = 0; i < subBlock; i++)
                    {
                        int at = k + (s * subBlock) + i;
                        dot += (codes[(s * subBlock) + i] - 128) * x[at];
                        sum += x[at];
                    }

                    float xScale = xScales[(k + (s * subBlock)) / 32];
                    lanes[b % 16] = MathF.FusedMultiplyAdd(dot, scales[s] * xScale, lanes[b % 16]);
                    if (hasMinimum)
                        lanes[b % 16] = MathF.FusedMultiplyAdd(-(minima[s] * xScale), sum, lanes[b % 16]);
                }
            }

            return TestData.Fold(lanes);
        }

        public void Dispose()
        {
            _bytes.Dispose();
            _scratch.Dispose();
            _x.Dispose();
            _buffer.Dispose();
            _pool.Dispose();
        }

        private (float[] Scales, int[] Codes) Activations(int t)
        {
            QuantizedActivations q = _buffer.Quantize(_pool, _x.Pointer, Columns, Tokens, Columns);
            var scales = new float[Columns / 32];
            var codes = new int[Columns];
            for (int i = 0; i < scales.Length; i++)
                scales[i] = q.By32.Scales[(t * q.By32.Stride) + i];
            for (int i = 0; i < codes.Length; i++)
                codes[i] = q.Codes[(t * q.CodeStride) + i];
            return (scales, codes);
        }

        private static (int Elements, int Bytes) Unpack(WeightType type, byte* block, byte* codes, float* scales, float* minima) => type switch
        {
            WeightType.Q4_0 => One<Q4_0>(block, codes, scales, minima),
            WeightType.Q4_1 => One<Q4_1>(block, codes, scales, minima),
            WeightType.Q5_0 => One<Q5_0>(block, codes, scales, minima),
            WeightType.Q5_1 => One<Q5_1>(block, codes, scales, minima),
            WeightType.Q8_0 => One<Q8_0>(block, codes, scales, minima),
            WeightType.Q2_K => One<Q2_K>(block, codes, scales, minima),
            WeightType.Q3_K => One<Q3_K>(block, codes, scales, minima),
            WeightType.Q4_K => One<Q4_K>(block, codes, scales, minima),
            WeightType.Q5_K => One<Q5_K>(block, codes, scales, minima),
            WeightType.Q6_K => One<Q6_K>(block, codes, scales, minima),
            WeightType.Q8_K => One<Q8_K>(block, codes, scales, minima),
            WeightType.IQ4_NL => One<IQ4_NL>(block, codes, scales, minima),
            _ => One<IQ4_XS>(block, codes, scales, minima),
        };

        private static (int Elements, int Bytes) One<T>(byte* block, byte* codes, float* scales, float* minima)
            where T : struct, IQuantizedFormat
        {
            if (block is not null)
                T.Unpack(block, codes, scales, minima);
            return (T.BlockElements, T.BlockBytes);
        }
    }
}
