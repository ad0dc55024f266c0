using System.Text;
using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Http;

/// <summary><c>POST /v1/completions</c>. Control tokens written out in a prompt are text, unless <c>parse_special</c> is true.</summary>
internal static class CompletionsEndpoint
{
    private const int MostPrompts = 128;
    private const int DefaultMaxTokens = 16; // OpenAI's

    public static async Task HandleAsync(HttpContext context, Responder responder)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        responder.CheckModel(fields);
        fields.Refuse("suffix", e => RequestFields.Is(e, ""), "is not supported.");
        bool echo = fields.Bool("echo") ?? false;
        int? logprobs = fields.Int("logprobs");
        if (echo && logprobs is not null)
            throw ApiException.Invalid("logprobs: is not supported together with echo yet.", "logprobs", "unsupported_value");
        SamplingOptions sampling = SamplingFields.Read(fields, fields.Int("max_tokens") ?? DefaultMaxTokens, logprobs);
        (bool stream, bool includeUsage) = SamplingFields.ReadStream(fields);
        QwenTokenizer tokenizer = responder.Engine.Model.Tokenizer;
        IReadOnlyList<int>[] prompts = Prompts(fields, tokenizer);
        string[] echoes = [.. prompts.Select(prompt => echo ? tokenizer.Decode(prompt.Where(id => (uint)id < (uint)tokenizer.VocabularySize)) : "")];
        var answer = new TextFormat(responder.ModelName, tokenizer, prompts, echoes, sampling.N) { IncludeUsage = includeUsage, IncludeTokenIds = fields.Bool("return_token_ids") ?? false };
        await responder.RespondAsync(context, fields, prompts, "prompt", sampling, answer, stream).ConfigureAwait(false);
    }

    /// <summary>A string, a list of strings, a list of ids, or a list of lists of ids.</summary>
    public static IReadOnlyList<int>[] Prompts(RequestFields fields, QwenTokenizer tokenizer)
    {
        AddedTokenParsing parsing = fields.Bool("parse_special") == true ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
        JsonElement prompt = fields.Element("prompt") ?? throw fields.Missing("prompt");
        if (prompt.ValueKind == JsonValueKind.String)
            return [One("prompt", prompt)];
        if (prompt.ValueKind != JsonValueKind.Array || prompt.GetArrayLength() == 0)
            throw RequestFields.Wrong("prompt", prompt, "a string, a list of strings, a list of token ids, or a list of such lists");
        if (prompt[0].ValueKind == JsonValueKind.Number)
            return [One("prompt", prompt)];
        if (prompt.GetArrayLength() > MostPrompts)
            throw ApiException.Invalid($"prompt: {prompt.GetArrayLength()} prompts are more than {MostPrompts}.", "prompt");
        return RequestFields.Items("prompt", prompt, One);

        IReadOnlyList<int> One(string name, JsonElement item) => item.ValueKind switch
        {
            JsonValueKind.String => tokenizer.EncodeToIds(item.GetString()!, parsing),
            JsonValueKind.Array => RequestFields.Items(name, item, RequestFields.Whole),
            _ => throw RequestFields.Wrong(name, item, "a string or a list of token ids"),
        };
    }

    /// <summary>The answers of all prompts: first the n of the first, then the n of the second, and so on.</summary>
    private sealed class TextFormat(string modelName, QwenTokenizer tokenizer, IReadOnlyList<IReadOnlyList<int>> prompts, string[] echoes, int n) : AnswerFormat("cmpl", modelName, tokenizer)
    {
        private readonly Dictionary<int, int> _offsets = []; // of the next token of each answer in its text, in characters

        protected override string Kind => "text_completion";

        protected override string PieceKind => Kind;

        public override bool HasOpening(int index) => echoes[index / n].Length > 0;

        protected override void WriteWholeChoice(Utf8JsonWriter json, int index, WholeAnswer answer)
        {
            json.WriteString("text", echoes[index / n] + answer.Text);
            WriteLogprobs(json, index, answer.Tokens);
            if (answer.PromptLogprobs is { } logprobs)
                WritePromptLogprobs(json, prompts[index / n], logprobs);
        }

        protected override void WriteOpeningChoice(Utf8JsonWriter json, int index)
        {
            json.WriteString("text", echoes[index / n]);
            json.WriteNull("logprobs");
        }

        protected override void WritePieceChoice(Utf8JsonWriter json, int index, GenerationChunk chunk)
        {
            json.WriteString("text", chunk.Text);
            WriteLogprobs(json, index, chunk.Tokens);
        }

        private void WriteLogprobs(Utf8JsonWriter json, int index, IReadOnlyList<GeneratedToken> tokens)
        {
            if (!HasLogprobs(tokens))
            {
                json.WriteNull("logprobs");
                return;
            }

            string[] texts = [.. tokens.Select(t => TokenText(t.Id))];
            json.WriteStartObject("logprobs");
            WriteList("tokens", i => json.WriteStringValue(texts[i]));
            WriteList("token_logprobs", i => json.WriteNumberValue(Finite(tokens[i].Logprobs!.Logprob)));
            WriteList("top_logprobs", i =>
            {
                json.WriteStartObject();
                foreach ((string text, double logprob) in tokens[i].Logprobs!.Top.Select(t => (TokenText(t.Id), t.Logprob)).DistinctBy(t => t.Item1))
                    json.WriteNumber(text, Finite(logprob));
                json.WriteEndObject();
            });
            WriteList("text_offset", i =>
            {
                int offset = _offsets.GetValueOrDefault(index);
                json.WriteNumberValue(offset);
                _offsets[index] = offset + texts[i].Length;
            });
            json.WriteEndObject();

            void WriteList(string name, Action<int> write)
            {
                json.WriteStartArray(name);
                for (int i = 0; i < tokens.Count; i++)
                    write(i);
                json.WriteEndArray();
            }
        }

        /// <summary>A token's text; where it is part of a character, its bytes in OpenAI's notation for them, so that no two tokens are written alike.</summary>
        private string TokenText(int id)
        {
            ReadOnlySpan<byte> bytes = Bytes(id);
            if (System.Text.Unicode.Utf8.IsValid(bytes))
                return Encoding.UTF8.GetString(bytes);
            var text = new StringBuilder("bytes:");
            foreach (byte b in bytes)
                text.Append($"\\x{b:x2}");
            return text.ToString();
        }
    }
}
