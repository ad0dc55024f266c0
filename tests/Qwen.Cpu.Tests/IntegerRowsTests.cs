using Qwen.Cpu.Quantized;
using Weight = Qwen.Cpu.Tests.ReferenceBlocks.Weight;

namespace Qwen.Cpu.Tests;

public sealed unsafe class IntegerRowsTests
{
    public static TheoryData<WeightType> QuantizedTypes => new(ReferenceBlocks.Types);

    [Theory]
    [MemberData(nameof(QuantizedTypes))]
    public void Multiply_EqualsTheScalarOrder_BitForBit(WeightType type)
    {
        int blockColumns = ReferenceBlocks.Layout(type).Columns;
        int seed = Environment.TickCount;
        Random random = new(seed);
        for (int round = 0; round < 12; round++)
        {
            int columns = blockColumns * random.Next(1, 2048 / blockColumns);
            int rows = random.Next(1, 50), tokens = random.Next(1, round == 0 ? 41 : 14);
            using Case c = new(type, rows, columns, tokens, random);
            float[,] expected = c.Reference();
            string what = $"seed {seed}, round {round}: {type} [{rows}, {columns}], {tokens} tokens";
            Assert.True(Same(expected, c.Multiply(0, rows, tokens), 0), what);

            // Any part of the rows, any number of tokens, same bits.
            int from = random.Next(rows), to = random.Next(from, rows + 1);
            foreach (int count in new[] { 1, tokens })
                Assert.True(Same(expected, c.Multiply(from, to, count), from), $"{what}; rows [{from}, {to}), {count} tokens");
        }
    }

    [Theory]
    [MemberData(nameof(QuantizedTypes))]
    public void Multiply_IsCloseToTheProductInDouble(WeightType type)
    {
        int seed = Environment.TickCount;
        using Case c = new(type, 24, 1024, 9, new Random(seed));
        float[,] y = c.Multiply(0, 24, 9);
        for (int t = 0; t < 9; t++)
        {
            for (int r = 0; r < 24; r++)
            {
                (double dot, double magnitude) = c.DotInDouble(r, t);
                Assert.True(Math.Abs(dot - y[t, r]) <= 0.01 * magnitude, $"seed {seed}: row {r}, token {t}: {y[t, r]} instead of {dot}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(QuantizedTypes))]
    public void Multiply_IsExact_AtTheExtremesOfTheCodes(WeightType type)
    {
        // All bits set, then all clear, against activations of +127 and -127: where int16 sums would saturate first.
        foreach (byte fill in new byte[] { 0x00, 0x7F, 0x80, 0xFF })
        {
            foreach (float sign in new[] { 1f, -1f })
            {
                using Case c = new(type, 17, 768, 6, new Random(1), fill, sign);
                Assert.True(Same(c.Reference(), c.Multiply(0, 17, 6), 0), $"{type}, bytes of {fill}, activations of {sign}");
                Assert.True(Same(c.Reference(), c.Multiply(16, 17, 1), 16), $"{type}, bytes of {fill}, activations of {sign}, one row");
            }
        }
    }

    [SkippableTheory]
    [MemberData(nameof(QuantizedTypes))]
    public void Tiles_EqualTheScalarOrder_BitForBit(WeightType type)
    {
        // Multiply takes the fastest that the machine has.
        Skip.IfNot(RowPanel.IsSupported, "No panels without AVX2.");
        int seed = Environment.TickCount, blockColumns = ReferenceBlocks.Layout(type).Columns;
        Random random = new(seed);
        for (int round = 0; round < 6; round++)
        {
            int columns = blockColumns * random.Next(1, 1400 / blockColumns), tokens = random.Next(1, round == 0 ? 150 : 14);
            using Case c = new(type, 16 * random.Next(1, 4), columns, tokens, random);
            string what = $"seed {seed}, round {round}: {type} [{c.Matrix.Rows}, {columns}], {tokens} tokens";
            float[,] expected = c.Reference();
            Assert.True(Same(expected, c.MultiplyPanels<IntrinsicTile>(), 0), $"{what}, intrinsics");
            if (VnniTile.IsSupported)
                Assert.True(Same(expected, c.MultiplyPanels<VnniTile>(), 0), $"{what}, AVX512-VNNI");
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(7)]
    public void Multiply_AddsToWhatIsThere_WhenAskedTo(int tokens)
    {
        using Case c = new(WeightType.Q4_K, 37, 512, tokens, new Random(5));
        float[,] dots = c.Reference();
        float[,] y = c.Multiply(0, 37, tokens, before: 0.75f);
        for (int t = 0; t < tokens; t++)
        {
            for (int r = 0; r < 37; r++)
                Assert.Equal(0.75f + dots[t, r], y[t, r]);
        }
    }

    [Theory]
    [MemberData(nameof(QuantizedTypes))]
    public void DequantizeRow_EqualsTheDefinition_BitForBit(WeightType type)
    {
        int seed = Environment.TickCount;
        using Case c = new(type, 5, 768, 1, new Random(seed));
        float[] values = new float[768];
        for (int row = 0; row < 5; row++)
        {
            fixed (float* destination = values)
                IntegerRows.DequantizeRow(c.Matrix, row, destination);
            Assert.True(values.SequenceEqual(c.Weights[row].Select(weight => weight.Value)), $"seed {seed}, row {row}");
        }
    }

    [Theory]
    [InlineData(WeightType.Int4G32)]
    [InlineData(WeightType.Int4G128)]
    [InlineData(WeightType.Int8G64)]
    public void DequantizeRow_OfGroups_IsScaleTimesCodeLessZero_Exactly(WeightType type)
    {
        int seed = Environment.TickCount;
        (int groupColumns, int bytes, _) = ReferenceBlocks.Layout(type);
        byte[] block = ReferenceBlocks.Random(type, 1, groupColumns, new Random(seed));
        float[] values = new float[groupColumns];
        fixed (byte* data = block)
        {
            fixed (float* destination = values)
                Embedding.Row(new WeightMatrix(type, 1, groupColumns, data, bytes), 0, destination);
        }

        float scale = (float)BitConverter.ToHalf(block), zero = BitConverter.ToInt16(block, 2);
        for (int k = 0; k < groupColumns; k++)
            Assert.True(values[k] == (double)scale * (ReferenceBlocks.Block(type, block)[k].Code - zero), $"seed {seed}, column {k}");
    }

    [Theory]
    [InlineData(WeightType.Q8_0)] // scales are widened 16 at a time
    [InlineData(WeightType.Q6_K)] // and one at a time
    public void DequantizeRow_WidensEveryBinary16(WeightType type)
    {
        (int columns, int blockBytes, _) = ReferenceBlocks.Layout(type);
        const int Blocks = 64;
        byte[] row = new byte[Blocks * blockBytes];
        float[] values = new float[Blocks * columns];
        for (int first = 0; first < 65536; first += Blocks)
        {
            for (int i = 0; i < Blocks; i++)
            {
                Span<byte> block = row.AsSpan(i * blockBytes, blockBytes);
                block.Fill(1); // Q8_0: codes of 1. Q6_K: scales of 1, codes of 17 or 16 less 32
                BitConverter.TryWriteBytes(block[ReferenceBlocks.HalfOffsets(type)[0]..], (ushort)(first + i));
            }

            fixed (byte* data = row)
            {
                fixed (float* destination = values)
                    IntegerRows.DequantizeRow(new WeightMatrix(type, 1, Blocks * columns, data, row.Length), 0, destination);
            }

            for (int i = 0; i < Blocks; i++)
                Assert.Equal(ReferenceBlocks.Block(type, row.AsSpan(i * blockBytes, blockBytes))[0].Value, values[i * columns]);
        }
    }

    [SkippableTheory]
    [MemberData(nameof(QuantizedTypes))]
    public void Kernels_ReadNothingPastTheMatrix(WeightType type)
    {
        Skip.IfNot(OperatingSystem.IsLinux(), "Needs mmap.");
        (int blockColumns, int blockBytes, _) = ReferenceBlocks.Layout(type);
        foreach (int blocks in new[] { 1, 3, 15, 16, 17, 31 })
        {
            int columns = blocks * blockColumns;
            byte[] bytes = ReferenceBlocks.Random(type, 17, columns, new Random(blocks));
            using GuardedMemory<byte> memory = new(bytes.Length);
            bytes.CopyTo(memory.Span);
            using NativeBuffer<byte> quantized = new(QuantizedActivations.Bytes(7, columns)), scratch = new(IntegerRows.ScratchBytes(columns));
            using NativeBuffer<float> y = new(Math.Max(17 * 7, columns));
            WeightMatrix w = new(type, 17, columns, memory.Pointer, blocks * blockBytes);
            QuantizedActivations x = new(quantized.Pointer, 7, columns);
            foreach (int tokens in new[] { 1, 2, 7 })
            {
                IntegerRows.Multiply(w, 0, 17, x, tokens, y.Pointer, 17, accumulate: false, scratch.Pointer);
                IntegerRows.Multiply(w, 1, 17, x, tokens, y.Pointer, 17, accumulate: false, scratch.Pointer);
            }

            IntegerRows.DequantizeRow(w, 16, y.Pointer);
        }
    }

    [Fact]
    public void Multiply_RejectsWhatDoesNotFit()
    {
        using Case c = new(WeightType.Q4_K, 4, 256, 1, new Random(1));
        byte* data = c.Matrix.Data;
        using NativeBuffer<byte> other = new(QuantizedActivations.Bytes(1, 512));
        Assert.Contains("512", Assert.Throws<ArgumentException>(
            () => Multiply(new WeightMatrix(WeightType.Q4_K, 4, 256, data, 144), new(other.Pointer, 1, 512))).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => Multiply(new WeightMatrix(WeightType.Q4_K, 4, 512, data, 144), new(other.Pointer, 1, 512)));
        Assert.Throws<ArgumentException>(() => Multiply(new WeightMatrix(WeightType.F16, 4, 512, data, 1024), new(other.Pointer, 1, 512)));
        Assert.Throws<ArgumentException>(() => IntegerRows.DequantizeRow(new WeightMatrix(WeightType.F32, 4, 512, data, 2048), 0, (float*)data));
        Assert.Throws<ArgumentOutOfRangeException>(() => IntegerRows.DequantizeRow(c.Matrix, 4, (float*)data));
        Assert.Throws<ArgumentOutOfRangeException>(() => c.Multiply(0, 5, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => c.Multiply(-1, 4, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => c.Multiply(0, 4, 2));

        void Multiply(WeightMatrix w, QuantizedActivations x) => IntegerRows.Multiply(w, 0, 4, x, 1, (float*)data, 4, false, data);
    }

    private static bool Same(float[,] expected, float[,] y, int from)
    {
        for (int t = 0; t < y.GetLength(0); t++)
        {
            for (int r = 0; r < y.GetLength(1); r++)
            {
                if (BitConverter.SingleToInt32Bits(expected[t, from + r]) != BitConverter.SingleToInt32Bits(y[t, r]))
                    return false;
            }
        }

        return true;
    }

    /// <summary>A random matrix at an odd address whose last byte is the last of its memory, random activations, and the scalar product of the two.</summary>
    private sealed class Case : IDisposable
    {
        private const int TokenGap = 5; // floats between the outputs of tokens: none may be written

        private readonly NativeBuffer<byte> _weights;
        private readonly NativeBuffer<byte> _quantized;
        private readonly float[] _x;
        private readonly int _tokens;

        public Case(WeightType type, int rows, int columns, int tokens, Random random, byte? fill = null, float? activation = null)
        {
            (int blockColumns, int blockBytes, SubBlock) = ReferenceBlocks.Layout(type);
            byte[] bytes = ReferenceBlocks.Random(type, rows, columns, random);
            if (fill is byte value)
                Fill(type, bytes, blockBytes, value);
            _weights = new NativeBuffer<byte>(bytes.Length + 1);
            bytes.CopyTo(_weights.Span[1..]);
            Matrix = new WeightMatrix(type, rows, columns, _weights.Pointer + 1, bytes.Length / rows);
            Weights = bytes.Chunk(bytes.Length / rows)
                .Select(row => row.Chunk(blockBytes).SelectMany(block => ReferenceBlocks.Block(type, block)).ToArray()).ToArray();
            Assert.Equal(columns / blockColumns * blockBytes, bytes.Length / rows);

            _tokens = tokens;
            _x = Enumerable.Range(0, tokens * columns).Select(_ => activation ?? (random.NextSingle() - 0.5f) * random.Next(1, 9)).ToArray();
            _quantized = new NativeBuffer<byte>(QuantizedActivations.Bytes(tokens, columns));
            Activations = new QuantizedActivations(_quantized.Pointer, tokens, columns);
            fixed (float* x = _x)
                ActivationQuantizer.Quantize(x, columns, 0, tokens, Activations);
        }

        public int SubBlock { get; }

        public WeightMatrix Matrix { get; }

        public Weight[][] Weights { get; }

        private QuantizedActivations Activations { get; }

        public float[,] Multiply(int from, int to, int tokens, float? before = null)
        {
            int rows = to - from, stride = rows + TokenGap;
            using NativeBuffer<byte> scratch = new(IntegerRows.ScratchBytes(Matrix.Columns));
            scratch.Span.Fill(0xFF); // NaN, should any of it be used unwritten
            float[] y = Enumerable.Repeat(before ?? float.NaN, tokens * stride).ToArray();
            fixed (float* output = y)
                IntegerRows.Multiply(Matrix, from, to, Activations, tokens, output, stride, before.HasValue, scratch.Pointer);

            float[,] result = new float[tokens, rows];
            for (int i = 0; i < y.Length; i++)
            {
                if (i % stride < rows)
                    result[i / stride, i % stride] = y[i];
                else
                    Assert.Equal(before ?? float.NaN, y[i]);
            }

            return result;
        }

        public float[,] MultiplyPanels<TTile>()
            where TTile : struct, IPanelTile
        {
            using NativeBuffer<byte> scratch = new(RowPanel.ScratchBytes);
            scratch.Span.Fill(0xFF);
            float[,] y = new float[_tokens, Matrix.Rows];
            fixed (float* output = y)
                QuantizedFormats.With(Matrix.Type, new PanelWork<TTile>(Matrix, Activations, _tokens, new Output(output, Matrix.Rows, accumulate: false), scratch.Pointer));
            return y;
        }

        /// <summary>The defined order, one operation after the other.</summary>
        public float[,] Reference()
        {
            float[,] y = new float[_tokens, Matrix.Rows];
            for (int t = 0; t < _tokens; t++)
            {
                for (int r = 0; r < Matrix.Rows; r++)
                    y[t, r] = Dot(Weights[r], t);
            }

            return y;
        }

        public (double Dot, double Magnitude) DotInDouble(int row, int token)
        {
            double dot = 0, magnitude = 0;
            for (int k = 0; k < Matrix.Columns; k++)
            {
                double product = (double)Weights[row][k].Value * _x[(token * Matrix.Columns) + k];
                dot += product;
                magnitude += Math.Abs(product);
            }

            return (dot, magnitude);
        }

        public void Dispose()
        {
            _weights.Dispose();
            _quantized.Dispose();
        }

        private float Dot(Weight[] weights, int token)
        {
            float[] lanes = new float[16];
            for (int b = 0; b < weights.Length / SubBlock; b++)
            {
                int dot = 0, sum = 0;
                for (int k = b * SubBlock; k < (b + 1) * SubBlock; k++)
                {
                    dot += weights[k].Code * Activations.Codes(token)[k];
                    sum += Activations.Codes(token)[k];
                }

                float scale = Activations.Scales(token)[b * SubBlock / 32];
                Weight first = weights[b * SubBlock];
                ref float lane = ref lanes[b % 16];
                lane = MathF.FusedMultiplyAdd(dot, first.Scale * scale, lane);
                if (first.Bias is float bias)
                    lane = MathF.FusedMultiplyAdd(bias, sum * scale, lane);
            }

            for (int half = 8; half > 0; half /= 2)
            {
                for (int l = 0; l < half; l++)
                    lanes[l] += lanes[l + half];
            }

            return lanes[0];
        }

        private static void Fill(WeightType type, byte[] bytes, int blockBytes, byte value)
        {
            int[] scales = type == WeightType.Q8_K ? [0, 1, 2, 3] : ReferenceBlocks.HalfOffsets(type).SelectMany(o => new[] { o, o + 1 }).ToArray();
            for (int i = 0; i < bytes.Length; i++)
            {
                if (!scales.Contains(i % blockBytes))
                    bytes[i] = value;
            }
        }
    }

    private readonly struct PanelWork<TTile>(WeightMatrix w, QuantizedActivations x, int tokens, Output output, byte* scratch) : IFormatWork
        where TTile : struct, IPanelTile
    {
        public void Do<TFormat>()
            where TFormat : struct, IQuantizedFormat => RowPanel.Multiply<TFormat, TTile>(w, 0, w.Rows, x, tokens, output, scratch);
    }
}
