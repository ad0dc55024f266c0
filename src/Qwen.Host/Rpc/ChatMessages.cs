using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Host.Http;

namespace Qwen.Host.Rpc;

/// <summary>The conversation of a gRPC request. It is read as HTTP's is, so both refuse the same with the same words.</summary>
internal static class ChatMessages
{
    public static Runtime.Engine.ChatRequest Read(ChatRequest request)
    {
        var body = new JsonObject { ["messages"] = new JsonArray([.. request.Messages.Select(Message)]) };
        if (request.ToolsJson.Length > 0)
            body["tools"] = Parse(request.ToolsJson, "tools_json");
        if (request.ChatTemplateKwargsJson.Length > 0)
            body["chat_template_kwargs"] = Parse(request.ChatTemplateKwargsJson, "chat_template_kwargs_json");
        return ChatFields.Read(new RequestFields(StrictJson.Parse(body.ToJsonString())));
    }

    private static JsonObject Message(Message message, int index)
    {
        var json = new JsonObject { ["role"] = message.Role, ["content"] = message.Content };
        if (message.ToolCallsJson.Length > 0)
            json["tool_calls"] = Parse(message.ToolCallsJson, $"messages[{index}].tool_calls_json");
        return json;
    }

    private static JsonNode? Parse(string json, string field)
    {
        try
        {
            _ = StrictJson.Parse(json);
            return JsonNode.Parse(json, documentOptions: new JsonDocumentOptions { MaxDepth = 128 });
        }
        catch (JsonException e)
        {
            throw ApiException.Invalid($"{field}: is not valid JSON: {e.Message}", field, "invalid_json");
        }
    }
}
