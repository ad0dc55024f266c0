using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using System.Text.Json;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;

namespace Qwen.Runtime.Tests.Golden;

/// <summary>
/// The network against an independent float64 forward pass on the same GGUF files (numpy, on exactly dequantized weights), and against
/// the distance that llama.cpp keeps from it on the file as it is.
/// </summary>
public sealed class LogitGoldenTests
{
    private const double ExactLogit = 0.001, ExactLogprob = 0.003;

    public static TheoryData<string> Models()
    {
        string folder = Path.Combine(Repository.Root, "..", "shared", "golden", "logits");
        string[] names = Directory.Exists(folder)
            ? [.. Directory.GetFiles(folder, "*.gguf").Select(f => Path.GetFileNameWithoutExtension(f)!).Where(n => !n.Contains("moe", StringComparison.Ordinal)).Order(StringComparer.Ordinal)]
            : ["(no golden data)"];
        return [.. names];
    }

    [SkippableTheory]
    [MemberData(nameof(Models))]
    public void LastLogits_AreAsCloseAsTheTypeAllows(string name)
    {
        using GoldenModel golden = GoldenModel.Open(name, KvCacheType.F32);
        using var evaluator = new SequenceEvaluator(golden.Model);
        double ours = 0, theirs = 0;
        foreach (GoldenCase test in golden.Cases)
        {
            evaluator.Reset();
            ReadOnlySpan<float> logits = evaluator.Evaluate(test.Prompt);
            if (golden.IsExact)
                Assert.True(Distance(logits, test.Numpy).Max <= ExactLogit, $"{test.Name}: max {Distance(logits, test.Numpy).Max}");
            ours += Math.Pow(Distance(logits, test.Numpy).Rms, 2);
            theirs += Math.Pow(Distance(test.Llama, test.Numpy).Rms, 2);
        }

        // llama.cpp computes F32 to within rounding; there the exact bound above is the one that counts.
        double bound = golden.IsExact ? ExactLogit : 1.5 * Math.Sqrt(theirs / golden.Cases.Count);
        double rms = Math.Sqrt(ours / golden.Cases.Count);
        Assert.True(rms <= bound, $"rms {rms:E3} from numpy; llama.cpp {Math.Sqrt(theirs / golden.Cases.Count):E3}");
    }

    [SkippableTheory]
    [MemberData(nameof(Models))]
    public void GreedyContinuation_IsTheSame(string name)
    {
        using GoldenModel golden = GoldenModel.Open(name, KvCacheType.F32);
        using var evaluator = new SequenceEvaluator(golden.Model);
        foreach (GoldenCase test in golden.Cases)
        {
            evaluator.Reset();
            ReadOnlySpan<float> logits = evaluator.Evaluate(test.Prompt);
            int steps = golden.IsExact ? test.Greedy.Length : test.RobustSteps;
            for (int i = 0; i < steps; i++)
            {
                int token = TensorPrimitives.IndexOfMax(logits);
                Assert.True(token == test.Greedy[i], $"{test.Name}: token {i} is {token}, numpy's {test.Greedy[i]}");
                if (golden.IsExact)
                    Assert.Equal(test.GreedyLogprobs[i], Logprob(logits, token), ExactLogprob);
                if (i + 1 < steps)
                    logits = evaluator.Evaluate([token]);
            }
        }
    }

    [SkippableTheory]
    [InlineData("qwen2-f32")]
    [InlineData("qwen3-f32-yarn")]
    public void PromptLogprobs_AreExact_InF32(string name)
    {
        using GoldenModel golden = GoldenModel.Open(name, KvCacheType.F32);
        using var evaluator = new SequenceEvaluator(golden.Model);
        foreach (GoldenCase test in golden.Cases)
        {
            evaluator.Reset();
            for (int i = 0; i + 1 < test.Prompt.Length; i++)
                Assert.Equal(test.PromptLogprobs[i], Logprob(evaluator.Evaluate([test.Prompt[i]]), test.Prompt[i + 1]), ExactLogprob);
        }
    }

    [SkippableTheory]
    [InlineData("qwen2-f32", KvCacheType.F16, 0.01, 0.05)]
    [InlineData("qwen3-f32", KvCacheType.F16, 0.01, 0.05)]
    [InlineData("qwen2-f32", KvCacheType.BF16, 0.08, 0.4)] // 8 times coarser than F16
    [InlineData("qwen3-f32", KvCacheType.BF16, 0.08, 0.4)]
    public void HalfPrecisionCache_StaysClose(string name, KvCacheType type, double rms, double max)
    {
        using GoldenModel golden = GoldenModel.Open(name, type);
        using var evaluator = new SequenceEvaluator(golden.Model);
        foreach (GoldenCase test in golden.Cases)
        {
            evaluator.Reset();
            (double Rms, double Max) distance = Distance(evaluator.Evaluate(test.Prompt), test.Numpy);
            Assert.True(distance.Rms <= rms && distance.Max <= max, $"{test.Name}: {distance}");
        }
    }

    private static (double Rms, double Max) Distance(ReadOnlySpan<float> a, ReadOnlySpan<float> b)
    {
        double sum = 0, max = 0;
        for (int i = 0; i < b.Length; i++)
        {
            double difference = Math.Abs((double)a[i] - b[i]);
            sum += difference * difference;
            max = Math.Max(max, difference);
        }

        return (Math.Sqrt(sum / b.Length), max);
    }

    private static double Logprob(ReadOnlySpan<float> logits, int token)
    {
        double max = TensorPrimitives.Max(logits), sum = 0;
        foreach (float logit in logits)
            sum += Math.Exp(logit - max);
        return logits[token] - max - Math.Log(sum);
    }

    private sealed record GoldenCase(
        string Name, int[] Prompt, float[] Numpy, float[] Llama, double[] PromptLogprobs, int[] Greedy, double[] GreedyLogprobs, int RobustSteps);

    private sealed record GoldenModel(LoadedModel Model, bool IsExact, IReadOnlyList<GoldenCase> Cases) : IDisposable
    {
        public static GoldenModel Open(string name, KvCacheType cache)
        {
            string path = Repository.Golden("logits", name + ".gguf");
            using JsonDocument json = JsonDocument.Parse(File.ReadAllBytes(Path.ChangeExtension(path, ".json")));
            byte[] vectors = File.ReadAllBytes(Path.ChangeExtension(path, ".logits.f32"));
            var cases = new List<GoldenCase>();
            foreach (JsonElement test in json.RootElement.GetProperty("cases").EnumerateArray())
            {
                JsonElement greedy = test.GetProperty("greedy");
                cases.Add(new GoldenCase(
                    test.GetProperty("name").GetString()!,
                    Ints(test.GetProperty("prompt")),
                    Vector("numpy_logits"),
                    Vector("llama_logits"),
                    Doubles(test.GetProperty("prompt_next_logprobs").GetProperty("numpy")),
                    Ints(greedy.GetProperty("tokens")),
                    Doubles(greedy.GetProperty("logprobs")),
                    greedy.GetProperty("robust_steps").GetInt32()));

                float[] Vector(string source)
                {
                    JsonElement where = test.GetProperty("vectors").GetProperty(source);
                    return MemoryMarshal.Cast<byte, float>(vectors).Slice(where.GetProperty("offset").GetInt32(), where.GetProperty("count").GetInt32()).ToArray();
                }
            }

            var options = new EngineOptions { KvCacheType = cache, MaxSequences = 1, MaxBatchedTokens = 128, MaxModelLength = 2048, Threads = 2 };
            return new GoldenModel(LoadedModel.Load(path, options), json.RootElement.GetProperty("weight_type").GetString() == "f32", cases);
        }

        public void Dispose() => Model.Dispose();

        private static int[] Ints(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetInt32())];

        private static double[] Doubles(JsonElement list) => [.. list.EnumerateArray().Select(e => e.GetDouble())];
    }
}
