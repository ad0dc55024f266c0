namespace Qwen.Cpu.Tests;

public sealed unsafe class ExponentialTests
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
