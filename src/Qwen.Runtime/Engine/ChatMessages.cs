using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;

namespace Qwen.Runtime.Engine;

/// <summary>Messages and tools of Microsoft.Extensions.AI as chat templates read them: in OpenAI's form.</summary>
internal static class ChatMessages
{
    private static readonly JsonSerializerOptions Plain = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>A conversation, opened by the instructions where there are any.</summary>
    /// <exception cref="NotSupportedException">A message holds an image, audio or a file.</exception>
    public static JsonArray ToTemplate(IEnumerable<ChatMessage> messages, string? instructions)
    {
        var turns = new JsonArray();
        if (!string.IsNullOrEmpty(instructions))
            turns.Add((JsonNode)new JsonObject { ["role"] = ChatRole.System.Value, ["content"] = instructions });
        foreach (ChatMessage message in messages)
        {
            // Each result of a tool is a turn of its own.
            foreach (FunctionResultContent result in message.Contents.OfType<FunctionResultContent>())
                turns.Add((JsonNode)new JsonObject { ["role"] = ChatRole.Tool.Value, ["tool_call_id"] = result.CallId, ["content"] = Text(result.Result) });
            if (message.Role != ChatRole.Tool)
                turns.Add((JsonNode)Turn(message));
        }

        return turns;
    }

    /// <summary>The declarations of functions; null where there are none.</summary>
    public static JsonArray? ToTemplate(IEnumerable<AITool>? tools)
    {
        JsonNode[] functions = [.. tools?.OfType<AIFunctionDeclaration>().Select(Function) ?? []];
        return functions.Length > 0 ? new JsonArray(functions) : null;
    }

    /// <summary>The arguments of a call that the model wrote: JSON values by name.</summary>
    public static IDictionary<string, object?> Arguments(string json) =>
        JsonElement.Parse(json) is { ValueKind: JsonValueKind.Object } arguments
            ? arguments.EnumerateObject().ToDictionary(a => a.Name, a => (object?)a.Value)
            : throw new JsonException($"The arguments of a call are not an object: {json}");

    private static JsonObject Turn(ChatMessage message)
    {
        if (message.Contents.FirstOrDefault(c => c is DataContent or UriContent or HostedFileContent) is { } other)
            throw new NotSupportedException($"The model reads text alone; a message holds {other.GetType().Name}.");
        var turn = new JsonObject { ["role"] = message.Role.Value, ["content"] = message.Text };
        string reasoning = string.Concat(message.Contents.OfType<TextReasoningContent>().Select(c => c.Text));
        if (reasoning.Length > 0)
            turn["reasoning_content"] = reasoning;
        JsonNode[] calls = [.. message.Contents.OfType<FunctionCallContent>().Select(call => new JsonObject
        {
            ["id"] = call.CallId,
            ["type"] = "function",
            ["function"] = new JsonObject { ["name"] = call.Name, ["arguments"] = Serialize(call.Arguments) ?? new JsonObject() },
        })];
        if (calls.Length > 0)
            turn["tool_calls"] = new JsonArray(calls);
        return turn;
    }

    private static JsonNode Function(AIFunctionDeclaration tool) => new JsonObject
    {
        ["type"] = "function",
        ["function"] = new JsonObject { ["name"] = tool.Name, ["description"] = tool.Description, ["parameters"] = JsonObject.Create(tool.JsonSchema) },
    };

    /// <summary>A string as it is, all else as JSON.</summary>
    private static string Text(object? result)
    {
        JsonNode? node = Serialize(result);
        return node is JsonValue value && value.TryGetValue(out string? text) ? text : node?.ToJsonString(Plain) ?? "";
    }

    private static JsonNode? Serialize(object? value) => JsonSerializer.SerializeToNode(value, AIJsonUtilities.DefaultOptions.GetTypeInfo(typeof(object)));
}
