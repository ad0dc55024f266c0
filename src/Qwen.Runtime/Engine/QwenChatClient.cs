using System.Runtime.CompilerServices;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>A <see cref="QwenEngine"/> as an <see cref="IChatClient"/> of Microsoft.Extensions.AI.</summary>
/// <remarks>Tools are shown to the model; the calls it writes come back as text.</remarks>
/// <param name="engine">What answers; it stays its owner's.</param>
public sealed class QwenChatClient(QwenEngine engine) : IChatClient
{
    private readonly ChatClientMetadata _metadata = new("qwen", null, engine.Model.Name);

    /// <inheritdoc/>
    public async Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default)
    {
        var text = new StringBuilder();
        GenerationChunk? last = null;
        await foreach (GenerationChunk chunk in Answer(messages, options, cancellationToken).ConfigureAwait(false))
        {
            text.Append(chunk.Text);
            last = chunk;
        }

        return new ChatResponse(new ChatMessage(ChatRole.Assistant, text.ToString()))
        {
            ModelId = engine.Model.Name,
            FinishReason = Reason(last!.FinishReason),
            Usage = Details(last.Usage),
        };
    }

    /// <inheritdoc/>
    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        string id = Guid.NewGuid().ToString("N");
        await foreach (GenerationChunk chunk in Answer(messages, options, cancellationToken).ConfigureAwait(false))
        {
            var update = new ChatResponseUpdate(ChatRole.Assistant, chunk.Text) { ResponseId = id, MessageId = id, ModelId = engine.Model.Name, FinishReason = Reason(chunk.FinishReason) };
            if (chunk.FinishReason is not null)
                update.Contents.Add(new UsageContent(Details(chunk.Usage)));
            yield return update;
        }
    }

    /// <inheritdoc/>
    public object? GetService(Type serviceType, object? serviceKey = null) =>
        serviceKey is not null ? null
        : serviceType == typeof(ChatClientMetadata) ? _metadata
        : serviceType.IsInstanceOfType(engine) ? engine
        : serviceType.IsInstanceOfType(this) ? this
        : null;

    /// <summary>Does nothing: the engine is its owner's.</summary>
    public void Dispose()
    {
    }

    private static ChatFinishReason? Reason(FinishReason? reason) => reason switch
    {
        null => null,
        FinishReason.Length => ChatFinishReason.Length,
        _ => ChatFinishReason.Stop,
    };

    private static UsageDetails Details(Usage usage) => new()
    {
        InputTokenCount = usage.PromptTokens,
        OutputTokenCount = usage.CompletionTokens,
        TotalTokenCount = usage.TotalTokens,
    };

    private static SamplingOptions Sampling(ChatOptions? options) => options is null ? new SamplingOptions() : new SamplingOptions
    {
        Temperature = Exact(options.Temperature),
        TopP = Exact(options.TopP),
        TopK = options.TopK,
        PresencePenalty = Exact(options.PresencePenalty),
        FrequencyPenalty = Exact(options.FrequencyPenalty),
        Seed = unchecked((ulong?)options.Seed),
        MaxTokens = options.MaxOutputTokens,
        Stop = [.. options.StopSequences ?? []],
    };

    private static double? Exact(float? value) => value;

    private IAsyncEnumerable<GenerationChunk> Answer(IEnumerable<ChatMessage> messages, ChatOptions? options, CancellationToken cancellation)
    {
        var list = new JsonArray();
        if (!string.IsNullOrEmpty(options?.Instructions))
            list.Add((JsonNode)new JsonObject { ["role"] = "system", ["content"] = options.Instructions });
        foreach (ChatMessage message in messages)
        {
            foreach (JsonObject turn in Turns(message))
                list.Add((JsonNode)turn);
        }

        JsonNode[] tools = [.. options?.Tools?.OfType<AIFunctionDeclaration>().Select(Tool) ?? []];
        return engine.ChatAsync(new ChatRequest { Messages = list, Tools = tools.Length > 0 ? new JsonArray(tools) : null }, Sampling(options), cancellation);
    }

    /// <summary>A message as the template takes it: each result of a tool is a turn of its own.</summary>
    private static IEnumerable<JsonObject> Turns(ChatMessage message)
    {
        foreach (FunctionResultContent result in message.Contents.OfType<FunctionResultContent>())
            yield return new JsonObject { ["role"] = "tool", ["tool_call_id"] = result.CallId, ["content"] = result.Result as string ?? JsonSerializer.Serialize(result.Result, AIJsonUtilities.DefaultOptions) };
        if (message.Role == ChatRole.Tool)
            yield break;
        var turn = new JsonObject { ["role"] = message.Role.Value, ["content"] = message.Text };
        JsonNode[] calls = [.. message.Contents.OfType<FunctionCallContent>().Select(call => new JsonObject
        {
            ["id"] = call.CallId,
            ["type"] = "function",
            ["function"] = new JsonObject { ["name"] = call.Name, ["arguments"] = JsonSerializer.SerializeToNode(call.Arguments, AIJsonUtilities.DefaultOptions) },
        })];
        if (calls.Length > 0)
            turn["tool_calls"] = new JsonArray(calls);
        yield return turn;
    }

    private static JsonNode Tool(AIFunctionDeclaration tool) => new JsonObject
    {
        ["type"] = "function",
        ["function"] = new JsonObject { ["name"] = tool.Name, ["description"] = tool.Description, ["parameters"] = JsonNode.Parse(tool.JsonSchema.GetRawText()) },
    };
}
