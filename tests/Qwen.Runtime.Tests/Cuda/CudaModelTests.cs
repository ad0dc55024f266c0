using System.Numerics.Tensors;
using System.Text.Json.Nodes;
using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Tests.Models;
using Xunit.Abstractions;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>
/// The network on the CUDA backend, over the emulated device, beside the CPU backend: small random models of every make, several sequences
/// side by side in chunks of any length, so that steps are of decoding alone, of prompts alone, and of both.
/// </summary>
public sealed class CudaModelTests(ITestOutputHelper output)
{
    private const int Longest = 28, Sequences = 5;

    public static TheoryData<string, SyntheticShape, KvCacheType, ElementType, int> Models() => new()
    {
        { "bf16", Shape("qwen2", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.BF16, 90 },
        { "bf16", Shape("qwen3", 2, 2, 32, tied: false), KvCacheType.BF16, ElementType.BF16, 90 },
        { "f16", Shape("qwen2", 7, 1, 32, tied: true), KvCacheType.F8_E4M3, ElementType.F16, 90 },
        { "bf16", Shape("qwen3", 4, 1, 128, tied: true), KvCacheType.F8_E5M2, ElementType.F16, 90 },
        { "f32", Shape("qwen2", 4, 2, 64, tied: false), KvCacheType.Int8, ElementType.BF16, 90 },
        { "f16", Shape("qwen3", 4, 2, 64, tied: true) with { Context = 16 }, KvCacheType.F32, ElementType.F16, 90 }, // YaRN
        { "fp8", Shape("qwen2", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.BF16, 90 },
        { "fp8-block", Shape("qwen3", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.BF16, 90 },
        { "fp8", Shape("qwen3", 4, 2, 64, tied: false), KvCacheType.F8_E4M3, ElementType.BF16, 89 }, // the library has no scales per row there
        { "fp8-block", Shape("qwen2", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.F16, 80 },
        { "awq", Shape("qwen2", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.F16, 90 },
        { "gptq", Shape("qwen3", 4, 2, 64, tied: false), KvCacheType.F16, ElementType.BF16, 90 },
        { "gptq-int8", Shape("qwen2", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.F16, 90 },
        { "q4_0", Shape("qwen2", 4, 2, 64, tied: false), KvCacheType.F16, ElementType.BF16, 90 },
        { "q4_1", Shape("qwen3", 4, 2, 64, tied: false), KvCacheType.F16, ElementType.BF16, 90 },
        { "q4_k", Shape("qwen2", 4, 2, 64, tied: false), KvCacheType.F16, ElementType.F16, 90 },
        { "q8_0", Shape("qwen3", 4, 2, 64, tied: false), KvCacheType.F16, ElementType.BF16, 90 },
        { "q6_k", Shape("qwen2", 4, 2, 64, tied: true), KvCacheType.F16, ElementType.BF16, 90 },
    };

    [Theory]
    [MemberData(nameof(Models))]
    public void Logits_AreTheCpusWithinNoise(string format, SyntheticShape shape, KvCacheType cacheType, ElementType type, int computeCapability)
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        using Checkpoint made = SyntheticCheckpoint.Create($"{shape.Architecture}:{format}", shape, format, (ulong)seed);
        using Checkpoint checkpoint = shape.Context < Longest ? Stretched(made) : made;
        int[][] sequences = [.. Enumerable.Range(0, Sequences).Select(_ => Enumerable.Range(0, random.Next(1, Longest)).Select(_ => random.Next(shape.Vocabulary)).ToArray())];

        float[][] expected, actual;
        using var cpu = new CpuBackend(2);
        using (var model = new SideBySide(checkpoint, cpu, cacheType, Sequences, Longest))
            expected = model.Read(sequences, () => Longest);
        // What is not dense can't be looked up on a GPU: the embedding stays on the CPU, as the planner has it.
        bool embeds = checkpoint.Require("model.embed_tokens.weight").Type is TensorType.BF16 or TensorType.F16 or TensorType.F32;
        using (var gpu = new EmulatedBackend(checkpoint, Sequences, Longest, layers: embeds ? null : shape.Layers, type: type, computeCapability: computeCapability))
        {
            var placement = new LayerPlacement(embeds ? gpu.Backend : cpu, [.. Enumerable.Repeat(gpu.Backend, shape.Layers)], gpu.Backend);
            using var model = new SideBySide(checkpoint, placement, cacheType, Sequences, Longest);
            actual = model.Read(sequences, () => random.Next(4) == 0 ? random.Next(1, 20) : 1);
        }

        double most = 0;
        for (int i = 0; i < Sequences; i++)
        {
            double spread = TensorPrimitives.StdDev<float>(expected[i]), error = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => (double)(a - b) * (a - b)).Average());
            most = Math.Max(most, error / spread);
        }

        // 8-bit floats round to 3 or 2 bits of fraction: here activations too, which the CPU keeps, and a cache without the CPU's scales. With integer codes it's the CPU that rounds activations.
        double noise = 0.03 + format switch { "bf16" or "f16" or "f32" => 0, "fp8" or "fp8-block" => 0.15, _ => 0.04 } + cacheType switch { KvCacheType.F8_E4M3 => 0.15, KvCacheType.F8_E5M2 => 0.3, _ => 0 };
        output.WriteLine($"error {most:0.0000} of the logits' deviation, bound {noise}");
        Assert.True(most < noise, $"seed {seed}: error {most} of the logits' deviation");
    }

    [Theory]
    [InlineData("awq", ElementType.F16, 0.03)]
    [InlineData("q8_0", ElementType.BF16, 0.03)]
    [InlineData("fp8", ElementType.BF16, 0.15)] // activations are quantized, too
    [InlineData("fp8-block", ElementType.F16, 0.15)]
    public void AStepOfManyRows_GivesWhatOneOfFewDoes(string format, ElementType type, double noise)
    {
        const ulong Seed = 5;
        const int Tokens = 40;
        SyntheticShape shape = Shape("qwen2", 4, 2, 64, tied: false);
        using Checkpoint checkpoint = SyntheticCheckpoint.Create($"qwen2:{format}", shape, format, Seed);
        var random = new Random(5);
        int[][] sequences = [.. Enumerable.Range(0, Sequences).Select(_ => Enumerable.Range(0, Tokens).Select(_ => random.Next(shape.Vocabulary)).ToArray())];
        float[][] Read(Func<int> chunk)
        {
            using var cpu = new CpuBackend(2);
            using var gpu = new EmulatedBackend(checkpoint, Sequences, Tokens, Sequences * Tokens, shape.Layers, type);
            using var model = new SideBySide(checkpoint, new LayerPlacement(cpu, [.. Enumerable.Repeat(gpu.Backend, shape.Layers)], gpu.Backend), KvCacheType.F16, Sequences, Tokens, Sequences * Tokens);
            return model.Read(sequences, chunk);
        }

        float[][] expected = Read(() => 3), actual = Read(() => Tokens); // 15 rows a step; 200, which weights are unpacked for, or quantized

        for (int i = 0; i < Sequences; i++)
        {
            double error = Math.Sqrt(expected[i].Zip(actual[i], (a, b) => (double)(a - b) * (a - b)).Average()) / TensorPrimitives.StdDev<float>(expected[i]);
            Assert.True(error > 0 && error < noise, $"sequence {i}: {error} of the logits' deviation"); // none at all would mean the same kernel
        }
    }

    private static SyntheticShape Shape(string architecture, int heads, int kvHeads, int headDim, bool tied) =>
        new(architecture, Hidden: 256, Layers: 2, heads, kvHeads, headDim, Intermediate: 384, tied, Vocabulary: 320, Context: 64);

    private static Checkpoint Stretched(Checkpoint made)
    {
        JsonObject config = made.Config!.DeepClone().AsObject();
        config["rope_scaling"] = new JsonObject { ["rope_type"] = "yarn", ["factor"] = 4, ["original_max_position_embeddings"] = 16 };
        return new Checkpoint(made.Path, made.Tensors.Values, config, []);
    }
}
