namespace Qwen.Cpu.Tests;

public sealed unsafe class FloatFormatsTests
{
    [Fact]
    public void F16_WidensAll65536Values_Exactly()
    {
        using var halves = new NativeBuffer<ushort>(65536);
        using var floats = new NativeBuffer<float>(65536);
        for (int i = 0; i < 65536; i++)
            halves.Pointer[i] = (ushort)i;
        IFloatFormat.Widen<F16>((byte*)halves.Pointer, floats.Pointer, 65536);
        for (int i = 0; i < 65536; i++)
        {
            float expected = (float)BitConverter.UInt16BitsToHalf((ushort)i);
            if (float.IsNaN(expected))
                Assert.True(float.IsNaN(floats.Pointer[i]));
            else
                TestData.SameBits(expected, floats.Pointer[i], $"half {i:x4}");
        }
    }

    [Fact]
    public void F16_NarrowsAsTheRuntimeDoes_AtEveryRounding()
    {
        // All halves, the points midway between neighbours, and the floats just beside those.
        var values = new List<float>();
        for (int i = 0; i < 0x7c00; i++)
        {
            float a = (float)BitConverter.UInt16BitsToHalf((ushort)i), b = i + 1 == 0x7c00 ? 65536f : (float)BitConverter.UInt16BitsToHalf((ushort)(i + 1));
            float middle = (a + b) / 2;
            values.AddRange([a, -a, middle, -middle, MathF.BitIncrement(middle), MathF.BitDecrement(middle)]);
        }

        values.AddRange([float.MaxValue, float.PositiveInfinity, float.NegativeInfinity, float.NaN, 65519.996f, 65520f, float.Epsilon, 1e-30f]);
        CheckNarrow<F16>(values, v => BitConverter.HalfToUInt16Bits((Half)v), isNan: h => (h & 0x7fff) > 0x7c00);
    }

    [Fact]
    public void BF16_RoundsToNearestEven()
    {
        var random = new Random(1);
        var values = new List<float> { 0, -0f, 1, float.MaxValue, float.Epsilon, float.PositiveInfinity, float.NaN };
        for (int i = 0; i < 100_000; i++)
            values.Add(BitConverter.UInt32BitsToSingle(((uint)random.Next() << 1) & (i % 2 == 0 ? 0xffffffff : 0xffff8000)));
        CheckNarrow<BF16>(values, RoundToBF16, isNan: b => (b & 0x7fff) > 0x7f80);

        static ushort RoundToBF16(float v)
        {
            uint bits = BitConverter.SingleToUInt32Bits(v), low = bits & 0xffff, high = bits >> 16;
            bool up = low > 0x8000 || (low == 0x8000 && (high & 1) == 1);
            return (ushort)(high + (up ? 1u : 0u));
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(15)]
    [InlineData(17)]
    [InlineData(31)]
    public void Tails_TouchNothingBeyondTheirEnd(int count)
    {
        using NativeBuffer<float> source = TestData.Floats(new Random(count), count + 1);
        using var half = new NativeBuffer<ushort>(count + 32);
        half.Span.Fill(0xabcd);
        IFloatFormat.Narrow<F16>(source.Pointer, (byte*)half.Pointer, count);
        for (int i = 0; i < count; i++)
            Assert.Equal(BitConverter.HalfToUInt16Bits((Half)source.Pointer[i]), half.Pointer[i]);
        Assert.All(half.Span[count..].ToArray(), h => Assert.Equal(0xabcd, h));
    }

    private static void CheckNarrow<T>(List<float> values, Func<float, ushort> expected, Func<ushort, bool> isNan)
        where T : struct, IFloatFormat
    {
        using var source = new NativeBuffer<float>(values.Count);
        using var narrow = new NativeBuffer<ushort>(values.Count);
        values.CopyTo(source.Span);
        IFloatFormat.Narrow<T>(source.Pointer, (byte*)narrow.Pointer, values.Count);
        for (int i = 0; i < values.Count; i++)
        {
            if (float.IsNaN(values[i]))
                Assert.True(isNan(narrow.Pointer[i]));
            else
                Assert.True(expected(values[i]) == narrow.Pointer[i], $"{values[i]:R}: expected {expected(values[i]):x4}, got {narrow.Pointer[i]:x4}");
        }
    }
}
