using System.Text;
using System.Text.Json.Nodes;
using Qwen.Runtime.Templates;

namespace Qwen.Runtime.Tests.Templates;

/// <summary>Random damage to real templates: whatever comes of it renders or fails with a <see cref="TemplateException"/>, and nothing else.</summary>
public class TemplateFuzzTests
{
    private const int Cases = 40_000;

    // Small limits, so that a mutant that loops costs little.
    private static readonly TemplateOptions Limits = new() { MaxSteps = 20_000, MaxWork = 2_000_000 };

    private static readonly string[] Fragments =
    [
        "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", "~", "|", ".", ",", "(", ")", "[", "]", "{", "}", "'", "\"", "\\", "\n", " ", "0", "-1", "99999999999", "1e9", "**", "//", "%",
        "not ", " is ", " in ", " if ", " else ", "none", "true", "loop", "messages", "content", "[::-1]", "[1:]", "|length", "|tojson", "|list", "|join", "|sort", "|map('upper')",
        "|int", "|string", "|first", "|items", "|reverse", ".split('a')", ".strip()", "* 3", "{% endif %}", "{% endfor %}", "{% set x = 1 %}", "{% break %}", "range(5)",
        "namespace()", "<|im_end|>", "\uDC00", "😀", "\0", "é",
    ];

    [Fact]
    public void MutatedTemplates_OnlyEverFailWithATemplateException()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        string[] sources = Sources();
        JsonObject[] variables = [.. TemplateData.Lines(TemplateData.Own("messages.jsonl"))];

        int rendered = 0;
        for (int i = 0; i < Cases; i++)
        {
            string source = Mutate(random, sources);
            try
            {
                var template = new ChatTemplate(source, "mutant", TemplateData.ControlTokens, Limits);
                template.Render(variables[random.Next(variables.Length)]);
                rendered++;
            }
            catch (TemplateException)
            {
                // The only error there may be.
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}, case {i}: {e}\n--- template:\n{source}");
            }
        }
        Assert.True(rendered > Cases / 100, $"seed {seed}: only {rendered} mutants rendered, the mutations are too rough to test rendering");
    }

    private static string[] Sources()
    {
        string[] own = [File.ReadAllText(TemplateData.Own("demo.jinja")), .. TemplateData.Lines(TemplateData.Own("language.jsonl")).Skip(1).Select(l => l["template"]!.GetValue<string>())];
        return Directory.Exists(TemplateData.Golden) ? [.. Directory.GetFiles(TemplateData.Golden, "*.jinja").Select(File.ReadAllText), .. own] : own;
    }

    private static string Mutate(Random random, string[] sources)
    {
        // Half of the mutants come from the long real templates, which are first.
        string source = sources[random.Next(random.Next(2) == 0 ? Math.Min(10, sources.Length) : sources.Length)];
        var text = new StringBuilder(source);
        for (int n = random.Next(1, 5); n > 0; n--)
        {
            int at = random.Next(text.Length + 1);
            int length = Math.Min(random.Next(1, 20), text.Length - at);
            switch (random.Next(4))
            {
                case 0:
                    text.Remove(at, length);
                    break;
                case 1:
                    text.Insert(at, Fragments[random.Next(Fragments.Length)]);
                    break;
                case 2:
                    string other = sources[random.Next(sources.Length)];
                    int from = random.Next(other.Length);
                    text.Insert(at, other.AsSpan(from, Math.Min(random.Next(1, 60), other.Length - from)));
                    break;
                default:
                    text.Remove(at, length).Insert(at, Fragments[random.Next(Fragments.Length)]);
                    break;
            }
        }
        return text.ToString();
    }
}
