using System.Text.Json.Nodes;
using Qwen.Cpu;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Formats;

/// <summary>Damaged checkpoints: each is refused with the one exception, or loads and computes without touching memory that is not its own.</summary>
public sealed unsafe class QuantizedFuzzTests
{
    private const int Cases = 6000;

    private static readonly Scheme[] Schemes =
    [
        new() { Method = "awq", Group = 32 }, new() { Method = "awq", Group = -1, HasZeros = false }, new() { Method = "gptq", Group = 32, Order = "own" },
        new() { Method = "gptq", Bits = 8, Group = 64, Order = "shared" }, new() { Method = "fp8", Strategy = "block", ScaleName = "weight_scale_inv", BlockRows = 16, BlockColumns = 32 },
        new() { Method = "fp8", Strategy = "channel" }, new() { Method = "compressed-tensors", Strategy = "tensor", IsTied = true },
    ];

    private static readonly string?[] Values =
    [
        null, "0", "-1", "1", "2", "3", "8", "16", "32", "64", "128", "2147483647", "-2147483648", "1e300", "\"awq\"", "\"gptq\"", "\"fp8\"", "\"gemm\"", "\"gptq_v2\"", "\"block\"", "\"\"",
        "true", "false", "[]", "{}", "[16, 32]", "[1, 1]", "[1000000, 1]", "[[]]", "[\"model.layers.0\"]", "\"7x9\"",
    ];

    [Fact]
    public void DamagedCheckpoints_AreRefusedWithOneException()
    {
        TinyModel[] models = [.. Schemes.Select((s, i) => new TinyModel(s, i, hidden: 64, intermediate: i % 2 == 0 ? 64 : 72, layers: 1))];
        using var backend = new CpuBackend(2);
        int loaded = 0;
        for (int seed = 0; seed < Cases; seed++)
        {
            var random = new Random(seed);
            TinyModel model = models[random.Next(models.Length)];
            var tensors = new TensorSet();
            foreach ((string name, (TensorType, long[], byte[]) tensor) in model.Quantized)
                tensors.Add(name, tensor);
            JsonObject config = model.QuantizedConfig.DeepClone().AsObject();
            for (int n = random.Next(1, 3); n > 0; n--)
                Mutate(random, tensors, config);
            try
            {
                if (Load(backend, tensors, config))
                    loaded++;
            }
            catch (ModelFormatException e)
            {
                Assert.True(e.Message.Length > 20, e.Message);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"Case {seed}: {e.GetType().Name}: {e.Message}", e);
            }
        }

        Assert.InRange(loaded, Cases / 50, Cases * 9 / 10);
    }

    private static bool Load(CpuBackend backend, TensorSet tensors, JsonObject json)
    {
        using var memory = new NativeBuffer<byte>(tensors.Values.Sum(t => t.Data.Length));
        var list = new List<Tensor>();
        long offset = 0;
        foreach ((string name, (TensorType type, long[] shape, byte[] data)) in tensors)
        {
            data.CopyTo(new Span<byte>(memory.Pointer + offset, data.Length));
            list.Add(new Tensor("model.safetensors", name, type, [.. shape], memory.Pointer + offset));
            offset += data.Length;
        }

        using var checkpoint = new Checkpoint("fuzz", list, json, []);
        ModelConfig config = ModelConfig.Load(checkpoint);
        using var model = new QwenModel(checkpoint, config, LayerPlacement.Whole(backend, config.Layers), maxTokens: 8, maxLogitRows: 1, servedContext: 32);
        using var batch = new Batch(8, 1);
        using var table = new BlockTable(new BlockPool(2, 16), 32);
        using KvCache cache = model.AllocateCache(KvCacheType.F32, 2, 16);
        Assert.True(table.TryGrow(7));
        batch.Add([1, 2, 3, 4, 5, 6, 7], 0, table, wantLogits: true);
        model.Forward(batch, cache);
        return model.Logits(0).Length == TinyModel.Vocabulary;
    }

    private static void Mutate(Random random, TensorSet tensors, JsonObject config)
    {
        string[] packed = [.. tensors.Keys.Where(k => k.Contains("layers", StringComparison.Ordinal) && !k.Contains("norm", StringComparison.Ordinal) && !k.EndsWith("bias", StringComparison.Ordinal))];
        string name = packed[random.Next(packed.Length)];
        (TensorType type, long[] shape, byte[] data) = tensors[name];
        switch (random.Next(9))
        {
            case 0:
                tensors.Remove(name);
                break;
            case 1: // another size, with as many bytes as that takes
                long[] sizes = [.. shape];
                if (sizes.Length > 0)
                    sizes[random.Next(sizes.Length)] = random.Next(0, 140);
                Reshape(name, type, sizes);
                break;
            case 2: // other dimensions
                Reshape(name, type, random.Next(3) switch { 0 => [.. shape.Reverse()], 1 => [.. shape, 1], _ => [] });
                break;
            case 3:
                TensorType[] types = [TensorType.F32, TensorType.F16, TensorType.BF16, TensorType.I32, TensorType.I64, TensorType.I8, TensorType.U8, TensorType.F8_E4M3, TensorType.F8_E5M2, TensorType.F64];
                Reshape(name, types[random.Next(types.Length)], shape);
                break;
            case 4 when tensors.Keys.FirstOrDefault(k => k.EndsWith("g_idx", StringComparison.Ordinal)) is { } index:
                byte[] groups = [.. tensors[index].Data];
                BitConverter.TryWriteBytes(groups.AsSpan(4 * random.Next(groups.Length / 4)), random.Next(5) switch { 0 => -1, 1 => int.MaxValue, 2 => int.MinValue, _ => random.Next(4) });
                tensors[index] = tensors[index] with { Data = groups };
                break;
            case 5: // arbitrary bytes: scales that are infinite, not a number or tiny
                byte[] noise = new byte[data.Length];
                random.NextBytes(noise);
                tensors[name] = (type, shape, noise);
                break;
            case 6: // another layer's kind of tensor under this one's name
                tensors[name] = tensors[packed[random.Next(packed.Length)]];
                break;
            default:
                JsonObject quantization = (JsonObject)config["quantization_config"]!;
                JsonObject target = random.Next(4) == 0 && ((quantization["config_groups"] as JsonObject)?["group_0"] as JsonObject)?["weights"] is JsonObject weights ? weights : quantization;
                string[] fields = [.. target.Select(p => p.Key), "bits", "group_size", "weight_block_size", "version", "checkpoint_format", "desc_act", "zero_point"];
                string? value = Values[random.Next(Values.Length)];
                target[fields[random.Next(fields.Length)]] = value is null ? null : JsonNode.Parse(value);
                break;
        }

        void Reshape(string tensor, TensorType newType, long[] newShape)
        {
            byte[] bytes = new byte[newShape.Aggregate(1L, (a, b) => a * b) * newType.BlockBytes];
            for (int i = 0; i < bytes.Length && data.Length > 0; i++)
                bytes[i] = data[i % data.Length];
            tensors[tensor] = (newType, newShape, bytes);
        }
    }
}
