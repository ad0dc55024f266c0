namespace Qwen.Cpu.Tests;

public sealed unsafe class RmsNormTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Row_EqualsTheCanonicalOrder_BitForBit(Isa isa)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);
        foreach (int width in (ReadOnlySpan<int>)[1, 8, 15, 16, 17, 64, 128, 896, 1001])
        {
            int rows = random.Next(1, 5), stride = width + random.Next(3);
            using GuardedMemory<float> x = new(((rows - 1) * stride) + width), weight = new(width), y = new(((rows - 1) * stride) + width);
            foreach (ref float v in x.Span)
                v = random.NextSingle() - 0.5f;
            foreach (ref float v in weight.Span)
                v = random.NextSingle() + 0.5f;
            switch (isa)
            {
                case Isa.Avx512:
                    for (int r = 0; r < rows; r++)
                        RmsNorm.Row<Lanes512>(x.Pointer + (r * stride), weight.Pointer, 1e-6f, y.Pointer + (r * stride), width);
                    break;
                case Isa.Avx2:
                    for (int r = 0; r < rows; r++)
                        RmsNorm.Row<Lanes256>(x.Pointer + (r * stride), weight.Pointer, 1e-6f, y.Pointer + (r * stride), width);
                    break;
                default:
                    for (int r = 0; r < rows; r++)
                        RmsNorm.Row<Lanes128>(x.Pointer + (r * stride), weight.Pointer, 1e-6f, y.Pointer + (r * stride), width);
                    break;
            }

            for (int r = 0; r < rows; r++)
            {
                ReadOnlySpan<float> row = x.Span.Slice(r * stride, width);
                float scale = 1f / MathF.Sqrt((Canonical.Dot(row, row) / width) + 1e-6f);
                double mean = 0;
                foreach (float v in row)
                    mean += (double)v * v / width;
                for (int i = 0; i < width; i++)
                {
                    float canonical = (row[i] * scale) * weight.Span[i], actual = y.Span[(r * stride) + i];
                    Assert.True(canonical == actual, $"seed {seed}, width {width}: {actual:R}, canonical {canonical:R}");
                    double exact = row[i] / Math.Sqrt(mean + 1e-6f) * weight.Span[i];
                    Assert.InRange(Math.Abs(actual - exact), 0, 2e-6 * Math.Abs(exact));
                }
            }
        }
    }

    [Fact]
    public void Apply_NormalisesInPlace_AndKeepsZerosFinite()
    {
        float[] x = [3f, -3f, 0f, 0f], weight = [1f, 2f];
        using WorkerPool pool = new(2);
        fixed (float* p = x, w = weight)
            RmsNorm.Apply(pool, p, 2, w, 1e-12f, p, 2, 2, 2);
        Assert.Equal([1f, -2f, 0f, 0f], x);
    }
}
