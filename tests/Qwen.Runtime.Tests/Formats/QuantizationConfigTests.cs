using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Formats;

public sealed class QuantizationConfigTests
{
    [Fact]
    public void Parse_ReadsPublishedConfigs()
    {
        QuantizationConfig awq = Parse("""{"bits": 4, "group_size": 128, "modules_to_not_convert": null, "quant_method": "awq", "version": "gemm", "zero_point": true}""");
        Assert.Equal((QuantizationKind.Awq, 4, 128, true), (awq.Kind, awq.Bits, awq.GroupSize, awq.HasZeroPoints));
        QuantizationConfig old = Parse("""{"w_bit": 4, "q_group_size": -1, "quant_method": "awq", "version": "GEMM"}""");
        Assert.Equal((4, -1), (old.Bits, old.GroupSize));
        QuantizationConfig gptq = Parse("""{"batch_size": 1, "bits": 8, "damp_percent": 0.01, "dataset": null, "desc_act": true, "group_size": 128, "quant_method": "gptq", "sym": true, "true_sequential": true, "use_cuda_fp16": false}""");
        Assert.Equal((QuantizationKind.Gptq, 8, true, 1), (gptq.Kind, gptq.Bits, gptq.DescAct, gptq.ZeroOffset));
        Assert.Equal(0, Parse("""{"bits": 4, "group_size": 128, "quant_method": "gptq", "checkpoint_format": "gptq_v2", "dynamic": {}}""").ZeroOffset);
        QuantizationConfig fp8 = Parse("""{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}""");
        Assert.Equal((QuantizationKind.Float8, (128, 128)), (fp8.Kind, fp8.Block));
        QuantizationConfig compressed = Parse("""{"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128x64"}}}}""");
        Assert.Equal((128, 64), compressed.Block);
        Assert.True(compressed.IsUnconverted("lm_head"));
        Assert.Equal("fbgemm_fp8", Parse("""{"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}""").Method);
    }

    [Theory]
    [InlineData("""{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}""", "quantization_config.version: 'gemv' is not supported")]
    [InlineData("""{"quant_method": "awq", "bits": 3, "group_size": 128}""", "quantization_config.bits: 3 is not supported; supported is 4")]
    [InlineData("""{"quant_method": "awq", "bits": 4}""", "group_size: is missing")]
    [InlineData("""{"quant_method": "gptq", "bits": 2, "group_size": 128}""", "2 is not supported; supported is 4 or 8")]
    [InlineData("""{"quant_method": "gptq", "bits": 4, "group_size": 0}""", "0 is neither -1 nor between 1")]
    [InlineData("""{"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}""", "'marlin' is not supported")]
    [InlineData("""{"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:.*down_proj": {}}}""", "overrides for single modules ('-:.*down_proj')")]
    [InlineData("""{"quant_method": "fp8", "fmt": "e5m2"}""", "'e5m2' is not supported")]
    [InlineData("""{"quant_method": "fp8", "weight_block_size": [128]}""", "[128] is not a block of rows and columns")]
    [InlineData("""{"quant_method": "fp8", "weight_block_size": [0, 128]}""", "[0,128] is not a block")]
    [InlineData("""{"quant_method": "fp8", "ignored_layers": [1]}""", "ignored_layers: 1 is not a string")]
    [InlineData("""{"quant_method": "compressed-tensors", "format": "pack-quantized"}""", "'pack-quantized' is not supported")]
    [InlineData("""{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}}""", "config_groups.group_0.weights.type: 'int' is not supported")]
    [InlineData("""{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"a": {"weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128"}}}}""", "is not a block of rows and columns")]
    [InlineData("""{"quant_method": "bitsandbytes"}""", "'bitsandbytes' is not supported; supported are awq, gptq, fp8")]
    [InlineData("{}", "quant_method: is missing")]
    public void Parse_NamesFieldAndValue(string json, string message) =>
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Parse(json)).Message, StringComparison.Ordinal);

    [Fact]
    public void IsUnconverted_MatchesWholeParts()
    {
        QuantizationConfig config = Parse("""{"quant_method": "fp8", "modules_to_not_convert": ["mlp.gate", "lm_head", "layers.1", ""]}""");
        Assert.True(config.IsUnconverted("model.layers.1.mlp.up_proj"));
        Assert.True(config.IsUnconverted("model.layers.0.mlp.gate"));
        Assert.False(config.IsUnconverted("model.layers.0.mlp.gate_proj"));
        Assert.False(config.IsUnconverted("model.layers.11.self_attn.q_proj"));
    }

    /// <summary>AutoGPTQ's own file counts where config.json says nothing.</summary>
    [Fact]
    public void QuantizeConfigJson_IsRead()
    {
        string folder = Directory.CreateTempSubdirectory("qwen-gptq-").FullName;
        try
        {
            Scheme scheme = new() { Method = "gptq", Group = 32 };
            var model = new TinyModel(scheme, seed: 5, hidden: 64, intermediate: 64, layers: 1);
            TinyModel.Write(folder, model.Quantized, model.Config);
            using Checkpoint checkpoint = Checkpoint.Open(folder);
            Assert.Null(ModelConfig.Load(checkpoint).Quantization);
            string file = Path.Combine(folder, "quantize_config.json");
            File.WriteAllText(file, """{"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": false, "sym": false, "model_file_base_name": "model"}""");
            QuantizationConfig config = ModelConfig.Load(checkpoint).Quantization!;
            Assert.Equal((QuantizationKind.Gptq, 4, 32, 1), (config.Kind, config.Bits, config.GroupSize, config.ZeroOffset));
            File.WriteAllText(file, """{"bits": 5, "group_size": 32}""");
            Assert.Contains("quantize_config.json: bits: 5", Assert.Throws<ModelFormatException>(() => ModelConfig.Load(checkpoint)).Message, StringComparison.Ordinal);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static QuantizationConfig Parse(string json) => QuantizationConfig.Parse(JsonNode.Parse(json)!.AsObject(), "config.json");
}
