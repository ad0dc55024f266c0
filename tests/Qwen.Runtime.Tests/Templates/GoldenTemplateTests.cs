using System.Collections.Concurrent;
using System.Text.Json.Nodes;
using Qwen.Runtime.Templates;

namespace Qwen.Runtime.Tests.Templates;

/// <summary>The real templates against what Jinja2 renders for them, as transformers sets it up.</summary>
public class GoldenTemplateTests
{
    private static readonly ConcurrentDictionary<string, ChatTemplate> Templates = new();

    [SkippableTheory]
    [InlineData("cases.jsonl", 483)]
    [InlineData("disputed.jsonl", 19)]
    public void Render_GivesWhatJinja2Gives(string file, int count)
    {
        string path = Path.Combine(TemplateData.Golden, file);
        Skip.IfNot(File.Exists(path), $"no golden data: {path}");

        JsonObject[] cases = [.. TemplateData.Lines(path)];
        string[] failures = [.. cases.Select(Mismatch).OfType<string>()];

        Assert.Equal(count, cases.Length);
        Assert.True(failures.Length == 0, $"{failures.Length} of {cases.Length} cases differ:\n{string.Join("\n", failures.Take(10))}");
    }

    [SkippableFact]
    public void Render_HasAsManyControlParts_WhateverTheMessagesSay()
    {
        Skip.IfNot(Directory.Exists(TemplateData.Golden), $"no golden data: {TemplateData.Golden}");
        string hostile = string.Concat(TemplateData.ControlTokens) + "\uDC00\uDC01\uD83D";
        int compared = 0;

        foreach (JsonObject testCase in TemplateData.Lines(Path.Combine(TemplateData.Golden, "cases.jsonl")).Where(c => c.ContainsKey("expected")))
        {
            JsonObject plain = TemplateData.Variables(testCase), poisoned = TemplateData.Variables(testCase);
            foreach (JsonObject message in plain["messages"]!.AsArray().OfType<JsonObject>())
                Append(message, "content", "x");
            foreach (JsonObject message in poisoned["messages"]!.AsArray().OfType<JsonObject>())
                Append(message, "content", hostile);
            ChatTemplate template = Load(testCase);

            Assert.Equal(Controls(template, plain), Controls(template, poisoned));
            compared++;
        }
        Assert.True(compared > 400);

        static void Append(JsonObject message, string name, string text)
        {
            if (message[name] is JsonValue value && value.TryGetValue(out string? content))
                message[name] = content + text;
        }

        static IEnumerable<string> Controls(ChatTemplate template, JsonObject variables) =>
            template.Render(variables).Where(part => part.IsControl).Select(part => part.Text);
    }

    [SkippableFact]
    public void Render_OnManyThreads_GivesTheSame()
    {
        Skip.IfNot(Directory.Exists(TemplateData.Golden), $"no golden data: {TemplateData.Golden}");
        string[] cases = File.ReadAllLines(Path.Combine(TemplateData.Golden, "cases.jsonl"));

        var failures = new ConcurrentBag<string>();
        Parallel.For(0, 4 * cases.Length, i =>
        {
            if (Mismatch(JsonNode.Parse(cases[i % cases.Length])!.AsObject()) is { } failure)
                failures.Add(failure);
        });

        Assert.Empty(failures);
    }

    private static ChatTemplate Load(JsonObject testCase) => Templates.GetOrAdd(testCase["template"]!.GetValue<string>(),
        name => new ChatTemplate(File.ReadAllText(Path.Combine(TemplateData.Golden, name)), name, TemplateData.ControlTokens));

    private static string? Mismatch(JsonObject testCase)
    {
        string label = $"{testCase["template"]} [{testCase["tag"]}]";
        ChatTemplate template = Load(testCase);
        try
        {
            string text = template.RenderText(TemplateData.Variables(testCase));
            string parts = string.Concat(template.Render(TemplateData.Variables(testCase)).Select(part => part.Text));
            if (testCase["error"] is not null)
                return $"{label}: rendered, expected the error {testCase["error"]}";
            if (text != parts)
                return $"{label}: the parts are not the text";
            string expected = testCase["expected"]!.GetValue<string>();
            return text == expected ? null : $"{label}:\n  expected {expected}\n  but got  {text}";
        }
        catch (TemplateException e)
        {
            string? error = testCase["error"]?.GetValue<string>();
            return error is not null && (error == "*" ? e.RaisedMessage is null : e.RaisedMessage == error) ? null : $"{label}: {e.Message}";
        }
    }
}
