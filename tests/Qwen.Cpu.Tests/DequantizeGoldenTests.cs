using System.Text.Json;

namespace Qwen.Cpu.Tests;

public sealed unsafe class DequantizeGoldenTests
{
    [SkippableTheory]
    [InlineData(WeightType.Q4_0)]
    [InlineData(WeightType.Q4_1)]
    [InlineData(WeightType.Q5_0)]
    [InlineData(WeightType.Q5_1)]
    [InlineData(WeightType.Q8_0)]
    [InlineData(WeightType.Q2_K)]
    [InlineData(WeightType.Q3_K)]
    [InlineData(WeightType.Q4_K)]
    [InlineData(WeightType.Q5_K)]
    [InlineData(WeightType.Q6_K)]
    [InlineData(WeightType.IQ4_NL)]
    public void DequantizeRow_AndTheReference_EqualTheGoldens_BitForBit(WeightType type)
    {
        string? path = GoldenFile(type);
        Skip.If(path is null, "The golden data (../shared/golden/dequant) is not here.");
        JsonElement golden = JsonDocument.Parse(File.ReadAllBytes(path)).RootElement;
        byte[] raw = golden.GetProperty("raw_b64").GetBytesFromBase64();
        byte[] expected = golden.GetProperty("values_f32le_b64").GetBytesFromBase64();
        int blocks = golden.GetProperty("blocks").GetInt32(), blockBytes = golden.GetProperty("block_bytes").GetInt32();
        int columns = golden.GetProperty("block_elements").GetInt32() * blocks;

        float[] reference = raw.Chunk(blockBytes).SelectMany(block => ReferenceBlocks.Block(type, block)).Select(w => w.Value).ToArray();
        float[] values = new float[columns];
        fixed (byte* data = raw)
        {
            fixed (float* destination = values)
                IntegerRows.DequantizeRow(new WeightMatrix(type, 1, columns, data, raw.Length), 0, destination);
        }

        for (int i = 0; i < columns; i++)
        {
            float value = BitConverter.ToSingle(expected, i * 4);
            Assert.True(Same(value, reference[i]), $"reference, element {i}: {reference[i]:R} instead of {value:R}");
            Assert.True(Same(value, values[i]), $"element {i}: {values[i]:R} instead of {value:R}");
        }
    }

    private static bool Same(float a, float b) => BitConverter.SingleToInt32Bits(a) == BitConverter.SingleToInt32Bits(b);

    private static string? GoldenFile(WeightType type)
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (!File.Exists(Path.Combine(folder.FullName, "Engine.sln")))
                continue;
            string path = Path.Combine(folder.FullName, "..", "shared", "golden", "dequant", type.ToString().ToLowerInvariant() + ".json");
            return File.Exists(path) ? path : null;
        }

        return null;
    }
}
