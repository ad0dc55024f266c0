using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Http;

/// <summary><c>POST /v1/chat/completions</c>.</summary>
internal static class ChatEndpoint
{
    public static async Task HandleAsync(HttpContext context, QwenEngine engine, ServerSettings settings)
    {
        using JsonDocument body = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        var fields = new RequestFields(body.RootElement);
        QwenServer.CheckModel(fields, settings);
        fields.Refuse("n", e => e.ValueKind != JsonValueKind.Number || !e.TryGetInt32(out int n) || n != 1, "n: only 1 is supported yet.");
        fields.Refuse("response_format", e => e.ValueKind != JsonValueKind.Object || !e.TryGetProperty("type", out JsonElement type) || type.ToString() != "text", "response_format: only {\"type\": \"text\"} is supported yet.");
        bool stream = fields.Bool("stream") ?? false, wantsLogprobs = fields.Bool("logprobs") ?? false;
        int? top = fields.Int("top_logprobs");
        if (top is not null && !wantsLogprobs)
            throw ApiException.Invalid("top_logprobs: needs logprobs to be true.", "top_logprobs");
        SamplingOptions sampling = SamplingFields.Read(fields, fields.Int("max_completion_tokens") ?? fields.Int("max_tokens"), wantsLogprobs ? top ?? 0 : null);
        IAsyncEnumerable<GenerationChunk> answer = engine.ChatAsync(Chat(fields), sampling, context.RequestAborted);
        var frame = new Frame($"chatcmpl-{Guid.NewGuid():N}", DateTimeOffset.UtcNow.ToUnixTimeSeconds(), settings.ModelName, engine);
        if (stream)
            await StreamAsync(context, answer, frame, IncludeUsage(fields)).ConfigureAwait(false);
        else
            await AnswerAsync(context, answer, frame, wantsLogprobs).ConfigureAwait(false);
    }

    /// <summary><c>stream_options.include_usage</c>.</summary>
    internal static bool IncludeUsage(RequestFields fields) => fields.Element("stream_options") switch
    {
        null => false,
        { ValueKind: JsonValueKind.Object } options => new RequestFields(options).Bool("include_usage") ?? false,
        { } other => throw RequestFields.Wrong("stream_options", other, "an object"),
    };

    internal static void WriteUsage(Utf8JsonWriter json, Usage usage)
    {
        json.WriteStartObject("usage");
        json.WriteNumber("prompt_tokens", usage.PromptTokens);
        json.WriteNumber("completion_tokens", usage.CompletionTokens);
        json.WriteNumber("total_tokens", usage.TotalTokens);
        json.WriteEndObject();
    }

    internal static string? Name(FinishReason? reason) => reason switch
    {
        null => null,
        FinishReason.Stop => "stop",
        FinishReason.Length => "length",
        _ => "abort",
    };

    private static ChatRequest Chat(RequestFields fields)
    {
        if (fields.Element("messages") is not { ValueKind: JsonValueKind.Array } messages || messages.GetArrayLength() == 0)
            throw ApiException.Invalid("messages: is missing, or no list with a message in it.", "messages");
        var list = new JsonArray();
        int index = 0;
        foreach (JsonElement message in messages.EnumerateArray())
            list.Add((JsonNode)Message($"messages[{index++}]", message));
        return new ChatRequest
        {
            Messages = list,
            Tools = fields.Element("tools") switch
            {
                null => null,
                { ValueKind: JsonValueKind.Array } tools => JsonArray.Create(tools.Clone()),
                { } other => throw RequestFields.Wrong("tools", other, "a list"),
            },
            TemplateVariables = fields.Element("chat_template_kwargs") switch
            {
                null => null,
                { ValueKind: JsonValueKind.Object } variables => JsonObject.Create(variables.Clone()),
                { } other => throw RequestFields.Wrong("chat_template_kwargs", other, "an object"),
            },
            AddGenerationPrompt = fields.Bool("add_generation_prompt") ?? true,
        };
    }

    /// <summary>A message as it is, its content put together to one string where it comes in parts.</summary>
    private static JsonObject Message(string name, JsonElement element)
    {
        if (element.ValueKind != JsonValueKind.Object)
            throw RequestFields.Wrong(name, element, "an object");
        _ = new RequestFields(element).String("role") ?? throw ApiException.Invalid($"{name}.role: is missing.", "messages");
        JsonObject message = JsonObject.Create(element.Clone())!;
        if (!element.TryGetProperty("content", out JsonElement content) || content.ValueKind == JsonValueKind.Null)
        {
            message["content"] = ""; // an assistant's turn that only calls tools
            return message;
        }

        if (content.ValueKind == JsonValueKind.Array)
        {
            var text = new StringBuilder();
            foreach (JsonElement part in content.EnumerateArray())
            {
                if (part.ValueKind != JsonValueKind.Object || new RequestFields(part).String("type") != "text")
                    throw ApiException.Invalid($"{name}.content: only parts of type 'text' are supported.", "messages");
                text.Append(new RequestFields(part).String("text") ?? throw ApiException.Invalid($"{name}.content: a part has no text.", "messages"));
            }

            message["content"] = text.ToString();
        }
        else
        {
            _ = RequestFields.Text($"{name}.content", content);
        }

        return message;
    }

    private static async Task AnswerAsync(HttpContext context, IAsyncEnumerable<GenerationChunk> answer, Frame frame, bool wantsLogprobs)
    {
        var text = new StringBuilder();
        var tokens = new List<GeneratedToken>();
        GenerationChunk? last = null;
        await foreach (GenerationChunk chunk in answer.ConfigureAwait(false))
        {
            text.Append(chunk.Text);
            tokens.AddRange(chunk.Tokens);
            last = chunk;
        }

        await QwenServer.WriteAsync(context, StatusCodes.Status200OK, json => frame.Write(json, "chat.completion", () =>
        {
            json.WriteStartObject("message");
            json.WriteString("role", "assistant");
            json.WriteString("content", text.ToString());
            json.WriteEndObject();
            frame.WriteLogprobs(json, wantsLogprobs ? tokens : null);
            json.WriteString("finish_reason", Name(last!.FinishReason));
        }, last!.Usage)).ConfigureAwait(false);
    }

    private static async Task StreamAsync(HttpContext context, IAsyncEnumerable<GenerationChunk> answer, Frame frame, bool includeUsage)
    {
        var events = new EventStream(context);
        await events.RunAsync(async () =>
        {
            Usage usage = default;
            bool isFirst = true;
            await foreach (GenerationChunk chunk in answer.ConfigureAwait(false))
            {
                usage = chunk.Usage;
                bool withRole = isFirst;
                isFirst = false;
                await events.SendAsync(json => frame.Write(json, "chat.completion.chunk", () =>
                {
                    json.WriteStartObject("delta");
                    if (withRole)
                        json.WriteString("role", "assistant");
                    if (chunk.Text.Length > 0 || withRole)
                        json.WriteString("content", chunk.Text);
                    json.WriteEndObject();
                    frame.WriteLogprobs(json, chunk.Tokens);
                    json.WriteString("finish_reason", Name(chunk.FinishReason));
                }, null)).ConfigureAwait(false);
            }

            if (includeUsage)
                await events.SendAsync(json => frame.Write(json, "chat.completion.chunk", null, usage)).ConfigureAwait(false);
        }).ConfigureAwait(false);
    }

    /// <summary>What every object of one answer has.</summary>
    private sealed record Frame(string Id, long Created, string Model, QwenEngine Engine)
    {
        public void Write(Utf8JsonWriter json, string kind, Action? choice, Usage? usage)
        {
            json.WriteString("id", Id);
            json.WriteString("object", kind);
            json.WriteNumber("created", Created);
            json.WriteString("model", Model);
            json.WriteStartArray("choices");
            if (choice is not null)
            {
                json.WriteStartObject();
                json.WriteNumber("index", 0);
                choice();
                json.WriteEndObject();
            }

            json.WriteEndArray();
            if (usage is { } counts)
                WriteUsage(json, counts);
        }

        public void WriteLogprobs(Utf8JsonWriter json, IEnumerable<GeneratedToken>? tokens)
        {
            if (tokens?.Any(t => t.Logprobs is not null) != true)
            {
                json.WriteNull("logprobs");
                return;
            }

            json.WriteStartObject("logprobs");
            json.WriteStartArray("content");
            foreach (GeneratedToken token in tokens)
            {
                json.WriteStartObject();
                WriteToken(json, token.Id, token.Logprobs!.Logprob);
                json.WriteStartArray("top_logprobs");
                foreach ((int id, double logprob) in token.Logprobs.Top)
                {
                    json.WriteStartObject();
                    WriteToken(json, id, logprob);
                    json.WriteEndObject();
                }

                json.WriteEndArray();
                json.WriteEndObject();
            }

            json.WriteEndArray();
            json.WriteEndObject();
        }

        private void WriteToken(Utf8JsonWriter json, int id, double logprob)
        {
            ReadOnlySpan<byte> bytes = Engine.Model.Tokenizer.GetBytes(id);
            json.WriteString("token", Encoding.UTF8.GetString(bytes));
            json.WriteNumber("logprob", Math.Max(logprob, -9999));
            json.WriteStartArray("bytes");
            foreach (byte b in bytes)
                json.WriteNumberValue(b);
            json.WriteEndArray();
        }
    }
}
