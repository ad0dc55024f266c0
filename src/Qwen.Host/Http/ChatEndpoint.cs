using System.Text;
using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Http;

/// <summary><c>POST /v1/chat/completions</c>.</summary>
internal static class ChatEndpoint
{
    public static async Task HandleAsync(HttpContext context, Responder responder)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        responder.CheckModel(fields);
        if (fields.Object("response_format") is { } format)
            format.Refuse("type", e => RequestFields.Is(e, "text"), "only \"text\" is supported yet.");
        SamplingOptions sampling = SamplingFields.Read(fields, fields.Int("max_completion_tokens") ?? fields.Int("max_tokens"), Logprobs(fields));
        (bool stream, bool includeUsage) = SamplingFields.ReadStream(fields);
        ChatRequest chat = ChatFields.Read(fields);
        QwenTokenizer tokenizer = responder.Engine.Model.Tokenizer;
        IReadOnlyList<int> prompt = responder.Engine.EncodeChat(chat);
        bool inReasoning = AssistantParser.EndsInReasoning(tokenizer, prompt);
        var answer = new ChatFormat(responder.ModelName, tokenizer, prompt, () => new AssistantParser(chat.Tools is not null, inReasoning))
        {
            IncludeUsage = includeUsage,
            IncludeTokenIds = fields.Bool("return_token_ids") ?? false,
        };
        await responder.RespondAsync(context, fields, [prompt], "messages", sampling, answer, stream).ConfigureAwait(false);
    }

    /// <summary><c>logprobs</c> is a switch, and <c>top_logprobs</c> a number, here.</summary>
    private static int? Logprobs(RequestFields fields)
    {
        bool isOn = fields.Bool("logprobs") ?? false;
        int? top = fields.Int("top_logprobs");
        if (top is not null && !isOn)
            throw ApiException.Invalid("top_logprobs: needs logprobs to be true.", "top_logprobs");
        return isOn ? top ?? 0 : null;
    }

    /// <summary>Messages with their reasoning and tool calls. A call is streamed in one piece, when it is complete.</summary>
    private sealed class ChatFormat(string modelName, QwenTokenizer tokenizer, IReadOnlyList<int> prompt, Func<AssistantParser> newParser) : AnswerFormat("chatcmpl", modelName, tokenizer)
    {
        private readonly Dictionary<int, Message> _messages = [];

        protected override string Kind => "chat.completion";

        protected override string PieceKind => "chat.completion.chunk";

        public override bool HasOpening(int index) => true;

        public override bool Take(int index, GenerationChunk chunk)
        {
            Message message = Of(index);
            message.FirstCall = message.Parser.ToolCallCount;
            message.Piece = message.Parser.Append(chunk.Text, chunk.FinishReason is not null);
            return !message.Piece.IsEmpty || HasMore(chunk);
        }

        /// <summary>vLLM has the log-probabilities of a chat's prompt beside the choices.</summary>
        protected override void WriteTail(Utf8JsonWriter json, IReadOnlyList<WholeAnswer> answers)
        {
            if (answers[0].PromptLogprobs is { } logprobs)
                WritePromptLogprobs(json, prompt, logprobs);
        }

        protected override string Reason(int index, FinishReason reason) =>
            reason == FinishReason.Stop && Of(index).Parser.ToolCallCount > 0 ? "tool_calls" : base.Reason(index, reason);

        protected override void WriteWholeChoice(Utf8JsonWriter json, int index, WholeAnswer answer)
        {
            AssistantPiece whole = Of(index).Parser.Append(answer.Text, isLast: true);
            json.WriteStartObject("message");
            json.WriteString("role", "assistant");
            json.WriteString("content", whole.Content.Length == 0 && whole.ToolCalls.Count > 0 ? null : whole.Content);
            if (whole.Reasoning.Length > 0)
                json.WriteString("reasoning_content", whole.Reasoning);
            WriteCalls(json, whole.ToolCalls, null);
            json.WriteEndObject();
            WriteLogprobs(json, answer.Tokens);
        }

        protected override void WriteOpeningChoice(Utf8JsonWriter json, int index)
        {
            json.WriteStartObject("delta");
            json.WriteString("role", "assistant");
            json.WriteString("content", "");
            json.WriteEndObject();
            json.WriteNull("logprobs");
        }

        protected override void WritePieceChoice(Utf8JsonWriter json, int index, GenerationChunk chunk)
        {
            Message message = Of(index);
            json.WriteStartObject("delta");
            if (message.Piece.Reasoning.Length > 0)
                json.WriteString("reasoning_content", message.Piece.Reasoning);
            if (message.Piece.Content.Length > 0)
                json.WriteString("content", message.Piece.Content);
            WriteCalls(json, message.Piece.ToolCalls, message.FirstCall);
            json.WriteEndObject();
            WriteLogprobs(json, chunk.Tokens);
        }

        private Message Of(int index) => _messages.TryGetValue(index, out Message? message) ? message : _messages[index] = new Message(newParser());

        /// <summary>Writes calls; with their numbers in a stream.</summary>
        private static void WriteCalls(Utf8JsonWriter json, IReadOnlyList<ToolCall> calls, int? first)
        {
            if (calls.Count == 0)
                return;
            json.WriteStartArray("tool_calls");
            for (int i = 0; i < calls.Count; i++)
            {
                json.WriteStartObject();
                if (first is { } number)
                    json.WriteNumber("index", number + i);
                json.WriteString("id", $"call_{Guid.NewGuid():N}");
                json.WriteString("type", "function");
                json.WriteStartObject("function");
                json.WriteString("name", calls[i].Name);
                json.WriteString("arguments", calls[i].Arguments);
                json.WriteEndObject();
                json.WriteEndObject();
            }

            json.WriteEndArray();
        }

        private void WriteLogprobs(Utf8JsonWriter json, IReadOnlyList<GeneratedToken> tokens)
        {
            if (!HasLogprobs(tokens))
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
            ReadOnlySpan<byte> bytes = Bytes(id);
            json.WriteString("token", Encoding.UTF8.GetString(bytes));
            json.WriteNumber("logprob", Finite(logprob));
            json.WriteStartArray("bytes");
            foreach (byte b in bytes)
                json.WriteNumberValue(b);
            json.WriteEndArray();
        }

        /// <summary>An answer that is being taken apart.</summary>
        private sealed class Message(AssistantParser parser)
        {
            public AssistantParser Parser => parser;

            /// <summary>What the last chunk added.</summary>
            public AssistantPiece Piece { get; set; }

            /// <summary>The number of the first call in it.</summary>
            public int FirstCall { get; set; }
        }
    }
}
