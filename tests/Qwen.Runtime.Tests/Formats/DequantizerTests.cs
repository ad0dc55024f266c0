using System.Runtime.InteropServices;
using System.Text.Json;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Formats;

public sealed class DequantizerTests
{
    [SkippableTheory]
    [InlineData(TensorType.F32)]
    [InlineData(TensorType.F16)]
    [InlineData(TensorType.BF16)]
    [InlineData(TensorType.Q4_0)]
    [InlineData(TensorType.Q4_1)]
    [InlineData(TensorType.Q5_0)]
    [InlineData(TensorType.Q5_1)]
    [InlineData(TensorType.Q8_0)]
    [InlineData(TensorType.Q2_K)]
    [InlineData(TensorType.Q3_K)]
    [InlineData(TensorType.Q4_K)]
    [InlineData(TensorType.Q5_K)]
    [InlineData(TensorType.Q6_K)]
    [InlineData(TensorType.IQ4_NL)]
    public void Dequantize_EqualsTheGolden_BitForBit(TensorType type)
    {
        string path = Repository.Golden("dequant", $"{type}.json".ToLowerInvariant());
        using JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(path));
        Assert.Equal(type.BlockBytes, json.RootElement.GetProperty("block_bytes").GetInt32());
        Assert.Equal(type.BlockElements, json.RootElement.GetProperty("block_elements").GetInt32());
        byte[] blocks = json.RootElement.GetProperty("raw_b64").GetBytesFromBase64();
        ReadOnlySpan<float> expected = MemoryMarshal.Cast<byte, float>(json.RootElement.GetProperty("values_f32le_b64").GetBytesFromBase64());
        var values = new float[expected.Length];
        Dequantizer.Dequantize(type, blocks, values);
        for (int i = 0; i < values.Length; i++)
            Assert.True(BitConverter.SingleToInt32Bits(expected[i]) == BitConverter.SingleToInt32Bits(values[i]), $"{type} value {i}: {values[i]:R}, golden {expected[i]:R}");
    }

    [Fact]
    public void Q8K_IsScaleTimesCode()
    {
        byte[] block = new byte[292];
        BitConverter.TryWriteBytes(block, 0.25f);
        for (int i = 0; i < 256; i++)
            block[4 + i] = (byte)(i - 128);
        var values = new float[256];
        Dequantizer.Dequantize(TensorType.Q8_K, block, values);
        Assert.Equal(Enumerable.Range(-128, 256).Select(c => c * 0.25f), values);
    }

    /// <summary>IQ4_XS with a scale of 32 + k in sub-block k is IQ4_NL with the scale k * d.</summary>
    [Fact]
    public void IQ4XS_IsIQ4NL_WithSixBitScales()
    {
        var random = new Random(1);
        byte[] block = new byte[136];
        random.NextBytes(block);
        BitConverter.TryWriteBytes(block, (Half)0.5f);
        var values = new float[256];
        Dequantizer.Dequantize(TensorType.IQ4_XS, block, values);
        int high = block[2] | block[3] << 8;
        for (int s = 0; s < 8; s++)
        {
            int scale = (s % 2 == 0 ? block[4 + (s / 2)] & 15 : block[4 + (s / 2)] >> 4) + (((high >> (2 * s)) & 3) * 16) - 32;
            byte[] simple = [.. BitConverter.GetBytes((Half)(0.5f * scale)), .. block.AsSpan(8 + (s * 16), 16)];
            var expected = new float[32];
            Dequantizer.Dequantize(TensorType.IQ4_NL, simple, expected);
            Assert.Equal(expected, values[(s * 32)..((s + 1) * 32)]);
        }
    }

    [Theory]
    [InlineData(0x00, 0f)]
    [InlineData(0x80, -0f)]
    [InlineData(0x38, 1f)]
    [InlineData(0x7e, 448f)]
    [InlineData(0x01, 0.001953125f)]
    [InlineData(0x08, 0.015625f)]
    [InlineData(0xff, float.NaN)]
    public void E4M3_KnownValues(byte bits, float value)
    {
        var values = new float[1];
        Dequantizer.Dequantize(TensorType.F8_E4M3, [bits], values);
        Assert.Equal(value, values[0]);
    }

    [Theory]
    [InlineData(0x3c, 1f)]
    [InlineData(0x7b, 57344f)]
    [InlineData(0x7c, float.PositiveInfinity)]
    [InlineData(0x01, 1.52587890625e-05f)]
    public void E5M2_KnownValues(byte bits, float value)
    {
        var values = new float[1];
        Dequantizer.Dequantize(TensorType.F8_E5M2, [bits], values);
        Assert.Equal(value, values[0]);
    }

    [Fact]
    public void Dequantize_RefusesLengthsThatDoNotFit() =>
        Assert.Throws<ArgumentException>(() => Dequantizer.Dequantize(TensorType.Q4_0, new byte[18], new float[31]));
}
