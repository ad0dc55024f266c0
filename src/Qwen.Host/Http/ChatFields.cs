using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Templates;

namespace Qwen.Host.Http;

/// <summary>The conversation of a chat request: OpenAI's messages and tools, brought to the form that chat templates read.</summary>
internal static class ChatFields
{
    /// <summary>Reads them.</summary>
    /// <param name="fields">The body.</param>
    /// <param name="opensAnswer">The prompt ends with the opening of the assistant's turn, if the body doesn't say.</param>
    public static ChatRequest Read(RequestFields fields, bool opensAnswer = true)
    {
        IReadOnlyList<RequestFields> messages = fields.Objects("messages") ?? throw fields.Missing("messages");
        if (messages.Count == 0)
            throw ApiException.Invalid("messages: is empty; give at least one message.", "messages");
        return new ChatRequest
        {
            Messages = [.. messages.Select(Message)],
            Tools = Tools(fields),
            TemplateVariables = Variables(fields),
            AddGenerationPrompt = fields.Bool("add_generation_prompt") ?? opensAnswer,
        };
    }

    /// <summary>A message as it is, but for its content, which is made one text, and the arguments of its tool calls, which are parsed.</summary>
    private static JsonNode Message(RequestFields fields)
    {
        JsonObject message = JsonObject.Create(fields.Json)!;
        string role = fields.String("role") ?? throw fields.Missing("role");
        message["role"] = role switch
        {
            "system" or "user" or "assistant" or "tool" => role,
            "developer" => "system", // OpenAI's newer name for it
            _ => throw ApiException.Invalid($"{fields.PathOf("role")}: '{role}' is not one of system, developer, user, assistant, tool.", fields.PathOf("role")),
        };
        message["content"] = Content(fields) ?? (role == "assistant" ? "" : throw fields.Missing("content"));
        if (fields.Objects("tool_calls") is { } calls)
            message["tool_calls"] = new JsonArray([.. calls.Select(ToolCall)]);
        return message;
    }

    /// <summary>A string, or text in parts, which are joined by line ends as in vLLM and llama.cpp.</summary>
    private static string? Content(RequestFields message) => message.Element("content") switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } content => content.GetString(),
        { ValueKind: JsonValueKind.Array } => string.Join('\n', message.Objects("content")!.Select(Part)),
        { } other => throw RequestFields.Wrong(message.PathOf("content"), other, "a string or a list of text parts"),
    };

    private static string Part(RequestFields part)
    {
        part.Refuse("type", e => RequestFields.Is(e, "text"), "only parts of type 'text' are supported.");
        return part.String("text") ?? throw part.Missing("text");
    }

    /// <summary>OpenAI has the arguments as JSON in a string; templates write them out themselves, from the object.</summary>
    private static JsonNode ToolCall(RequestFields call)
    {
        RequestFields function = call.Object("function") ?? throw call.Missing("function");
        _ = function.String("name") ?? throw function.Missing("name");
        JsonObject result = JsonObject.Create(call.Json)!;
        if (function.Element("arguments") is { ValueKind: JsonValueKind.String } arguments)
            result["function"]!["arguments"] = Arguments(arguments.GetString()!, function.PathOf("arguments"));
        return result;
    }

    private static JsonObject Arguments(string json, string path)
    {
        if (string.IsNullOrWhiteSpace(json))
            return []; // how some clients write a call without arguments
        try
        {
            JsonElement arguments = StrictJson.Parse(json);
            if (arguments.ValueKind == JsonValueKind.Object)
                return JsonObject.Create(arguments)!;
        }
        catch (JsonException e)
        {
            throw ApiException.Invalid($"{path}: is not valid JSON: {e.Message}", path);
        }

        throw ApiException.Invalid($"{path}: is not a JSON object.", path);
    }

    private static JsonArray? Tools(RequestFields fields)
    {
        fields.Refuse("tool_choice", e => RequestFields.Is(e, "auto") || RequestFields.Is(e, "none"), "only \"auto\" and \"none\" are supported yet.");
        fields.Refuse("functions", _ => false, "is not supported; use tools.");
        if (fields.Objects("tools") is not { } tools || fields.String("tool_choice") == "none")
            return null;
        foreach (RequestFields tool in tools)
        {
            tool.Refuse("type", e => RequestFields.Is(e, "function"), "only tools of type 'function' are supported.");
            RequestFields function = tool.Object("function") ?? throw tool.Missing("function");
            _ = function.String("name") ?? throw function.Missing("name");
        }

        return new JsonArray([.. tools.Select(tool => JsonObject.Create(tool.Json))]);
    }

    /// <summary>Further variables of the template, but for those whose control tokens it would trust.</summary>
    private static JsonObject? Variables(RequestFields fields)
    {
        if (fields.Object("chat_template_kwargs") is not { } variables)
            return null;
        foreach (string trusted in TemplateOptions.Default.TrustedVariables)
            variables.Refuse(trusted, _ => false, "is the model's own and can't be set.");
        return JsonObject.Create(variables.Json);
    }
}
