using System.Globalization;
using System.Text.Json.Nodes;

namespace Qwen.Runtime.Formats;

/// <summary>How the linear layers of a Hugging Face checkpoint are quantized.</summary>
public enum QuantizationKind
{
    /// <summary>4-bit codes packed along the outputs, nibbles interleaved (AutoAWQ's "gemm" version).</summary>
    Awq,

    /// <summary>4- or 8-bit codes packed along the inputs (AutoGPTQ, GPTQModel).</summary>
    Gptq,

    /// <summary>8-bit floats (E4M3) with a scale per tensor, per output or per block.</summary>
    Float8,
}

/// <summary><c>quantization_config</c> of config.json, as far as it says how stored weights are to be read. What concerns activations is left unread.</summary>
public sealed record QuantizationConfig
{
    private const int MostGroup = 1 << 20;

    private QuantizationConfig()
    {
    }

    /// <summary>The name of the method: awq, gptq, fp8, compressed-tensors or fbgemm_fp8.</summary>
    public required string Method { get; init; }

    /// <summary>The layout that the method stands for.</summary>
    public required QuantizationKind Kind { get; init; }

    /// <summary>Bits of a code.</summary>
    public required int Bits { get; init; }

    /// <summary>Inputs that share a scale; -1 for all of them. AWQ and GPTQ only.</summary>
    public int GroupSize { get; init; } = -1;

    /// <summary>AWQ: codes have zero points; without, zero is the middle code.</summary>
    public bool HasZeroPoints { get; init; } = true;

    /// <summary>What is added to a stored zero point: 1 in GPTQ's first checkpoint format.</summary>
    public int ZeroOffset { get; init; }

    /// <summary>GPTQ: inputs were quantized in the order of their activations, so any input may be in any group.</summary>
    public bool DescAct { get; init; }

    /// <summary>FP8: outputs and inputs of a block that shares a scale; null for a scale per tensor or per output.</summary>
    public (int Rows, int Columns)? Block { get; init; }

    /// <summary>Modules that stayed dense, by their whole name or part of it.</summary>
    public IReadOnlyList<string> Unconverted { get; init; } = [];

    /// <summary>Reads <c>quantization_config</c>.</summary>
    /// <param name="json">The object.</param>
    /// <param name="file">The file it is in, for errors.</param>
    /// <exception cref="ModelFormatException">A method, or a variant of it, that is not supported.</exception>
    public static QuantizationConfig Parse(JsonObject json, string file)
    {
        var fields = new JsonFields(json, file, "quantization_config");
        return fields.String("quant_method") switch
        {
            "awq" => Awq(fields),
            "gptq" => Gptq(fields),
            "fp8" => Float8("fp8", fields, CheckedFp8(fields)),
            "fbgemm_fp8" => Float8("fbgemm_fp8", fields, block: null),
            "compressed-tensors" => Float8("compressed-tensors", fields, CompressedTensors(fields, file)),
            null => throw fields.Error("quant_method", "is missing"),
            { } other => throw fields.Error("quant_method", $"'{other}' is not supported; supported are awq, gptq, fp8, compressed-tensors (float-quantized) and fbgemm_fp8"),
        };
    }

    /// <summary>Reads quantize_config.json, which AutoGPTQ wrote before config.json said how weights are quantized.</summary>
    /// <exception cref="ModelFormatException">It is damaged, or a variant that is not supported.</exception>
    public static QuantizationConfig LoadGptq(string path)
    {
        var fields = new JsonFields(JsonFields.Load(path), path);
        return fields.String("quant_method") is null or "gptq" ? Gptq(fields) : throw fields.Error("quant_method", $"'{fields.String("quant_method")}' is not gptq");
    }

    /// <summary>The module is one of <see cref="Unconverted"/>: named by a list entry in full, or in whole dotted parts.</summary>
    /// <remarks>Patterns ("re:...") match nothing here: which modules are dense is seen from their tensors, this only finds contradictions.</remarks>
    public bool IsUnconverted(string module) => Unconverted.Any(entry => entry.Length > 0 && $".{module}.".Contains($".{entry}.", StringComparison.Ordinal));

    private static QuantizationConfig Awq(JsonFields fields)
    {
        if (fields.String("version") is { } version && !version.Equals("gemm", StringComparison.OrdinalIgnoreCase))
            throw fields.Error("version", $"'{version}' is not supported; AWQ is read in its gemm version");
        return new QuantizationConfig
        {
            Method = "awq",
            Kind = QuantizationKind.Awq,
            Bits = BitsOf(fields, fields.Int("bits") is null ? "w_bit" : "bits", 4),
            GroupSize = GroupOf(fields, fields.Int("group_size") is null ? "q_group_size" : "group_size"),
            HasZeroPoints = fields.Bool("zero_point") ?? true,
            Unconverted = fields.Strings("modules_to_not_convert"),
        };
    }

    private static QuantizationConfig Gptq(JsonFields fields)
    {
        if (fields.Object("dynamic") is { Count: > 0 } dynamic)
            throw fields.Error("dynamic", $"overrides for single modules ('{dynamic.First().Key}') are not supported");
        return new QuantizationConfig
        {
            Method = "gptq",
            Kind = QuantizationKind.Gptq,
            Bits = BitsOf(fields, "bits", 4, 8),
            GroupSize = GroupOf(fields, "group_size"),
            DescAct = fields.Bool("desc_act") ?? false,
            ZeroOffset = fields.String("checkpoint_format") switch
            {
                null or "gptq" => 1,
                "gptq_v2" => 0,
                { } other => throw fields.Error("checkpoint_format", $"'{other}' is not supported; supported are gptq and gptq_v2"),
            },
            Unconverted = fields.Strings("modules_to_not_convert"),
        };
    }

    private static QuantizationConfig Float8(string method, JsonFields fields, (int Rows, int Columns)? block) => new()
    {
        Method = method,
        Kind = QuantizationKind.Float8,
        Bits = 8,
        Block = block,
        Unconverted = [.. fields.Strings("modules_to_not_convert"), .. fields.Strings("ignored_layers"), .. fields.Strings("ignore")],
    };

    private static (int Rows, int Columns)? CheckedFp8(JsonFields fields)
    {
        if (fields.String("fmt") is { } format and not "e4m3")
            throw fields.Error("fmt", $"'{format}' is not supported; FP8 weights are read as e4m3");
        return fields.Array("weight_block_size") is { } sizes ? BlockOf(fields, "weight_block_size", sizes) : null;
    }

    /// <summary>compressed-tensors describes groups of modules; all must be 8-bit floats with the same block.</summary>
    private static (int Rows, int Columns)? CompressedTensors(JsonFields fields, string file)
    {
        if (fields.String("format") is var format && format != "float-quantized")
            throw fields.Error("format", $"'{format}' is not supported; of compressed-tensors, float-quantized is read");
        if (fields.Object("config_groups") is not { Count: > 0 } groups)
            throw fields.Error("config_groups", "is missing or empty");
        var blocks = new HashSet<(int, int)?>();
        foreach (string name in groups.Select(group => group.Key))
        {
            string path = $"quantization_config.config_groups.{name}";
            JsonObject group = new JsonFields(groups, file, "quantization_config.config_groups").Object(name) ?? throw fields.Error("config_groups", $"{name} is null");
            JsonObject scheme = new JsonFields(group, file, path).Object("weights") ?? throw fields.Error("config_groups", $"{name}.weights is missing");
            var weights = new JsonFields(scheme, file, path + ".weights");
            BitsOf(weights, "num_bits", 8);
            if (weights.String("type") is var type && type != "float")
                throw weights.Error("type", $"'{type}' is not supported; supported is float");
            blocks.Add(weights.String("strategy") switch
            {
                "tensor" or "channel" => null,
                "block" => BlockStructure(weights, scheme),
                { } other => throw weights.Error("strategy", $"'{other}' is not supported; supported are tensor, channel and block"),
                null => throw weights.Error("strategy", "is missing"),
            });
        }

        return blocks.Count == 1 ? blocks.Single() : throw fields.Error("config_groups", "groups with different blocks are not supported");
    }

    /// <summary><c>[128, 128]</c>, or <c>"128x128"</c> as older versions wrote it.</summary>
    private static (int Rows, int Columns) BlockStructure(JsonFields weights, JsonObject scheme)
    {
        if (scheme["block_structure"] is JsonArray sizes)
            return BlockOf(weights, "block_structure", sizes);
        string text = weights.String("block_structure") ?? throw weights.Error("block_structure", "is missing");
        var parsed = new JsonArray([.. text.Split('x').Select(part => int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out int size) ? (JsonNode)size : part)]);
        return BlockOf(weights, "block_structure", parsed);
    }

    private static (int Rows, int Columns) BlockOf(JsonFields fields, string name, JsonArray sizes)
    {
        return sizes is [JsonValue rows, JsonValue columns] && rows.TryGetValue(out int r) && columns.TryGetValue(out int c) && r is > 0 and <= MostGroup && c is > 0 and <= MostGroup
            ? (r, c)
            : throw fields.Error(name, $"{sizes.ToJsonString()} is not a block of rows and columns");
    }

    private static int BitsOf(JsonFields fields, string name, params ReadOnlySpan<int> supported)
    {
        int bits = fields.RequireInt(name);
        return supported.Contains(bits) ? bits : throw fields.Error(name, $"{bits} is not supported; supported is {string.Join(" or ", supported.ToArray())}");
    }

    private static int GroupOf(JsonFields fields, string name)
    {
        int size = fields.RequireInt(name);
        return size is -1 or (> 0 and <= MostGroup) ? size : throw fields.Error(name, $"{size} is neither -1 nor between 1 and {MostGroup}");
    }
}
