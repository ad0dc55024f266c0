namespace Qwen.Cpu.Tests;

public sealed unsafe class FloatRowsTests
{
    public static TheoryData<WeightType> Types => [WeightType.F32, WeightType.F16, WeightType.BF16];

    /// <summary>Every element equals the canonical sum to the bit, whatever the rows and tokens that are computed with it.</summary>
    [Theory]
    [MemberData(nameof(Types))]
    public void Multiply_FollowsTheCanonicalOrder(WeightType type)
    {
        for (int seed = 0; seed < 150; seed++)
        {
            var random = new Random(seed);
            int rows = random.Next(1, 40), columns = random.Next(1, 130), tokens = random.Next(1, 12);
            int from = random.Next(rows), to = random.Next(from + 1, rows + 1);
            bool accumulate = random.Next(2) == 0;
            (NativeBuffer<byte> bytes, WeightMatrix w, Func<int, int, float> value) = TestData.Matrix(random, type, rows, columns);
            int xStride = columns + random.Next(5), yStride = to - from + random.Next(5);
            using NativeBuffer<float> x = TestData.Floats(random, (long)tokens * xStride), y = TestData.Floats(random, (long)tokens * yStride);
            using var scratch = new NativeBuffer<byte>(FloatRows.ScratchBytes(columns));
            float[] before = y.Span.ToArray();

            FloatRows.Multiply(w, from, to, x.Pointer, xStride, tokens, y.Pointer, yStride, accumulate, scratch.Pointer);

            for (int t = 0; t < tokens; t++)
            {
                for (int c = 0; c < yStride; c++)
                {
                    int i = (t * yStride) + c;
                    float expected = before[i];
                    if (c < to - from)
                    {
                        float dot = TestData.Dot(k => value(from + c, k), k => x.Pointer[(t * xStride) + k], columns);
                        expected = accumulate ? before[i] + dot : dot;
                    }

                    TestData.SameBits(expected, y.Pointer[i], $"{type}, seed {seed}, token {t}, row {from + c}");
                }
            }

            bytes.Dispose();
        }
    }

    [Theory]
    [InlineData(896)]
    [InlineData(4864)]
    public void Multiply_IsCloseToDoublePrecision(int columns)
    {
        var random = new Random(3);
        (NativeBuffer<byte> bytes, WeightMatrix w, Func<int, int, float> value) = TestData.Matrix(random, WeightType.BF16, 20, columns);
        using NativeBuffer<float> x = TestData.Floats(random, 7L * columns), y = new(7 * 20);
        using var scratch = new NativeBuffer<byte>(FloatRows.ScratchBytes(columns));
        FloatRows.Multiply(w, 0, 20, x.Pointer, columns, 7, y.Pointer, 20, false, scratch.Pointer);
        for (int t = 0; t < 7; t++)
        {
            for (int r = 0; r < 20; r++)
            {
                double exact = 0, magnitude = 0;
                for (int k = 0; k < columns; k++)
                {
                    double term = (double)value(r, k) * x.Pointer[(t * columns) + k];
                    exact += term;
                    magnitude += Math.Abs(term);
                }

                Assert.Equal(exact, y.Pointer[(t * 20) + r], magnitude * 2e-6);
            }
        }

        bytes.Dispose();
    }
}
