using System.Text.Json.Nodes;

namespace Qwen.Runtime.Tests.Templates;

/// <summary>Finds the data of the template tests: golden cases beside the repository where they are there, and small ones inside it.</summary>
internal static class TemplateData
{
    public static readonly string[] ControlTokens =
    [
        "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>",
    ];

    private static readonly string Root = FindRoot();

    public static string Golden => Path.Combine(Root, "..", "shared", "golden", "templates");

    public static string Demo => Path.Combine(Root, "..", "shared", "demo-model", "chat_template.jinja");

    public static string Own(string file) => Path.Combine(Root, "tests", "Qwen.Runtime.Tests", "Templates", "data", file);

    public static IEnumerable<JsonObject> Lines(string path) =>
        File.ReadLines(path).Where(line => line.Length > 0).Select(line => JsonNode.Parse(line)!.AsObject());

    /// <summary>The variables of a golden case.</summary>
    public static JsonObject Variables(JsonObject testCase)
    {
        JsonObject variables = testCase["vars"]?.DeepClone().AsObject() ?? [];
        foreach (string name in (string[])["messages", "tools"])
        {
            if (testCase[name] is { } value)
                variables[name] = value.DeepClone();
        }
        return variables;
    }

    private static string FindRoot()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "Engine.sln")))
            directory = directory.Parent;
        return directory?.FullName ?? throw new DirectoryNotFoundException("no folder above the tests holds Engine.sln");
    }
}
