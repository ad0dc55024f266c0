using System.Runtime.CompilerServices;
using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>A <see cref="QwenEngine"/> as an <see cref="IChatClient"/> of Microsoft.Extensions.AI.</summary>
/// <remarks>
/// Options that <see cref="ChatOptions"/> lacks come from <see cref="ChatOptions.RawRepresentationFactory"/>, which may return a
/// <see cref="SamplingOptions"/>: what is set there goes before the rest. The property <c>chat_template_kwargs</c>, a <see cref="JsonObject"/>
/// among <see cref="ChatOptions.AdditionalProperties"/>, holds further variables of the template. Tools are shown to the model; the calls it
/// writes come back as <see cref="FunctionCallContent"/>, what it thinks before as <see cref="TextReasoningContent"/>.
/// </remarks>
/// <param name="engine">What answers; it stays its owner's.</param>
public sealed class QwenChatClient(QwenEngine engine) : IChatClient
{
    /// <summary>The additional property that holds variables of the chat template.</summary>
    public const string TemplateVariables = "chat_template_kwargs";

    private readonly ChatClientMetadata _metadata = new("qwen", null, engine.Model.Name);

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">The messages hold more than text, or the options demand JSON or a tool call.</exception>
    public Task<ChatResponse> GetResponseAsync(IEnumerable<ChatMessage> messages, ChatOptions? options = null, CancellationToken cancellationToken = default) =>
        GetStreamingResponseAsync(messages, options, cancellationToken).ToChatResponseAsync(cancellationToken);

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">The messages hold more than text, or the options demand JSON or a tool call.</exception>
    public async IAsyncEnumerable<ChatResponseUpdate> GetStreamingResponseAsync(
        IEnumerable<ChatMessage> messages, ChatOptions? options = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(messages);
        string id = Guid.NewGuid().ToString("N");
        DateTimeOffset created = DateTimeOffset.UtcNow;
        ChatRequest request = Request(messages, options);
        SamplingOptions sampling = Sampling(options);
        IReadOnlyList<int> prompt = engine.EncodeChat(request);
        var answer = new AssistantParser(request.Tools is not null, AssistantParser.EndsInReasoning(engine.Model.Tokenizer, prompt));
        await foreach (GenerationChunk chunk in engine.GenerateAsync(prompt, sampling, cancellation: cancellationToken).ConfigureAwait(false))
        {
            AssistantPiece piece = answer.Append(chunk.Text, chunk.FinishReason is not null);
            var update = new ChatResponseUpdate(ChatRole.Assistant, Contents(piece))
            {
                ResponseId = id,
                MessageId = id,
                ModelId = engine.Model.Name,
                CreatedAt = created,
                FinishReason = Reason(chunk.FinishReason, answer),
                RawRepresentation = chunk,
            };
            if (chunk.FinishReason is not null)
                update.Contents.Add(new UsageContent(Details(chunk.Usage)));
            yield return update;
        }
    }

    /// <summary>This client, its metadata, or the engine.</summary>
    public object? GetService(Type serviceType, object? serviceKey = null)
    {
        ArgumentNullException.ThrowIfNull(serviceType);
        return serviceKey is not null ? null
            : serviceType.IsInstanceOfType(this) ? this
            : serviceType.IsInstanceOfType(_metadata) ? _metadata
            : serviceType.IsInstanceOfType(engine) ? engine
            : null;
    }

    /// <summary>Does nothing: the engine is its owner's.</summary>
    public void Dispose()
    {
    }

    private static ChatRequest Request(IEnumerable<ChatMessage> messages, ChatOptions? options)
    {
        if (options?.ToolMode is RequiredChatToolMode)
            throw new NotSupportedException("A tool call can't be demanded yet; use ChatToolMode.Auto.");
        if (options?.ResponseFormat is ChatResponseFormatJson)
            throw new NotSupportedException("JSON can't be demanded yet; use ChatResponseFormat.Text.");
        object? variables = null;
        options?.AdditionalProperties?.TryGetValue(TemplateVariables, out variables);
        return new ChatRequest
        {
            Messages = ChatMessages.ToTemplate(messages, options?.Instructions),
            Tools = options?.ToolMode is NoneChatToolMode ? null : ChatMessages.ToTemplate(options?.Tools),
            TemplateVariables = variables is null or JsonObject ? (JsonObject?)variables : throw new ArgumentException($"{TemplateVariables} is a {variables.GetType().Name}, not a JsonObject.", nameof(options)),
        };
    }

    internal SamplingOptions Sampling(ChatOptions? options)
    {
        if (options is null)
            return new SamplingOptions();
        SamplingOptions own = options.RawRepresentationFactory?.Invoke(this) as SamplingOptions ?? new SamplingOptions();
        if (own.N != 1)
            throw new NotSupportedException($"A chat client gives one answer, not {own.N}; ask the engine itself for several.");
        return own with
        {
            Temperature = own.Temperature ?? options.Temperature,
            TopP = own.TopP ?? options.TopP,
            TopK = own.TopK ?? options.TopK,
            PresencePenalty = own.PresencePenalty ?? options.PresencePenalty,
            FrequencyPenalty = own.FrequencyPenalty ?? options.FrequencyPenalty,
            Seed = own.Seed ?? unchecked((ulong?)options.Seed),
            MaxTokens = own.MaxTokens ?? options.MaxOutputTokens,
            Stop = [.. own.Stop, .. options.StopSequences ?? []],
        };
    }

    private static List<AIContent> Contents(AssistantPiece piece)
    {
        var contents = new List<AIContent>();
        if (piece.Reasoning.Length > 0)
            contents.Add(new TextReasoningContent(piece.Reasoning));
        if (piece.Content.Length > 0)
            contents.Add(new TextContent(piece.Content));
        foreach (ToolCall call in piece.ToolCalls)
            contents.Add(FunctionCallContent.CreateFromParsedArguments(call.Arguments, $"call_{Guid.NewGuid():N}", call.Name, ChatMessages.Arguments));
        return contents;
    }

    private static ChatFinishReason? Reason(FinishReason? reason, AssistantParser answer) => reason switch
    {
        null => null,
        FinishReason.Length => ChatFinishReason.Length,
        _ when answer.ToolCallCount > 0 => ChatFinishReason.ToolCalls,
        _ => ChatFinishReason.Stop,
    };

    private static UsageDetails Details(Usage usage) => new()
    {
        InputTokenCount = usage.PromptTokens,
        OutputTokenCount = usage.CompletionTokens,
        TotalTokenCount = usage.TotalTokens,
        CachedInputTokenCount = usage.CachedTokens,
    };
}
