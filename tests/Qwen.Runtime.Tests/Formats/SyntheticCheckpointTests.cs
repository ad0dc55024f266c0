using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Formats;

public sealed class SyntheticCheckpointTests
{
    public static TheoryData<string, string> Formats
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (string format in (string[])["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_k", "iq4_nl", "iq4_xs", "q4_k_m", "q5_k_m", "awq", "gptq", "gptq-int8", "fp8", "fp8-block"])
            {
                data.Add("qwen2", format);
                data.Add("qwen3", format);
            }

            return data;
        }
    }

    /// <summary>Weights of every format have about the deviation asked for, and are the same for the same seed.</summary>
    [Theory]
    [MemberData(nameof(Formats))]
    public void Create_MakesWeightsOfTheRightSize(string architecture, string format)
    {
        SyntheticShape shape = new(architecture, 256, 2, 4, 2, 64, 512, Tied: false, Vocabulary: 512, Context: 128);
        using Checkpoint first = SyntheticCheckpoint.Create("tiny", shape, format, seed: 3), second = SyntheticCheckpoint.Create("tiny", shape, format, seed: 3), other = SyntheticCheckpoint.Create("tiny", shape, format, seed: 4);
        ModelConfig config = ModelConfig.Load(first);
        Assert.Equal((architecture, 2, 512), (config.Architecture, config.Layers, config.VocabularySize));
        foreach (Tensor tensor in first.Tensors.Values)
        {
            Assert.True(tensor.Bytes.SequenceEqual(second.Require(tensor.Name).Bytes));
            if (!tensor.Name.EndsWith("qzeros", StringComparison.Ordinal) && !tensor.Name.EndsWith("g_idx", StringComparison.Ordinal))
                Assert.False(tensor.Bytes.SequenceEqual(other.Require(tensor.Name).Bytes));
        }

        var reader = new StoredMatrixReader(first, config.Quantization);
        foreach ((string module, int rows, int columns) in (IEnumerable<(string, int, int)>)[("model.embed_tokens", 512, 256), ("model.layers.1.self_attn.k_proj", 128, 256), ("model.layers.0.mlp.down_proj", 256, 512), ("lm_head", 512, 256)])
        {
            var values = new float[rows * columns];
            reader.Read(module, rows, columns).Dequantize(0, rows, values);
            double mean = values.Average(), deviation = Math.Sqrt(values.Average(v => v * (double)v) - (mean * mean));
            Assert.InRange(deviation, 0.01, 0.06);
            Assert.InRange(mean, -0.01, 0.01);
        }
    }

    /// <summary>An outline has the same tensors, and takes no time or memory whatever the size.</summary>
    [Theory]
    [InlineData("bf16")]
    [InlineData("awq")]
    public void Outline_HasTheShapes_WithoutTheBytes(string format)
    {
        using Checkpoint outline = Checkpoint.OpenOutline($"synthetic:qwen2.5-72b:{format}");
        Assert.Equal([152064L, 8192L], outline.Require("lm_head.weight").Shape.ToArray());
        Assert.Equal(80, ModelConfig.Load(outline).Layers);
        Assert.Equal(152064, ModelFiles.LoadTokenizer("synthetic:qwen2.5-72b").VocabularySize);
        Assert.Throws<InvalidOperationException>(() => outline.Require("model.norm.weight").Bytes.Length);
    }

    [Fact]
    public void KnownShapes_HaveTheParametersOfThePublishedModels()
    {
        // Billions of parameters, embeddings once where they are tied.
        (string Name, double Billions)[] published = [("qwen2.5-0.5b", 0.494), ("qwen2.5-1.5b", 1.544), ("qwen2.5-7b", 7.616), ("qwen2.5-72b", 72.71), ("qwen3-0.6b", 0.596), ("qwen3-8b", 8.19), ("qwen3-32b", 32.76)];
        foreach ((string name, double billions) in published)
        {
            SyntheticShape s = SyntheticShape.Known[name];
            double layer = (2.0 * s.Hidden * s.Heads * s.HeadDim) + (2.0 * s.Hidden * s.KvHeads * s.HeadDim) + (3.0 * s.Hidden * s.Intermediate);
            double total = (s.Layers * layer) + ((s.Tied ? 1.0 : 2.0) * s.Vocabulary * s.Hidden);
            Assert.Equal(billions, total / 1e9, billions * 0.005);
        }
    }

    /// <summary>A real shape from its name, end to end: load, read, decode.</summary>
    [Theory]
    [InlineData("q4_0")]
    [InlineData("awq")]
    [InlineData("gptq-int8")]
    [InlineData("fp8-block")]
    public void ASyntheticModel_Computes(string format)
    {
        using LoadedModel model = LoadedModel.Load("synthetic:qwen2.5-0.5b:" + format, new EngineOptions { MaxModelLength = 64 });
        using var evaluator = new SequenceEvaluator(model);
        float[] logits = evaluator.Evaluate([1, 2, 3]).ToArray();
        Assert.Equal(151936, logits.Length);
        Assert.All(logits, l => Assert.True(float.IsFinite(l)));
        Assert.InRange(logits.Max() - logits.Min(), 0.1, 1000);
        Assert.Equal(151936, model.Tokenizer.VocabularySize);
    }

    [Theory]
    [InlineData("synthetic:", "is not known; known are qwen2.5-0.5b")]
    [InlineData("synthetic:a:b:c", "is not of the form")]
    [InlineData("synthetic:qwen3-8b:int3", "format 'int3' is not known; known are f32")]
    public void UnknownNames_AreRefusedWithTheKnownOnes(string name, string message) =>
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Checkpoint.Open(name)).Message, StringComparison.Ordinal);
}
