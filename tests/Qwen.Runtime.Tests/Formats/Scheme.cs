using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Formats;

/// <summary>The tensors of a checkpoint under way to its file.</summary>
internal sealed class TensorSet : SortedDictionary<string, (TensorType Type, long[] Shape, byte[] Data)>
{
    public TensorSet()
        : base(StringComparer.Ordinal)
    {
    }

    public void Add<T>(string name, TensorType type, long[] shape, T[] values)
        where T : unmanaged => Add(name, (type, shape, MemoryMarshal.AsBytes<T>(values).ToArray()));

    /// <summary>Values that the type holds exactly.</summary>
    public void AddFloats(string name, TensorType type, long[] shape, float[] values)
    {
        if (type == TensorType.F32)
            Add(name, type, shape, values);
        else
            Add(name, type, shape, Array.ConvertAll(values, v => type == TensorType.F16 ? BitConverter.HalfToUInt16Bits((Half)v) : (ushort)(BitConverter.SingleToUInt32Bits(v) >> 16)));
    }
}

/// <summary>
/// A way to quantize the linear layers of a test's checkpoint. It draws codes, zero points and scales, knows the values they mean from the
/// formulas, and packs them by the formats' own descriptions: nothing here is shared with the code under test.
/// </summary>
internal sealed record Scheme
{
    private static readonly int[] AwqOrder = [0, 2, 4, 6, 1, 3, 5, 7];

    public required string Method { get; init; }

    public int Bits { get; init; } = 4;

    public int Group { get; init; } = 128;

    /// <summary>Zero points of their own; else all in the middle (and, for AWQ, none stored).</summary>
    public bool HasZeros { get; init; } = true;

    public bool IsV2 { get; init; }

    /// <summary>g_idx: none, plain, shared (the same in all matrices of a size), own (another in each), unequal (groups of other sizes).</summary>
    public string Order { get; init; } = "none";

    public TensorType ScaleType { get; init; } = TensorType.F16;

    /// <summary>FP8: tensor, channel or block.</summary>
    public string Strategy { get; init; } = "tensor";

    public string ScaleName { get; init; } = "weight_scale";

    public int BlockRows { get; init; } = 128;

    public int BlockColumns { get; init; } = 128;

    public string Architecture { get; init; } = "qwen2";

    public bool IsTied { get; init; }

    public bool IsFloat8 => Method is not ("awq" or "gptq");

    public override string ToString() => IsFloat8
        ? $"{Method} {Strategy} {ScaleName} {ScaleType} {BlockRows}x{BlockColumns} {Architecture}{(IsTied ? " tied" : "")}"
        : $"{Method} int{Bits} g{Group} {(HasZeros ? "zeros" : "sym")}{(IsV2 ? " v2" : "")} order:{Order} {ScaleType} {Architecture}{(IsTied ? " tied" : "")}";

    public JsonObject Config() => Method switch
    {
        "awq" => new JsonObject { ["quant_method"] = "awq", ["bits"] = 4, ["group_size"] = Group, ["zero_point"] = HasZeros, ["version"] = "gemm", ["modules_to_not_convert"] = null },
        "gptq" => new JsonObject
        {
            ["quant_method"] = "gptq", ["bits"] = Bits, ["group_size"] = Group, ["sym"] = !HasZeros, ["desc_act"] = Order is not ("none" or "plain"),
            ["checkpoint_format"] = IsV2 ? "gptq_v2" : "gptq", ["dynamic"] = new JsonObject(), ["damp_percent"] = 0.01,
        },
        "fp8" when Strategy == "block" => new JsonObject { ["quant_method"] = "fp8", ["fmt"] = "e4m3", ["weight_block_size"] = new JsonArray(BlockRows, BlockColumns), ["modules_to_not_convert"] = new JsonArray("lm_head") },
        "fp8" => new JsonObject { ["quant_method"] = "fp8", ["activation_scheme"] = "static", ["ignored_layers"] = new JsonArray("lm_head") },
        "fbgemm_fp8" => new JsonObject { ["quant_method"] = "fbgemm_fp8", ["activation_scale_ub"] = 1200.0, ["modules_to_not_convert"] = new JsonArray("lm_head") },
        _ => new JsonObject
        {
            ["quant_method"] = "compressed-tensors", ["format"] = "float-quantized", ["ignore"] = new JsonArray("lm_head"),
            ["config_groups"] = new JsonObject
            {
                ["group_0"] = new JsonObject
                {
                    ["targets"] = new JsonArray("Linear"),
                    ["weights"] = new JsonObject { ["num_bits"] = 8, ["type"] = "float", ["strategy"] = Strategy, ["block_structure"] = new JsonArray(BlockRows, BlockColumns) },
                },
            },
        },
    };

    /// <summary>Adds the tensors of a module; the values [rows, columns] they mean.</summary>
    public float[] Quantize(TensorSet tensors, Random random, string module, int rows, int columns) =>
        IsFloat8 ? QuantizeFloat8(tensors, random, module, rows, columns) : QuantizeGroups(tensors, random, module, rows, columns);

    /// <summary>OCP's E4M3 from its fields.</summary>
    public static double E4M3(byte code)
    {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        double value = exponent == 0 ? mantissa / 8.0 * Math.Pow(2, -6) : (1 + (mantissa / 8.0)) * Math.Pow(2, exponent - 7);
        return code >= 0x80 ? -value : value;
    }

    private float[] QuantizeGroups(TensorSet tensors, Random random, string module, int rows, int columns)
    {
        int size = Group < 0 ? columns : Group, groups = (columns + size - 1) / size, most = (1 << Bits) - 1, middle = 1 << (Bits - 1), offset = Method == "gptq" && !IsV2 ? 1 : 0;
        int[] groupOf = GroupOf(random, columns, size, groups);
        var codes = new int[rows, columns];
        var zeros = new int[groups, rows];
        var scales = new float[groups * rows];
        for (int g = 0; g < groups; g++)
        {
            for (int r = 0; r < rows; r++)
            {
                zeros[g, r] = HasZeros ? random.Next(most + 1) + offset : middle;
                scales[(g * rows) + r] = RandomScale(random, 0.15 / most);
            }
        }

        var values = new float[rows * columns];
        for (int r = 0; r < rows; r++)
        {
            for (int c = 0; c < columns; c++)
            {
                codes[r, c] = random.Next(most + 1);
                values[(r * columns) + c] = scales[(groupOf[c] * rows) + r] * (codes[r, c] - zeros[groupOf[c], r]);
            }
        }

        int n = 32 / Bits;
        var qweight = new uint[rows * columns / n];
        var qzeros = new uint[groups * rows / n];
        for (int c = 0; c < columns; c++)
        {
            for (int r = 0; r < rows; r++)
            {
                if (Method == "awq")
                    qweight[(c * (rows / 8)) + (r / 8)] |= (uint)codes[r, c] << (4 * Array.IndexOf(AwqOrder, r % 8));
                else
                    qweight[(c / n * rows) + r] |= (uint)codes[r, c] << (Bits * (c % n));
            }
        }

        for (int g = 0; g < groups; g++)
        {
            for (int r = 0; r < rows; r++)
                qzeros[(g * (rows / n)) + (r / n)] |= (uint)(zeros[g, r] - offset) << (Bits * (Method == "awq" ? Array.IndexOf(AwqOrder, r % 8) : r % n));
        }

        tensors.Add(module + ".qweight", TensorType.I32, Method == "awq" ? [columns, rows / 8] : [columns / n, rows], qweight);
        if (HasZeros || Method == "gptq")
            tensors.Add(module + ".qzeros", TensorType.I32, [groups, rows / n], qzeros);
        tensors.AddFloats(module + ".scales", ScaleType, [groups, rows], scales);
        if (Order != "none")
            tensors.Add(module + ".g_idx", TensorType.I32, [columns], groupOf);
        return values;
    }

    private int[] GroupOf(Random random, int columns, int size, int groups)
    {
        int[] groupOf = [.. Enumerable.Range(0, columns).Select(c => c / size)];
        if (Order == "own")
            random.Shuffle(groupOf);
        else if (Order == "shared")
            new Random(columns).Shuffle(groupOf);
        else if (Order == "unequal")
            groupOf = [.. groupOf.Select(_ => random.Next(groups))];
        return groupOf;
    }

    private float[] QuantizeFloat8(TensorSet tensors, Random random, string module, int rows, int columns)
    {
        (int blockRows, int blockColumns) = Strategy switch { "tensor" => (rows, columns), "channel" => (1, columns), _ => (BlockRows, BlockColumns) };
        int down = (rows + blockRows - 1) / blockRows, across = (columns + blockColumns - 1) / blockColumns;
        float[] scales = [.. Enumerable.Range(0, down * across).Select(_ => RandomScale(random, 0.0005))];
        var codes = new byte[rows * columns];
        var values = new float[codes.Length];
        for (int i = 0; i < codes.Length; i++)
        {
            do
                codes[i] = (byte)random.Next(256);
            while ((codes[i] & 0x7f) == 0x7f);
            values[i] = (float)E4M3(codes[i]) * scales[(i / columns / blockRows * across) + (i % columns / blockColumns)];
        }

        tensors.Add(module + ".weight", TensorType.F8_E4M3, [rows, columns], codes);
        tensors.AddFloats($"{module}.{ScaleName}", ScaleType, Strategy switch { "tensor" => [], "channel" => [rows, 1], _ => [down, across] }, scales);
        tensors.AddFloats(module + ".input_scale", TensorType.F32, [1], [0.5f]);
        return values;
    }

    private float RandomScale(Random random, double about)
    {
        float scale = (float)(about * (0.5 + random.NextDouble()));
        return ScaleType switch
        {
            TensorType.F16 => (float)(Half)scale,
            TensorType.BF16 => BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(scale) & 0xffff0000),
            _ => scale,
        };
    }
}
