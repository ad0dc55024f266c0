namespace Qwen.Cpu.Tests;

public sealed unsafe class SwiGluTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Apply_IsAccurate_AndNeverOverflows(Isa isa)
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
                    SwiGlu.Apply<Lanes512>(gate.Pointer, up.Pointer, result.Pointer, count);
                    break;
                case Isa.Avx2:
                    SwiGlu.Apply<Lanes256>(gate.Pointer, up.Pointer, result.Pointer, count);
                    break;
                default:
                    SwiGlu.Apply<Lanes128>(gate.Pointer, up.Pointer, result.Pointer, count);
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
}
