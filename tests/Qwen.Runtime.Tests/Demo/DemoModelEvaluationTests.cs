using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tests.Engine;
using Xunit.Abstractions;

namespace Qwen.Runtime.Tests.Demo;

/// <summary>The demo model's exact matches on its held-out cases, against what PyTorch scored with the same weights in F32.</summary>
public sealed class DemoModelEvaluationTests(EngineFixture fixture, ITestOutputHelper output) : IClassFixture<EngineFixture>
{
    private const int Tolerance = 3; // of 60: BF16 weights and an F16 cache tip a few close calls

    private static readonly Dictionary<string, int> Reference = new()
    {
        ["arithmetic"] = 38, ["capital"] = 60, ["fact"] = 60, ["calendar"] = 60, ["words"] = 27, ["translate"] = 60, ["extract"] = 60,
        ["recall"] = 60, ["needle"] = 60, ["tool"] = 59, ["tool answer"] = 33,
    };

    private static JsonObject[] Cases => [.. File.ReadLines(Path.Combine(Repository.DemoModel, "evaluation.jsonl")).Select(line => JsonNode.Parse(line)!.AsObject())];

    /// <summary>The model's own template gives the very prompts it was trained on.</summary>
    [Fact]
    public void Template_RendersTheTrainingFormat()
    {
        foreach (JsonObject test in Cases)
            Assert.Equal((string)test["rendered"]!, fixture.Engine.Model.Template.RenderText(Request(test).Variables()));
    }

    [Fact]
    public async Task HeldOutCases_AreAnsweredAsWellAsInTraining()
    {
        var options = new SamplingOptions { Temperature = 0, MaxTokens = 100 };
        (string Skill, bool IsRight)[] results = await Task.WhenAll(Cases.Select(async test =>
        {
            string answer = (await EngineFixture.CollectAsync(fixture.Engine.ChatAsync(Request(test), options))).Text;
            return ((string)test["skill"]!, answer == (string)test["expected"]!);
        }));
        foreach ((string skill, int reference) in Reference)
        {
            int right = results.Count(r => r.Skill == skill && r.IsRight), of = results.Count(r => r.Skill == skill);
            output.WriteLine($"{skill}: {right}/{of} (PyTorch {reference})");
            Assert.True(right >= reference - Tolerance, $"{skill}: {right} of {of} right, PyTorch had {reference}");
        }
    }

    private static ChatRequest Request(JsonObject test) => new()
    {
        Messages = test["messages"]!.DeepClone().AsArray(),
        Tools = test["tools"]?.DeepClone().AsArray(),
    };
}
