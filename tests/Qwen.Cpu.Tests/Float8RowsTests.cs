namespace Qwen.Cpu.Tests;

public sealed unsafe class Float8RowsTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Multiply_EqualsTheWidenedMatrix_InTheCanonicalOrder_BitForBit(Isa isa)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);
        for (int round = 0; round < 60; round++)
        {
            int rows = random.Next(1, 70), tokens = round % 3 == 0 ? 1 : random.Next(1, 30);
            int columns = round % 4 == 0 ? random.Next(1, 300) : random.Next(1, 40) * 16;
            (int blockRows, int blockColumns) = (round % 5) switch
            {
                0 => (rows, columns),
                1 => (1, columns),
                2 => (1, columns + 7),
                3 => (3, 16),
                _ => (128, 128),
            };
            Check(isa, rows, columns, tokens, blockRows, blockColumns, random, $"seed {seed}, round {round}: {isa} [{rows}, {columns}], {tokens} tokens, blocks [{blockRows}, {blockColumns}]");
        }
    }

    [Fact]
    public void DequantizeRow_GivesEveryCodeTimesItsScale()
    {
        byte[] codes = [.. Enumerable.Range(0, 256).Where(c => (c & 0x7F) != 0x7F).Select(c => (byte)c)];
        float[] values = new float[codes.Length];
        foreach (float scale in (ReadOnlySpan<float>)[1f, -0.37f, 1e-30f, 127.9f, 0f, float.Epsilon])
        {
            float held = scale;
            fixed (byte* data = codes)
            {
                fixed (float* destination = values)
                    Float8Rows.DequantizeRow(new WeightMatrix(WeightType.F8_E4M3, 1, codes.Length, data, codes.Length, new ScaleGrid(&held, 1, codes.Length)), 0, destination);
            }

            Assert.Equal(codes.Select(c => BitConverter.SingleToInt32Bits(E4M3(c) * scale)), values.Select(BitConverter.SingleToInt32Bits));
        }
    }

    private static void Check(Isa isa, int rows, int columns, int tokens, int blockRows, int blockColumns, Random random, string what)
    {
        using GuardedMemory<byte> codes = new((long)rows * columns);
        foreach (ref byte code in codes.Span)
            code = (byte)(random.Next(127) | (random.Next(2) << 7));
        int across = (columns + blockColumns - 1) / blockColumns;
        float[] grid = [.. Enumerable.Range(0, (rows + blockRows - 1) / blockRows * across).Select(_ => (random.NextSingle() - 0.3f) * 0.01f)];
        using GuardedMemory<float> x = new((long)tokens * columns);
        foreach (ref float value in x.Span)
            value = (random.NextSingle() * 2) - 1;
        int from = random.Next(rows), to = random.Next(from, rows) + 1, stride = to - from;
        bool accumulate = random.Next(2) == 0;
        using GuardedMemory<float> y = new((long)tokens * stride);
        y.Span.Fill(0.5f);
        using NativeBuffer<byte> scratch = new(Float8Rows.ScratchBytes(columns));
        scratch.Span.Fill(0xFF);
        fixed (float* scales = grid)
        {
            WeightMatrix w = new(WeightType.F8_E4M3, rows, columns, codes.Pointer, columns, new ScaleGrid(scales, blockRows, blockColumns));
            FloatVectors vectors = new(x.Pointer, columns, tokens);
            FloatOutput output = new(y.Pointer, stride, accumulate);
            switch (isa)
            {
                case Isa.Avx512:
                    Float8Rows.Multiply<Lanes512>(w, from, to, vectors, output, scratch.Pointer);
                    break;
                case Isa.Avx2:
                    Float8Rows.Multiply<Lanes256>(w, from, to, vectors, output, scratch.Pointer);
                    break;
                default:
                    Float8Rows.Multiply<Lanes128>(w, from, to, vectors, output, scratch.Pointer);
                    break;
            }
        }

        for (int r = from; r < to; r++)
        {
            float[] row = [.. Enumerable.Range(0, columns).Select(k => E4M3(codes.Span[(r * columns) + k]) * grid[(r / blockRows * across) + (k / blockColumns)])];
            for (int t = 0; t < tokens; t++)
            {
                float dot = Canonical.Dot(row, x.Span.Slice(t * columns, columns)), expected = accumulate ? 0.5f + dot : dot;
                float actual = y.Span[(t * stride) + r - from];
                Assert.True(BitConverter.SingleToInt32Bits(expected) == BitConverter.SingleToInt32Bits(actual), $"{what}: y[{t}, {r}] is {actual:R}, not {expected:R}");
            }
        }
    }

    /// <summary>OCP 8-bit floating point, E4M3: sign, 4 bits of exponent with bias 7, 3 of fraction; no infinities.</summary>
    private static float E4M3(byte code)
    {
        int exponent = (code >> 3) & 15, fraction = code & 7;
        float magnitude = exponent == 0 ? MathF.ScaleB(fraction, -9) : MathF.ScaleB(8 + fraction, exponent - 10);
        return code >= 0x80 ? -magnitude : magnitude;
    }
}
