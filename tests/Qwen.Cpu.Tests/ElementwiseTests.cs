namespace Qwen.Cpu.Tests;

public sealed unsafe class ElementwiseTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Exp_IsWithinOneAndAHalfUlp_OverItsWholeRange(Isa isa)
    {
        isa.SkipUnlessSupported();
        float[] x = [.. Enumerable.Range(0, 200_000).Select(i => -90f + (i * 178.7f / 200_000))];
        float[] y = Exp(isa, x);
        for (int i = 0; i < x.Length; i++)
        {
            Assert.Equal(BitConverter.SingleToInt32Bits(Canonical.Exp(x[i])), BitConverter.SingleToInt32Bits(y[i]));
            double exact = Math.Exp(x[i]);
            double ulp = MathF.BitIncrement((float)exact) - (float)exact;
            Assert.True(Math.Abs(y[i] - exact) <= 1.5 * ulp, $"e^{x[i]:R} = {y[i]:R}, exactly {exact:R}");
        }
    }

    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Exp_HandlesTheEnds(Isa isa)
    {
        isa.SkipUnlessSupported();
        float[] y = Exp(isa, [0f, -0f, float.NegativeInfinity, -200f, -103f, -88f, float.PositiveInfinity, 89f, float.NaN, 88.7f, 0f, 0f, 0f, 0f, 0f, 0f]);
        Assert.Equal([1f, 1f, 0f, 0f, float.Epsilon], y[..5]);
        Assert.InRange(y[5], 6.0e-39f, 6.1e-39f); // Subnormal.
        Assert.Equal([float.PositiveInfinity, float.PositiveInfinity, float.NaN], y[6..9]);
        Assert.True(float.IsFinite(y[9]));
    }

    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void SwiGlu_IsAccurate_AndNeverOverflows(Isa isa)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);
        for (int count = 1; count < 100; count++)
        {
            using GuardedMemory<float> gate = new(count), up = new(count), result = new(count);
            for (int i = 0; i < count; i++)
            {
                gate.Span[i] = (random.NextSingle() - 0.5f) * MathF.Pow(10, random.Next(-3, 3));
                up.Span[i] = random.NextSingle() - 0.5f;
            }

            switch (isa)
            {
                case Isa.Avx512:
                    Elementwise.SwiGlu<Lanes512>(gate.Pointer, up.Pointer, result.Pointer, count);
                    break;
                case Isa.Avx2:
                    Elementwise.SwiGlu<Lanes256>(gate.Pointer, up.Pointer, result.Pointer, count);
                    break;
                default:
                    Elementwise.SwiGlu<Lanes128>(gate.Pointer, up.Pointer, result.Pointer, count);
                    break;
            }

            for (int i = 0; i < count; i++)
            {
                float g = gate.Span[i], e = Canonical.Exp(-MathF.Abs(g));
                float canonical = ((g < 0 ? g * e : g) / (1f + e)) * up.Span[i];
                Assert.True(BitConverter.SingleToInt32Bits(canonical) == BitConverter.SingleToInt32Bits(result.Span[i]), $"seed {seed}, gate {g:R}");
                double exact = g / (1 + Math.Exp(-(double)g)) * up.Span[i];
                Assert.True(Math.Abs(result.Span[i] - exact) <= (4e-7 * Math.Abs(exact)) + 1e-38, $"seed {seed}: silu({g:R}) * {up.Span[i]:R} = {result.Span[i]:R}");
            }
        }
    }

    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Add_AddsInPlace_AtEveryLength(Isa isa)
    {
        isa.SkipUnlessSupported();
        for (int count = 0; count < 50; count++)
        {
            using GuardedMemory<float> a = new(count), b = new(count);
            for (int i = 0; i < count; i++)
                (a.Span[i], b.Span[i]) = (i, 0.1f * i);
            switch (isa)
            {
                case Isa.Avx512:
                    Elementwise.Add<Lanes512>(a.Pointer, b.Pointer, a.Pointer, count);
                    break;
                case Isa.Avx2:
                    Elementwise.Add<Lanes256>(a.Pointer, b.Pointer, a.Pointer, count);
                    break;
                default:
                    Elementwise.Add<Lanes128>(a.Pointer, b.Pointer, a.Pointer, count);
                    break;
            }

            for (int i = 0; i < count; i++)
                Assert.Equal(i + (0.1f * i), a.Span[i]);
        }
    }

    private static float[] Exp(Isa isa, float[] x)
    {
        Assert.Equal(0, x.Length % 16);
        float[] y = new float[x.Length];
        fixed (float* source = x, target = y)
        {
            for (int i = 0; i < x.Length; i += 16)
            {
                switch (isa)
                {
                    case Isa.Avx512:
                        Lanes512.Store(Exponential.Exp(Lanes512.Load(source + i)), target + i);
                        break;
                    case Isa.Avx2:
                        Lanes256.Store(Exponential.Exp(Lanes256.Load(source + i)), target + i);
                        break;
                    default:
                        Lanes128.Store(Exponential.Exp(Lanes128.Load(source + i)), target + i);
                        break;
                }
            }
        }

        return y;
    }
}
