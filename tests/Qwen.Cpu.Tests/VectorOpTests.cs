using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Tests;

public sealed unsafe class VectorOpTests
{
    [Fact]
    public void Exponential_IsWithinTwoUlps()
    {
        double worst = 0;
        for (float x = -87.3f; x < 88.7f; x += 0.00371f)
        {
            double exact = Math.Exp(x);
            float actual = Exponential.Of(Vector512.Create(x)).GetElement(5);
            worst = Math.Max(worst, Math.Abs(actual - exact) / (MathF.BitIncrement((float)exact) - (float)exact));
        }

        Assert.InRange(worst, 0, 2);
    }

    [Theory]
    [InlineData(0f, 1f)]
    [InlineData(float.NegativeInfinity, 0f)]
    [InlineData(-200f, 0f)]
    [InlineData(89f, float.PositiveInfinity)]
    [InlineData(float.PositiveInfinity, float.PositiveInfinity)]
    [InlineData(float.NaN, float.NaN)]
    public void Exponential_AtItsEnds(float x, float expected) => Assert.Equal(expected, Exponential.Of(Vector512.Create(x)).ToScalar());

    [Fact]
    public void SwiGlu_MatchesDoublePrecision_AtEveryLength()
    {
        for (int count = 0; count < 70; count++)
        {
            var random = new Random(count);
            using NativeBuffer<float> gate = TestData.Floats(random, count, 20), up = TestData.Floats(random, count, 3), y = TestData.Floats(random, count + 1);
            float guard = y.Pointer[count];
            SwiGlu.Apply(gate.Pointer, up.Pointer, y.Pointer, count);
            for (int i = 0; i < count; i++)
            {
                double exact = gate.Pointer[i] / (1 + Math.Exp(-(double)gate.Pointer[i])) * up.Pointer[i];
                Assert.Equal(exact, y.Pointer[i], Math.Abs(exact) * 1e-6);
            }

            Assert.Equal(guard, y.Pointer[count]);
        }
    }

    [Fact]
    public void SwiGlu_IsZero_WhereTheGateIsFarBelow()
    {
        float gate = -1000, up = 5, y = 1;
        SwiGlu.Apply(&gate, &up, &y, 1);
        Assert.Equal(0, y);
    }

    [Fact]
    public void RmsNorm_FollowsTheCanonicalOrder_AtEveryWidth()
    {
        using var pool = new WorkerPool(2);
        for (int width = 1; width < 80; width++)
        {
            var random = new Random(width);
            int rows = random.Next(1, 30), stride = width + random.Next(3);
            using NativeBuffer<float> x = TestData.Floats(random, (long)rows * stride, 10), weight = TestData.Floats(random, width), y = new((long)rows * stride);
            RmsNorm.Apply(pool, x.Pointer, stride, weight.Pointer, 1e-6f, y.Pointer, stride, rows, width);
            for (int r = 0; r < rows; r++)
            {
                float* row = x.Pointer + (r * stride);
                float scale = 1 / MathF.Sqrt((TestData.Dot(k => row[k], k => row[k], width) / width) + 1e-6f);
                for (int i = 0; i < width; i++)
                    TestData.SameBits(row[i] * scale * weight.Pointer[i], y.Pointer[(r * stride) + i], $"width {width}, row {r}, {i}");
            }
        }
    }

    [Theory]
    [InlineData(8)]
    [InlineData(32)]
    [InlineData(64)]
    [InlineData(80)]
    [InlineData(128)]
    public void Rope_TurnsPairs_ByPositionTimesFrequency(int headDim)
    {
        var random = new Random(headDim);
        int pairs = headDim / 2;
        double[] frequencies = [.. Enumerable.Range(0, pairs).Select(i => Math.Pow(1e6, -2.0 * i / headDim))];
        int[] positions = [0, 1, 777, 131071];
        using NativeBuffer<float> cos = new(4L * pairs), sin = new(4L * pairs);
        fixed (int* p = positions)
            Rope.ComputeAngles(p, 4, frequencies, 1.25, cos.Pointer, sin.Pointer);
        for (int t = 0; t < 4; t++)
        {
            using NativeBuffer<float> head = TestData.Floats(random, headDim);
            float[] before = head.Span.ToArray();
            Rope.Head(head.Pointer, headDim, cos.Pointer + (t * pairs), sin.Pointer + (t * pairs));
            for (int i = 0; i < pairs; i++)
            {
                (double s, double c) = Math.SinCos(positions[t] * frequencies[i]);
                Assert.Equal(((before[i] * c) - (before[i + pairs] * s)) * 1.25, head.Pointer[i], 1e-6);
                Assert.Equal(((before[i + pairs] * c) + (before[i] * s)) * 1.25, head.Pointer[i + pairs], 1e-6);
            }
        }
    }
}
