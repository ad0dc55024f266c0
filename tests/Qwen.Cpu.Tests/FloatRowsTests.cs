namespace Qwen.Cpu.Tests;

public sealed unsafe class FloatRowsTests
{
    public static TheoryData<Isa, WeightType> Kernels()
    {
        TheoryData<Isa, WeightType> data = [];
        foreach (Isa isa in Enum.GetValues<Isa>())
        {
            foreach (WeightType type in (ReadOnlySpan<WeightType>)[WeightType.F32, WeightType.F16, WeightType.BF16])
                data.Add(isa, type);
        }

        return data;
    }

    [SkippableTheory]
    [MemberData(nameof(Kernels))]
    public void Multiply_EqualsTheCanonicalOrder_BitForBit(Isa isa, WeightType type)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);

        // Around the sixteen lanes, the column block of 1,024, the panel of 32 rows and the tiles; then at random.
        foreach (int columns in (ReadOnlySpan<int>)[1, 15, 16, 17, 32, 100, 1023, 1024, 1040, 2065])
            Check(isa, type, rows: random.Next(1, 9), columns, tokens: random.Next(1, 20), random, seed);
        foreach (int tokens in (ReadOnlySpan<int>)[1, 2, 5, 6, 7, 11, 12, 13, 18, 95, 96, 97, 103])
            Check(isa, type, rows: random.Next(1, 70), columns: random.Next(1, 5) * 16, tokens, random, seed);
        for (int i = 0; i < 20; i++)
            Check(isa, type, random.Next(1, 70), random.Next(1, 200), random.Next(1, 20), random, seed);
    }

    [Fact]
    public void Multiply_OfANegativeZeroSum_KeepsItsSign_WhenColumnsEndInATail()
    {
        // -tiny * tiny underflows to -0; lanes without a term must not turn it into +0, and all lanes here sum to -0.
        float[] w = [.. Enumerable.Repeat(-1e-30f, 31)], x = [.. Enumerable.Repeat(1e-30f, 31)];
        float y = 0;
        using NativeBuffer<byte> scratch = new(FloatRows.ScratchBytes(31));
        fixed (float* weights = w, vector = x)
            FloatRows.Multiply(new(WeightType.F32, 1, 31, (byte*)weights, 124), 0, 1, vector, 31, 1, &y, 1, false, scratch.Pointer);
        Assert.Equal(BitConverter.SingleToInt32Bits(Canonical.Dot(w, x)), BitConverter.SingleToInt32Bits(y));
        Assert.True(float.IsNegative(y));
    }

    [Theory]
    [InlineData(WeightType.F32)]
    [InlineData(WeightType.F16)]
    [InlineData(WeightType.BF16)]
    public void DequantizeRow_GivesTheStoredRow(WeightType type)
    {
        Random random = new(5);
        for (int columns = 1; columns < 50; columns++)
        {
            using Case c = new(type, 3, columns, 1, random);
            float[] row = new float[columns + 1];
            row[columns] = 7f;
            fixed (float* values = row)
                FloatRows.DequantizeRow(c.Matrix, 2, values);
            Assert.Equal(c.Weights.AsSpan(2 * columns, columns), row.AsSpan(0, columns));
            Assert.Equal(7f, row[columns]);
        }
    }

    private static void Check(Isa isa, WeightType type, int rows, int columns, int tokens, Random random, int seed)
    {
        using Case c = new(type, rows, columns, tokens, random);
        using NativeBuffer<byte> scratch = new(FloatRows.ScratchBytes(columns));
        new Random(seed).NextBytes(scratch.Span);
        int from = random.Next(rows), to = random.Next(from, rows) + 1;
        bool accumulate = random.Next(2) == 0;
        int yStride = to - from + random.Next(4);
        using GuardedMemory<float> y = new(((tokens - 1L) * yStride) + (to - from));
        foreach (ref float value in y.Span)
            value = random.NextSingle();
        float[] before = y.Span.ToArray();

        FloatWeights w = new(c.Matrix.Data + (from * c.Matrix.RowBytes), c.Matrix.RowBytes, to - from);
        FloatVectors x = new(c.X.Pointer, columns, tokens);
        FloatOutput output = new(y.Pointer, yStride, accumulate);
        switch (isa)
        {
            case Isa.Avx512:
                FloatRows.Multiply<Lanes512>(type, w, x, columns, output, scratch.Pointer);
                break;
            case Isa.Avx2:
                FloatRows.Multiply<Lanes256>(type, w, x, columns, output, scratch.Pointer);
                break;
            default:
                FloatRows.Multiply<Lanes128>(type, w, x, columns, output, scratch.Pointer);
                break;
        }

        for (int i = 0; i < before.Length; i++)
        {
            int t = i / yStride, r = i % yStride;
            float expected = before[i];
            if (r < to - from)
            {
                ReadOnlySpan<float> row = c.Weights.AsSpan((from + r) * columns, columns), vector = c.X.Span.Slice(t * columns, columns);
                float dot = Canonical.Dot(row, vector);
                AssertNear(row, vector, dot);
                expected = accumulate ? before[i] + dot : dot;
            }

            Assert.True(
                BitConverter.SingleToInt32Bits(expected) == BitConverter.SingleToInt32Bits(y.Span[i]),
                $"seed {seed}: [{rows}, {columns}] rows {from}..{to}, {tokens} tokens: y[{t}, {r}] = {y.Span[i]:R}, canonical {expected:R}");
        }
    }

    /// <summary>The canonical order itself against double precision: n roundings of at most half an ulp of the running magnitude.</summary>
    private static void AssertNear(ReadOnlySpan<float> w, ReadOnlySpan<float> x, float dot)
    {
        double exact = 0, magnitude = 0;
        for (int k = 0; k < w.Length; k++)
        {
            exact += (double)w[k] * x[k];
            magnitude += Math.Abs((double)w[k] * x[k]);
        }

        Assert.InRange(Math.Abs(dot - exact), 0, ((w.Length / 16) + 6) * 6e-8 * magnitude);
    }

    /// <summary>A random matrix at the very end of readable memory, its exact F32 values, and random vectors likewise.</summary>
    private sealed class Case : IDisposable
    {
        private readonly GuardedMemory<byte> _data;

        public Case(WeightType type, int rows, int columns, int tokens, Random random)
        {
            int bytes = type == WeightType.F32 ? 4 : 2;
            _data = new((long)rows * columns * bytes);
            Weights = new float[rows * columns];
            X = new((long)tokens * columns);
            foreach (ref float value in X.Span)
                value = (random.NextSingle() * 2) - 1;
            for (int i = 0; i < Weights.Length; i++)
            {
                float value = (random.NextSingle() * 2) - 1;
                switch (type)
                {
                    case WeightType.F32:
                        ((float*)_data.Pointer)[i] = Weights[i] = value;
                        break;
                    case WeightType.F16:
                        ((Half*)_data.Pointer)[i] = (Half)value;
                        Weights[i] = (float)(Half)value;
                        break;
                    default:
                        ushort upper = (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
                        ((ushort*)_data.Pointer)[i] = upper;
                        Weights[i] = BitConverter.UInt32BitsToSingle((uint)upper << 16);
                        break;
                }
            }

            Matrix = new(type, rows, columns, _data.Pointer, (long)columns * bytes);
        }

        public WeightMatrix Matrix { get; }

        public float[] Weights { get; }

        public GuardedMemory<float> X { get; }

        public void Dispose()
        {
            _data.Dispose();
            X.Dispose();
        }
    }
}
