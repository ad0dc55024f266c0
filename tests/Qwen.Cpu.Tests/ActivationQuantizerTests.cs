namespace Qwen.Cpu.Tests;

public sealed unsafe class ActivationQuantizerTests
{
    [Theory]
    [InlineData(32)]
    [InlineData(96)]
    [InlineData(512)]
    [InlineData(896)]
    public void Quantize_EqualsTheScalarDefinition(int columns)
    {
        int seed = Environment.TickCount;
        Random random = new(seed);
        const int Tokens = 5, Gap = 3;
        float[] x = new float[(Tokens * (columns + Gap)) + 1];
        for (int i = 0; i < x.Length; i++)
            x[i] = (random.NextSingle() - 0.5f) * MathF.Pow(10, random.Next(-6, 6));

        using NativeBuffer<byte> memory = new(QuantizedActivations.Bytes(Tokens, columns));
        memory.Span.Fill(0xFF);
        QuantizedActivations quantized = new(memory.Pointer, Tokens, columns);
        fixed (float* values = x)
        {
            ActivationQuantizer.Quantize(values + 1, columns + Gap, 0, 2, quantized);
            ActivationQuantizer.Quantize(values + 1, columns + Gap, 2, Tokens, quantized);
        }

        for (int t = 0; t < Tokens; t++)
        {
            for (int b = 0; b < quantized.PaddedColumns / 32; b++)
            {
                float[] block = b * 32 < columns ? x.AsSpan(1 + (t * (columns + Gap)) + (b * 32), 32).ToArray() : new float[32];
                float scale = block.Max(MathF.Abs) / 127f;
                int[] codes = block.Select(v => scale == 0 ? 0 : (int)MathF.Round(v * (1f / scale), MidpointRounding.ToEven)).ToArray();
                string what = $"seed {seed}, token {t}, block {b}";
                Assert.True(codes.SequenceEqual(Enumerable.Range(0, 32).Select(k => (int)quantized.Codes(t)[(b * 32) + k])), what);
                Assert.True(scale == quantized.Scales(t)[b], what);
                Assert.True(codes.Sum() == quantized.Sums(t, 32)[b], what);
                Assert.True(codes.Take(16).Sum() == quantized.Sums(t, 16)[2 * b], what);
                Assert.True(codes.Skip(16).Sum() == quantized.Sums(t, 16)[(2 * b) + 1], what);
            }
        }
    }

    [Theory]
    [InlineData(0f, 0f)]
    [InlineData(1e-40f, 0f)]
    [InlineData(float.NaN, float.NaN)]
    [InlineData(float.PositiveInfinity, float.NaN)]
    [InlineData(float.NegativeInfinity, float.NaN)]
    public void Quantize_GivesZeroCodes_WhereThereIsNoFiniteScale(float value, float scale)
    {
        float* x = stackalloc float[32];
        new Span<float>(x, 32).Fill(1e-40f);
        x[17] = value;
        using NativeBuffer<byte> memory = new(QuantizedActivations.Bytes(1, 32));
        QuantizedActivations quantized = new(memory.Pointer, 1, 32);
        ActivationQuantizer.Quantize(x, 32, 0, 1, quantized);
        Assert.Equal(scale, quantized.Scales(0)[0]);
        for (int k = 0; k < 32; k++)
            Assert.Equal(0, quantized.Codes(0)[k]);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-32)]
    [InlineData(48)]
    [InlineData(int.MaxValue)]
    public void Activations_WantWholeBlocks(int columns) =>
        Assert.ThrowsAny<ArgumentException>(() => QuantizedActivations.Bytes(1, columns));
}
