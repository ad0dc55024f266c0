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
        fields.Refuse("n", e => e.ValueKind == JsonValueKind.Number && e.TryGetInt32(out int n) && n == 1, "only 1 is supported yet.");
        if (fields.Object("response_format") is { } format)
            format.Refuse("type", e => RequestFields.Is(e, "text"), "only \"text\" is supported yet.");
        SamplingOptions sampling = SamplingFields.Read(fields, fields.Int("max_completion_tokens") ?? fields.Int("max_tokens"), Logprobs(fields));
        (bool stream, bool includeUsage) = SamplingFields.ReadStream(fields);
        IReadOnlyList<int> prompt = responder.Engine.EncodeChat(ChatFields.Read(fields));
        var answer = new ChatFormat(responder.ModelName, responder.Engine.Model.Tokenizer) { IncludeUsage = includeUsage };
        await responder.RespondAsync(context, [prompt], "messages", sampling, answer, stream).ConfigureAwait(false);
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

    private sealed class ChatFormat(string modelName, QwenTokenizer tokenizer) : AnswerFormat("chatcmpl", modelName, tokenizer)
    {
        protected override string Kind => "chat.completion";

        protected override string PieceKind => "chat.completion.chunk";

        public override bool HasOpening(int index) => true;

        protected override void WriteWholeChoice(Utf8JsonWriter json, int index, WholeAnswer answer)
        {
            json.WriteStartObject("message");
            json.WriteString("role", "assistant");
            json.WriteString("content", answer.Text);
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
            json.WriteStartObject("delta");
            if (chunk.Text.Length > 0)
                json.WriteString("content", chunk.Text);
            json.WriteEndObject();
            WriteLogprobs(json, chunk.Tokens);
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
    }
}
