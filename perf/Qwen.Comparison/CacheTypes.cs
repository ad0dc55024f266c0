using System.Globalization;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;

namespace Qwen.Comparison;

/// <summary>What a type of the KV cache does to the logits: their relative error (root of the summed squares) against an F32 cache, and how often the likeliest token stays.</summary>
internal static class CacheTypes
{
    private const int Prompt = 256, Continued = 64;

    /// <summary>Prints a row of a table for each model and type.</summary>
    public static void Print(IEnumerable<string?> models)
    {
        Console.WriteLine("| model | cache | relative error of the logits | likeliest token the same |");
        Console.WriteLine("|---|---|---|---|");
        foreach (string? model in models)
        {
            float[][] exact = Logits(model, KvCacheType.F32);
            foreach (KvCacheType type in (KvCacheType[])[KvCacheType.F16, KvCacheType.BF16, KvCacheType.Int8, KvCacheType.F8_E4M3, KvCacheType.F8_E5M2])
            {
                float[][] logits = Logits(model, type);
                double error = 0, size = 0;
                int same = 0;
                for (int i = 0; i < exact.Length; i++)
                {
                    for (int v = 0; v < exact[i].Length; v++)
                    {
                        error += Math.Pow(logits[i][v] - exact[i][v], 2);
                        size += Math.Pow(exact[i][v], 2);
                    }

                    same += Array.IndexOf(logits[i], logits[i].Max()) == Array.IndexOf(exact[i], exact[i].Max()) ? 1 : 0;
                }

                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {model ?? "the demo model"} | {type} | {Math.Sqrt(error / size):E1} | {same} of {exact.Length} |"));
            }
        }
    }

    /// <summary>After each of the tokens that follow a prompt; all random, and the same for every type.</summary>
    private static float[][] Logits(string? path, KvCacheType type)
    {
        using LoadedModel model = LoadedModel.Load(path, new EngineOptions { KvCacheType = type, MaxSequences = 1, MaxModelLength = Prompt + Continued });
        using var evaluator = new SequenceEvaluator(model);
        var random = new Random(1);
        int[] prompt = [.. Enumerable.Range(0, Prompt).Select(_ => random.Next(model.Config.VocabularySize))];
        evaluator.Evaluate(prompt);
        return [.. Enumerable.Range(0, Continued).Select(_ => evaluator.Evaluate([random.Next(model.Config.VocabularySize)]).ToArray())];
    }
}
