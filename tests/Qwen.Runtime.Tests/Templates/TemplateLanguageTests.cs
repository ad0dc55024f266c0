using System.Text.Json.Nodes;
using Qwen.Runtime.Templates;

namespace Qwen.Runtime.Tests.Templates;

/// <summary>
/// The language itself against Jinja2: data/language.jsonl has one construct at a time, data/random.jsonl random programs, both with what Python gave.
/// The first line of each holds the variables.
/// </summary>
public class TemplateLanguageTests
{
    private static readonly DateTimeOffset Friday = new(2024, 7, 5, 3, 4, 9, TimeSpan.Zero);

    [Theory]
    [InlineData("language.jsonl")]
    [InlineData("random.jsonl")]
    public void Render_GivesWhatJinja2Gives(string file)
    {
        JsonObject[] lines = [.. TemplateData.Lines(TemplateData.Own(file))];
        JsonObject variables = lines[0]["variables"]!.AsObject();

        string[] failures = [.. lines.Skip(1).Select(line => Mismatch(line, variables)).OfType<string>()];

        Assert.True(lines.Length > 600);
        Assert.True(failures.Length == 0, $"{failures.Length} of {lines.Length - 1} templates differ:\n{string.Join("\n", failures)}");
    }

    private static string? Mismatch(JsonObject line, JsonObject variables)
    {
        string source = line["template"]!.GetValue<string>();
        string? expected = line["expected"]?.GetValue<string>();
        string? error = line["error"]?.GetValue<string>();
        try
        {
            var options = new TemplateOptions { Clock = new FixedClock(Friday) };
            string text = new ChatTemplate(source, "test", [], options).RenderText(variables);
            return text == expected ? null : $"{source}\n  expected {expected ?? error}\n  but got  {text}";
        }
        catch (TemplateException e)
        {
            bool isRight = error is not null && (e.RaisedMessage is null || error == "TemplateError: " + e.RaisedMessage);
            return isRight ? null : $"{source}\n  expected {expected ?? error}\n  but got  {e.Message}";
        }
    }

    private sealed class FixedClock(DateTimeOffset now) : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => now;

        public override TimeZoneInfo LocalTimeZone => TimeZoneInfo.Utc;
    }
}
