using System.Text.Json.Nodes;
using Qwen.Runtime.Templates;

namespace Qwen.Runtime.Engine;

/// <summary>A conversation as the chat template takes it: OpenAI's messages and tools, passed through as they are.</summary>
public sealed record ChatRequest
{
    /// <summary>Messages: objects with <c>role</c>, <c>content</c> and whatever else the template reads.</summary>
    public required JsonArray Messages { get; init; }

    /// <summary>Tools the model may call; null for none.</summary>
    public JsonArray? Tools { get; init; }

    /// <summary>Ends the prompt with the opening of the assistant's turn.</summary>
    public bool AddGenerationPrompt { get; init; } = true;

    /// <summary>Further variables of the template, such as <c>enable_thinking</c>.</summary>
    public JsonObject? TemplateVariables { get; init; }

    /// <summary>A conversation of plain text turns.</summary>
    public static ChatRequest FromMessages(params IEnumerable<(string Role, string Content)> messages) => new()
    {
        Messages = [.. messages.Select(m => (JsonNode)new JsonObject { ["role"] = m.Role, ["content"] = m.Content })],
    };

    /// <summary>A single user message.</summary>
    public static ChatRequest FromUser(string message) => FromMessages(("user", message));

    /// <summary>All variables the template is rendered with.</summary>
    internal JsonObject Variables()
    {
        JsonObject variables = TemplateVariables is null ? [] : (JsonObject)TemplateVariables.DeepClone();
        // These may hold control tokens, so they are not the caller's to set.
        foreach (string trusted in TemplateOptions.Default.TrustedVariables)
            variables.Remove(trusted);
        variables["messages"] = Messages.DeepClone();
        if (Tools is { Count: > 0 })
            variables["tools"] = Tools.DeepClone();
        variables["add_generation_prompt"] = AddGenerationPrompt;
        return variables;
    }
}
