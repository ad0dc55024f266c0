namespace Qwen.Cpu.Tests;

public sealed unsafe class RopeTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Head_RotatesPairsHalfAHeadApart_AndLeavesTheRest(Isa isa)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);
        foreach ((int headDim, int rotaryDim) in (ReadOnlySpan<(int, int)>)[(8, 8), (32, 32), (64, 64), (80, 80), (128, 128), (128, 64), (256, 64), (24, 20)])
        {
            const int Tokens = 3, Heads = 2;
            int pairs = rotaryDim / 2, stride = (Heads * headDim) + 5;
            double[] inverseFrequencies = [.. Enumerable.Range(0, pairs).Select(i => Math.Pow(1e6, -2.0 * i / rotaryDim))];
            int[] positions = [0, random.Next(40_000), random.Next(40_000)];
            using GuardedMemory<float> x = new(((Tokens - 1) * stride) + (Heads * headDim)), cos = new(Tokens * pairs), sin = new(Tokens * pairs);
            foreach (ref float v in x.Span)
                v = random.NextSingle() - 0.5f;
            float[] before = x.Span.ToArray();
            fixed (int* p = positions)
                Rope.ComputeAngles(p, Tokens, inverseFrequencies, 1.25, cos.Pointer, sin.Pointer);
            for (int t = 0; t < Tokens; t++)
            {
                for (int h = 0; h < Heads; h++)
                    Rotate(isa, x.Pointer + (t * stride) + (h * headDim), rotaryDim, cos.Pointer + (t * pairs), sin.Pointer + (t * pairs));
            }

            float[] expected = [.. before];
            for (int i = 0; i < Tokens * Heads * pairs; i++)
            {
                int t = i / (Heads * pairs), pair = i % pairs, at = (t * stride) + (i / pairs % Heads * headDim) + pair;
                float a = before[at], b = before[at + pairs], c = cos.Span[(t * pairs) + pair], s = sin.Span[(t * pairs) + pair];
                expected[at] = (a * c) - (b * s);
                expected[at + pairs] = (b * c) + (a * s);
                (double exactSin, double exactCos) = Math.SinCos(positions[t] * inverseFrequencies[pair]);
                Assert.InRange(Math.Abs(expected[at] - (1.25 * ((a * exactCos) - (b * exactSin)))), 0, 3e-7);
            }

            Assert.True(expected.AsSpan().SequenceEqual(x.Span), $"seed {seed}, head {headDim}, rotary {rotaryDim}");
        }
    }

    private static void Rotate(Isa isa, float* head, int rotaryDim, float* cos, float* sin)
    {
        switch (isa)
        {
            case Isa.Avx512:
                Rope.Head<Lanes512>(head, rotaryDim / 2, cos, sin);
                break;
            case Isa.Avx2:
                Rope.Head<Lanes256>(head, rotaryDim / 2, cos, sin);
                break;
            default:
                Rope.Head<Lanes128>(head, rotaryDim / 2, cos, sin);
                break;
        }
    }
}
