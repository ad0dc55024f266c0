using System.CommandLine;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Templates;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen render</c>: messages to the text of the prompt, a JSON object a line.</summary>
internal static class RenderCommand
{
    public static Command Create(Streams streams)
    {
        var model = new Option<string?>("--model", "-m") { Description = "A model directory or a .gguf file; the demo model if not given." };
        var template = new Option<string?>("--template") { Description = "A file with a chat template, instead of a model's." };
        var jsonl = new Option<bool>("--jsonl") { Description = "A JSON object a line (the only form there is)." };
        var command = new Command("render", "Renders chat templates: {\"messages\": [...], \"tools\": [...], \"vars\": {...}} to {\"text\": ...} or {\"error\": ...}.") { model, template, jsonl };
        command.SetAction(parsed =>
        {
            ChatTemplate chat = Load(parsed.GetValue(model), parsed.GetValue(template));
            return JsonLines.AnswerAsync(
                streams,
                line =>
                {
                    string text = chat.RenderText(Variables(line));
                    return json => json.WriteString("text", text);
                },
                e => e is TemplateException or ArgumentException);
        });
        return command;
    }

    private static ChatTemplate Load(string? model, string? template)
    {
        if (template is not null && model is null)
            return new ChatTemplate(File.ReadAllText(template), template, []);
        string path = model ?? ModelFiles.DemoModel;
        QwenTokenizer tokenizer = ModelFiles.LoadTokenizer(path);
        return template is null ? ModelFiles.LoadTemplate(path, tokenizer) : ModelFiles.ParseTemplate(File.ReadAllText(template), template, tokenizer);
    }

    private static JsonObject Variables(JsonObject line)
    {
        JsonObject variables = line["vars"] switch
        {
            null => [],
            JsonObject vars => (JsonObject)vars.DeepClone(),
            { } other => throw new ArgumentException($"vars: {other.ToJsonString()} is no object."),
        };
        variables["messages"] = line["messages"] is JsonArray messages ? messages.DeepClone() : throw new ArgumentException("messages: is missing, or no list.");
        if (line["tools"] is { } tools)
            variables["tools"] = tools.DeepClone();
        return variables;
    }
}
