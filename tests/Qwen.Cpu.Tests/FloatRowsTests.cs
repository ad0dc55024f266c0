namespace Qwen.Cpu.Tests;

public sealed unsafe class FloatRowsTests
{
    public static TheoryData<Isa, WeightType> Kernels()
    {
        TheoryData<Isa, WeightType> data = [];
        foreach (Isa isa in Enum.GetValues<Isa>())
        {
            foreach (WeightType type in (ReadOnlySpan<WeightType>)[WeightType.F32, WeightType.F16, WeightType.BF16, WeightType.F8_E4M3])
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

    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Multiply_OfAnyScaleGrid_EqualsTheCanonicalOrder_BitForBit(Isa isa)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);

        // Blocks of one vector, of 128, around the panel's 1,024 columns, and of more columns than there are; columns that end inside one.
        foreach (int blockColumns in (ReadOnlySpan<int>)[16, 48, 128, 512, 1008, 1024, 1040, 1536, 4096])
        {
            foreach (int columns in (ReadOnlySpan<int>)[128, 1000, 2048, random.Next(1, 3000)])
            {
                foreach (int tokens in (ReadOnlySpan<int>)[1, 2, random.Next(3, 41)])
                    Check(isa, WeightType.F8_E4M3, random.Next(1, 40), columns, tokens, random, seed, (random.Next(1, 9), blockColumns));
            }
        }
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
    [InlineData(WeightType.F8_E4M3)]
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
            Assert.Equal(c.ScaledRow(2), row.AsSpan(0, columns));
            Assert.Equal(7f, row[columns]);
        }
    }

    private static void Check(
        Isa isa, WeightType type, int rows, int columns, int tokens, Random random, int seed, (int Rows, int Columns)? block = null)
    {
        using Case c = new(type, rows, columns, tokens, random, block);
        using NativeBuffer<byte> scratch = new(FloatRows.ScratchBytes(columns));
        new Random(seed).NextBytes(scratch.Span);
        int from = random.Next(rows), to = random.Next(from, rows) + 1;
        bool accumulate = random.Next(2) == 0;
        int yStride = to - from + random.Next(4);
        using GuardedMemory<float> y = new(((tokens - 1L) * yStride) + (to - from));
        foreach (ref float value in y.Span)
            value = random.NextSingle();
        float[] before = y.Span.ToArray();

        FloatWeights w = new(c.Matrix.Data + (from * c.Matrix.RowBytes), c.Matrix.RowBytes, to - from, c.Matrix.Scales, from);
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
                ReadOnlySpan<float> vector = c.X.Span.Slice(t * columns, columns);
                float dot = c.Dot(from + r, vector);
                AssertNear(c.ScaledRow(from + r), vector, dot);
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

        Assert.InRange(Math.Abs(dot - exact), 0, ((w.Length / 16 * 2) + 8) * 6e-8 * magnitude);
    }

    /// <summary>A random matrix at the very end of readable memory, its exact F32 values, and random vectors likewise.</summary>
    private sealed class Case : IDisposable
    {
        private readonly GuardedMemory<byte> _data;
        private readonly GuardedMemory<float>? _scales;
        private readonly float[] _weights;

        public Case(WeightType type, int rows, int columns, int tokens, Random random, (int Rows, int Columns)? block = null)
        {
            int bytes = type switch { WeightType.F32 => 4, WeightType.F8_E4M3 => 1, _ => 2 };
            _data = new((long)rows * columns * bytes);
            _weights = new float[rows * columns];
            X = new((long)tokens * columns);
            foreach (ref float value in X.Span)
                value = (random.NextSingle() * 2) - 1;
            for (int i = 0; i < _weights.Length; i++)
            {
                float value = (random.NextSingle() * 2) - 1;
                switch (type)
                {
                    case WeightType.F32:
                        ((float*)_data.Pointer)[i] = _weights[i] = value;
                        break;
                    case WeightType.F16:
                        ((Half*)_data.Pointer)[i] = (Half)value;
                        _weights[i] = (float)(Half)value;
                        break;
                    case WeightType.BF16:
                        ushort upper = (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
                        ((ushort*)_data.Pointer)[i] = upper;
                        _weights[i] = BitConverter.UInt32BitsToSingle((uint)upper << 16);
                        break;
                    case WeightType.F8_E4M3:
                        byte code = (byte)(random.Next(127) | (random.Next(2) << 7));
                        _data.Pointer[i] = code;
                        _weights[i] = Canonical.E4M3(code);
                        break;
                }
            }

            ScaleGrid grid = default;
            if (type == WeightType.F8_E4M3)
            {
                (int blockRows, int blockColumns) = block ?? (random.Next(3) == 0 ? rows : 1, columns);
                _scales = new((rows + blockRows - 1) / blockRows * ((columns + blockColumns - 1) / blockColumns));
                foreach (ref float scale in _scales.Span)
                    scale = random.NextSingle() / 100;
                grid = new(_scales.Pointer, blockRows, blockColumns);
            }

            Matrix = new(type, rows, columns, _data.Pointer, (long)columns * bytes, grid);
        }

        public WeightMatrix Matrix { get; }

        public GuardedMemory<float> X { get; }

        /// <summary>The values of a row: what is stored, times its scale.</summary>
        public float[] ScaledRow(int row)
        {
            float[] values = _weights.AsSpan(row * Matrix.Columns, Matrix.Columns).ToArray();
            ReadOnlySpan<float> scales = Scales(row);
            for (int k = 0; k < values.Length && !scales.IsEmpty; k++)
                values[k] *= scales[k / Matrix.Scales.BlockColumns];
            return values;
        }

        public float Dot(int row, ReadOnlySpan<float> x)
        {
            ReadOnlySpan<float> w = _weights.AsSpan(row * Matrix.Columns, Matrix.Columns), scales = Scales(row);
            return scales.IsEmpty ? Canonical.Dot(w, x) : Canonical.ScaledDot(w, x, scales, Matrix.Scales.BlockColumns);
        }

        private ReadOnlySpan<float> Scales(int row)
        {
            if (_scales is null)
                return [];
            int across = (Matrix.Columns + Matrix.Scales.BlockColumns - 1) / Matrix.Scales.BlockColumns;
            return _scales.Span.Slice(row / Matrix.Scales.BlockRows * across, across);
        }

        public void Dispose()
        {
            _scales?.Dispose();
            _data.Dispose();
            X.Dispose();
        }
    }
}
