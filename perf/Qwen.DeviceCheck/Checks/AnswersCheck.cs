using System.Text;
using System.Text.Json.Nodes;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// The demo model's answers to held-out questions, greedy, through the whole engine with many requests at once: the device's beside the CPU's.
/// A trained model's margins are wide, so nearly all are the same to the letter; where one differs, the CPU's own second choice is close.
/// </summary>
internal sealed class AnswersCheck : ICheck
{
    private const int Cases = 160;
    private const double LeastAgreement = 0.97;

    public string Name => "answers";

    public void Verify(CheckSession session)
    {
        string file = Path.Combine(ModelFiles.DemoModel, "evaluation.jsonl");
        string folder = ModelFiles.DemoModel;
        if (!File.Exists(file))
        {
            folder = Path.Combine("models", "demo");
            file = Path.Combine(folder, "evaluation.jsonl");
        }

        if (!File.Exists(file))
        {
            session.Note("skipped: run it in the repository, where models/demo is");
            return;
        }

        string[] lines = [.. File.ReadLines(file).Where((_, i) => i % 4 == 0).Take(Cases)];
        string[] expected = Answers(folder, new EngineOptions { Device = new ComputeDevice(ComputeDeviceKind.Cpu) }, lines);
        foreach (KvCacheType cache in (KvCacheType[])[KvCacheType.F16, KvCacheType.F8_E4M3, KvCacheType.Int8])
        {
            session.Case($"{cache} cache", () =>
            {
                string[] actual = Answers(folder, new EngineOptions { Device = new ComputeDevice(ComputeDeviceKind.Cuda), KvCacheType = cache, MaxBatchedTokens = 128 }, lines);
                int same = expected.Zip(actual).Count(a => a.First == a.Second);
                int first = Enumerable.Range(0, lines.Length).FirstOrDefault(i => expected[i] != actual[i], -1);
                session.Note($"{same} of {lines.Length} answers are the CPU's{(first < 0 ? "" : $"; one that isn't: '{actual[first]}' for '{expected[first]}'")}");
                CheckSession.True(same >= LeastAgreement * lines.Length || cache != KvCacheType.F16, $"only {same} of {lines.Length}");
            });
        }
    }

    public void Time(CheckSession session)
    {
    }

    private static string[] Answers(string folder, EngineOptions options, string[] lines)
    {
        using QwenEngine engine = QwenEngine.Load(folder, options);
        return Task.WhenAll(lines.Select(async line =>
        {
            JsonObject entry = JsonNode.Parse(line)!.AsObject();
            var request = new ChatRequest { Messages = entry["messages"]!.DeepClone().AsArray(), Tools = entry["tools"]?.DeepClone().AsArray() };
            var text = new StringBuilder();
            await foreach (GenerationChunk chunk in engine.ChatAsync(request, new SamplingOptions { Temperature = 0, MaxTokens = 96 }).ConfigureAwait(false))
                text.Append(chunk.Text);
            return text.ToString();
        })).GetAwaiter().GetResult();
    }
}
