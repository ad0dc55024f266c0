using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Templates;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen render</c>: messages to the text of the prompt, a JSON object a line. Reads no weights.</summary>
internal static class RenderCommand
{
    public static Command Create(Streams streams)
    {
        Option<string?> model = ModelOptions.CreatePath();
        var template = new Option<string?>("--template") { Description = "A file with a chat template, instead of a model's." };
        var jsonl = new Option<bool>("--jsonl") { Description = "A JSON object a line (the only form there is)." };
        var command = new Command("render", "Renders chat templates: {\"messages\": [...], \"tools\": [...], \"vars\": {...}} to {\"text\": ...} or {\"error\": ...}.") { model, template, jsonl };
        command.SetAction(parsed =>
        {
            ChatTemplate chat = Load(ModelOptions.ReadPath(parsed.GetValue(model)), parsed.GetValue(template));
            return JsonLines.AnswerAsync(streams, line =>
            {
                string text = chat.RenderText(Variables(line));
                return json => json.WriteString("text", text);
            });
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

    /// <summary>The variables of the template: all of <c>vars</c>, and the messages and tools beside it.</summary>
    private static JsonObject Variables(JsonElement line)
    {
        JsonObject variables = line.TryGetProperty("vars", out JsonElement vars) && vars.ValueKind != JsonValueKind.Null
            ? vars.ValueKind == JsonValueKind.Object ? JsonObject.Create(vars)! : throw new ArgumentException($"vars: {vars.GetRawText()} is not an object.")
            : [];
        variables["messages"] = line.TryGetProperty("messages", out JsonElement messages) && messages.ValueKind == JsonValueKind.Array
            ? JsonArray.Create(messages)
            : throw new ArgumentException("messages: is missing, or not a list.");
        if (line.TryGetProperty("tools", out JsonElement tools) && tools.ValueKind != JsonValueKind.Null)
            variables["tools"] = tools.ValueKind == JsonValueKind.Array ? JsonArray.Create(tools) : throw new ArgumentException($"tools: {tools.GetRawText()} is not a list.");
        return variables;
    }
}
