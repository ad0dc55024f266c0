using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Formats;

public sealed class StoredMatrixTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-stored-").FullName;

    public static TheoryData<int> Schemes => [.. Enumerable.Range(0, All.Length)];

    private static Scheme[] All { get; } = [.. QuantizedSchemes.Repacked(), .. QuantizedSchemes.Widened(), .. QuantizedSchemes.Float8()];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [MemberData(nameof(Schemes))]
    public void Dequantize_GivesExactlyWhatWasPacked(int index)
    {
        Scheme scheme = All[index];
        var model = new TinyModel(scheme, seed: index, layers: 1);
        TinyModel.Write(_folder, model.Quantized, model.QuantizedConfig);
        using Checkpoint checkpoint = Checkpoint.Open(_folder);
        var reader = new StoredMatrixReader(checkpoint, QuantizationConfig.Parse(scheme.Config(), "config.json"));
        foreach ((string name, int rows, int columns) in model.Modules)
        {
            var values = new float[rows * columns];
            reader.Read(name, rows, columns).Dequantize(0, rows, values);
            byte[] expected = model.Exact[name + ".weight"].Data;
            Assert.True(MemoryMarshal.AsBytes<float>(values).SequenceEqual(expected), $"{scheme}: {name}");
        }
    }

    /// <summary>The word 0x76543210 holds nibble i in bits 4i: AWQ's rows 0, 2, 4, 6, 1, 3, 5, 7.</summary>
    [Fact]
    public void AwqWord_UnpacksByHand()
    {
        var tensors = new TensorSet();
        tensors.Add("m.qweight", TensorType.I32, [2, 1], [0x76543210, 0x0000000f]); // two columns of eight rows
        tensors.Add("m.qzeros", TensorType.I32, [1, 1], [0x00000003]); // row 0 has zero 3
        tensors.AddFloats("m.scales", TensorType.F16, [1, 8], [2, 1, 1, 1, 1, 1, 1, 0.5f]);
        float[] values = Read(tensors, new Scheme { Method = "awq", Group = -1 }.Config(), rows: 8, columns: 2);
        // Row 0 is nibble 0 (0, then 15), row 1 nibble 4, row 2 nibble 1, ... row 7 nibble 7.
        Assert.Equal([-6, 24, 4, 0, 1, 0, 5, 0, 2, 0, 6, 0, 3, 0, 3.5f, 0], values);
    }

    /// <summary>Bits 4i of GPTQ's word are input i of one output; the first format stores zeros less one.</summary>
    [Fact]
    public void GptqWord_UnpacksByHand()
    {
        var tensors = new TensorSet();
        tensors.Add("m.qweight", TensorType.I32, [1, 8], [0x76543210, 0, 0, 0, 0, 0, 0, unchecked((int)0xf0000000)]); // eight inputs of eight outputs
        tensors.Add("m.qzeros", TensorType.I32, [1, 1], [unchecked((int)0xf0000002)]); // outputs 0 and 7: 2 and 15, meaning 3 and 16
        tensors.AddFloats("m.scales", TensorType.F16, [1, 8], [0.5f, 1, 1, 1, 1, 1, 1, 2]);
        float[] values = Read(tensors, new Scheme { Method = "gptq", Group = -1 }.Config(), rows: 8, columns: 8);
        Assert.Equal([-1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2], values[..8]);
        Assert.Equal([-1, -1, -1, -1, -1, -1, -1, -1], values[8..16]); // a stored zero of 0 is 1
        Assert.Equal([-32, -32, -32, -32, -32, -32, -32, -2], values[56..]);
        float[] second = Read(tensors, new Scheme { Method = "gptq", Group = -1, IsV2 = true }.Config(), rows: 8, columns: 8);
        Assert.Equal([-1, -0.5f, 0, 0.5f, 1, 1.5f, 2, 2.5f], second[..8]);
    }

    [Theory]
    [InlineData(0x08, 0.015625)] // the smallest normal: 2^-6
    [InlineData(0x01, 0.001953125)] // the smallest: 2^-9
    [InlineData(0x7e, 448)]
    [InlineData(0xb8, -1)]
    public void Float8_IsE4M3TimesScale(byte code, double value)
    {
        var tensors = new TensorSet();
        tensors.Add("m.weight", TensorType.F8_E4M3, [1, 1], [code]);
        tensors.AddFloats("m.weight_scale", TensorType.F32, [1], [3]);
        Assert.Equal([(float)value * 3], Read(tensors, new Scheme { Method = "fp8" }.Config(), 1, 1));
    }

    [Fact]
    public void Read_NamesTensorAndValue()
    {
        Scheme gptq = new() { Method = "gptq", Group = 32, Order = "own" }, awq = new() { Method = "awq", Group = 32 }, block = new() { Method = "fp8", Strategy = "block", ScaleName = "weight_scale_inv" };
        Check(gptq, t => t["m.g_idx"].Data[4] = 9, "tensor 'm.g_idx' has the group 9 at 1; there are 2");
        Check(gptq, t => t["m.g_idx"].Data[3] = 0x80, "at 0; there are 2");
        Check(gptq, t => t.Remove("m.g_idx"), "has no 'm.g_idx' beside it");
        Check(gptq, t => t.Remove("m.qzeros"), "has no 'm.qzeros' beside it");
        Check(gptq, t => t["m.scales"] = (TensorType.F16, [2, 8], new byte[32]), "tensor 'm.scales' has shape [2, 8] where the model's hyperparameters ask for [2, 16]");
        Check(gptq, t => t["m.qweight"] = t["m.qweight"] with { Type = TensorType.F32 }, "tensor 'm.qweight' is stored as F32 where I32 is expected");
        Check(awq, t => t.Remove("m.scales"), "tensor 'm.scales' is missing");
        Check(awq, t => t["m.qzeros"] = t["m.qzeros"] with { Shape = [4, 1] }, "tensor 'm.qzeros' has shape [4, 1]");
        Check(block, t => t.Remove("m.weight_scale_inv"), "neither 'm.weight_scale_inv' nor 'm.weight_scale'");
        Check(awq, _ => { }, "is not what quantization_config's method fp8 stores", block.Config());
        Check(block, _ => { }, "is not what quantization_config's method awq stores", awq.Config());
        JsonObject dense = awq.Config();
        dense["modules_to_not_convert"] = new JsonArray("m");
        Check(awq, _ => { }, "lists its module as not converted", dense);
    }

    private void Check(Scheme scheme, Action<TensorSet> damage, string message, JsonObject? config = null)
    {
        var tensors = new TensorSet();
        scheme.Quantize(tensors, new Random(1), "m", 16, 64);
        damage(tensors);
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Read(tensors, config ?? scheme.Config(), 16, 64)).Message, StringComparison.Ordinal);
    }

    private float[] Read(TensorSet tensors, JsonObject config, int rows, int columns)
    {
        TinyModel.Write(_folder, tensors, []);
        using Checkpoint checkpoint = Checkpoint.Open(_folder);
        var values = new float[rows * columns];
        new StoredMatrixReader(checkpoint, QuantizationConfig.Parse(config, "config.json")).Read("m", rows, columns).Dequantize(0, rows, values);
        return values;
    }
}
