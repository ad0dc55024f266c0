using System.Text.Json.Nodes;

namespace Qwen.Runtime.Formats;

/// <summary>The tensors and the configuration that AWQ, GPTQ and FP8 checkpoints of published Qwen models have, for made-up weights.</summary>
internal static class SyntheticQuantization
{
    private const int Group = 128;

    public static IReadOnlyList<string> Formats { get; } = ["awq", "gptq", "gptq-int8", "fp8", "fp8-block"];

    /// <summary>quantization_config; null for a format that is not one of these.</summary>
    public static JsonObject? Config(string format) => format switch
    {
        "awq" => new JsonObject { ["quant_method"] = "awq", ["bits"] = 4, ["group_size"] = Group, ["zero_point"] = true, ["version"] = "gemm" },
        "gptq" or "gptq-int8" => new JsonObject { ["quant_method"] = "gptq", ["bits"] = Bits(format), ["group_size"] = Group, ["desc_act"] = false, ["sym"] = true },
        "fp8" => new JsonObject
        {
            ["quant_method"] = "compressed-tensors",
            ["format"] = "float-quantized",
            ["config_groups"] = new JsonObject
            {
                ["group_0"] = new JsonObject { ["weights"] = new JsonObject { ["num_bits"] = 8, ["type"] = "float", ["strategy"] = "channel" } },
            },
        },
        "fp8-block" => new JsonObject { ["quant_method"] = "fp8", ["fmt"] = "e4m3", ["activation_scheme"] = "dynamic", ["weight_block_size"] = new JsonArray(Group, Group) },
        _ => null,
    };

    /// <summary>The tensors of a linear layer.</summary>
    public static SyntheticTensor[] Module(string format, string name, long outputs, long inputs)
    {
        long groups = Blocks(inputs), perWord = 32 / Bits(format);
        return format switch
        {
            "awq" =>
            [
                new(name + ".qweight", TensorType.I32, [inputs, outputs / perWord], SyntheticContent.Codes),
                new(name + ".qzeros", TensorType.I32, [groups, outputs / perWord], SyntheticContent.AwqZeros),
                new(name + ".scales", TensorType.F16, [groups, outputs], SyntheticContent.Int4Scales),
            ],
            "gptq" or "gptq-int8" =>
            [
                new(name + ".qweight", TensorType.I32, [inputs / perWord, outputs], SyntheticContent.Codes),
                new(name + ".qzeros", TensorType.I32, [groups, outputs / perWord], Bits(format) == 4 ? SyntheticContent.GptqInt4Zeros : SyntheticContent.GptqInt8Zeros),
                new(name + ".scales", TensorType.F16, [groups, outputs], Bits(format) == 4 ? SyntheticContent.Int4Scales : SyntheticContent.Int8Scales),
                new(name + ".g_idx", TensorType.I32, [inputs], SyntheticContent.GroupIndex),
            ],
            _ =>
            [
                new(name + ".weight", TensorType.F8_E4M3, [outputs, inputs], SyntheticContent.Float8Codes),
                format == "fp8"
                    ? new(name + ".weight_scale", TensorType.BF16, [outputs, 1], SyntheticContent.Float8Scales)
                    : new(name + ".weight_scale_inv", TensorType.BF16, [Blocks(outputs), groups], SyntheticContent.Float8Scales),
            ],
        };
    }

    private static int Bits(string format) => format is "awq" or "gptq" ? 4 : 8;

    private static long Blocks(long size) => (size + Group - 1) / Group;
}
