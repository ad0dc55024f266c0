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

    public static async Task HandleAsync(HttpContext context, QwenEngine engine, ServerSettings settings)
    {
        using JsonDocument body = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        var fields = new RequestFields(body.RootElement);
        QwenServer.CheckModel(fields, settings);
        foreach (string name in (ReadOnlySpan<string>)["n", "best_of"])
            fields.Refuse(name, e => e.ValueKind != JsonValueKind.Number || !e.TryGetInt32(out int n) || n != 1, $"{name}: only 1 is supported yet.");
        fields.Refuse("suffix", e => e.ToString().Length > 0, "suffix: is not supported.");
        bool echo = fields.Bool("echo") ?? false, stream = fields.Bool("stream") ?? false;
        // OpenAI's default for completions is 16 tokens; vLLM keeps it, and so do we.
        SamplingOptions sampling = SamplingFields.Read(fields, fields.Int("max_tokens") ?? 16, fields.Int("logprobs"));
        IReadOnlyList<IReadOnlyList<int>> prompts = Prompts(fields, engine.Model.Tokenizer);
        IAsyncEnumerable<GenerationChunk>[] answers = [.. prompts.Select(p => engine.GenerateAsync(p, sampling, context.RequestAborted))];
        string[] echoes = [.. prompts.Select(p => echo ? engine.Model.Tokenizer.Decode(p) : "")];
        var frame = new Frame($"cmpl-{Guid.NewGuid():N}", DateTimeOffset.UtcNow.ToUnixTimeSeconds(), settings.ModelName, engine);
        if (stream)
            await StreamAsync(context, answers, echoes, frame, ChatEndpoint.IncludeUsage(fields)).ConfigureAwait(false);
        else
            await AnswerAsync(context, answers, echoes, frame).ConfigureAwait(false);
    }

    /// <summary>A string, a list of strings, a list of ids, or a list of lists of ids.</summary>
    private static List<IReadOnlyList<int>> Prompts(RequestFields fields, QwenTokenizer tokenizer)
    {
        AddedTokenParsing parsing = fields.Bool("parse_special") == true ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
        JsonElement prompt = fields.Element("prompt") ?? throw ApiException.Invalid("prompt: is missing.", "prompt");
        if (prompt.ValueKind == JsonValueKind.String)
            return [tokenizer.EncodeToIds(RequestFields.Text("prompt", prompt), parsing)];
        if (prompt.ValueKind != JsonValueKind.Array || prompt.GetArrayLength() == 0)
            throw RequestFields.Wrong("prompt", prompt, "a string, a list of strings, or a list of token ids");
        if (prompt[0].ValueKind == JsonValueKind.Number)
            return [fields.Ints("prompt")];
        if (prompt.GetArrayLength() > MostPrompts)
            throw ApiException.Invalid($"prompt: {prompt.GetArrayLength()} prompts are more than {MostPrompts}.", "prompt");
        return [.. prompt.EnumerateArray().Select(IReadOnlyList<int> (item) => item.ValueKind == JsonValueKind.Array
            ? [.. item.EnumerateArray().Select(id => RequestFields.Whole("prompt", id))]
            : tokenizer.EncodeToIds(RequestFields.Text("prompt", item), parsing))];
    }

    private static async Task AnswerAsync(HttpContext context, IAsyncEnumerable<GenerationChunk>[] answers, string[] echoes, Frame frame)
    {
        var collected = await Task.WhenAll(answers.Select(CollectAsync)).ConfigureAwait(false);
        var usage = new Usage(collected.Sum(c => c.Last.Usage.PromptTokens), collected.Sum(c => c.Last.Usage.CompletionTokens));
        await QwenServer.WriteAsync(context, StatusCodes.Status200OK, json => frame.Write(json, () =>
        {
            for (int i = 0; i < collected.Length; i++)
                frame.WriteChoice(json, i, echoes[i] + collected[i].Text, collected[i].Tokens, collected[i].Last.FinishReason);
        }, usage)).ConfigureAwait(false);
    }

    private static async Task<(string Text, List<GeneratedToken> Tokens, GenerationChunk Last)> CollectAsync(IAsyncEnumerable<GenerationChunk> answer)
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

        return (text.ToString(), tokens, last!);
    }

    private static async Task StreamAsync(HttpContext context, IAsyncEnumerable<GenerationChunk>[] answers, string[] echoes, Frame frame, bool includeUsage)
    {
        var events = new EventStream(context);
        await events.RunAsync(async () =>
        {
            int prompted = 0, completed = 0;
            for (int i = 0; i < answers.Length; i++)
            {
                string before = echoes[i];
                Usage usage = default;
                await foreach (GenerationChunk chunk in answers[i].ConfigureAwait(false))
                {
                    usage = chunk.Usage;
                    string text = before + chunk.Text;
                    before = "";
                    int index = i;
                    await events.SendAsync(json => frame.Write(json, () => frame.WriteChoice(json, index, text, chunk.Tokens, chunk.FinishReason), null)).ConfigureAwait(false);
                }

                prompted += usage.PromptTokens;
                completed += usage.CompletionTokens;
            }

            if (includeUsage)
                await events.SendAsync(json => frame.Write(json, null, new Usage(prompted, completed))).ConfigureAwait(false);
        }).ConfigureAwait(false);
    }

    private sealed record Frame(string Id, long Created, string Model, QwenEngine Engine)
    {
        public void Write(Utf8JsonWriter json, Action? choices, Usage? usage)
        {
            json.WriteString("id", Id);
            json.WriteString("object", "text_completion");
            json.WriteNumber("created", Created);
            json.WriteString("model", Model);
            json.WriteStartArray("choices");
            choices?.Invoke();
            json.WriteEndArray();
            if (usage is { } counts)
                ChatEndpoint.WriteUsage(json, counts);
        }

        public void WriteChoice(Utf8JsonWriter json, int index, string text, IReadOnlyList<GeneratedToken> tokens, FinishReason? reason)
        {
            json.WriteStartObject();
            json.WriteNumber("index", index);
            json.WriteString("text", text);
            WriteLogprobs(json, tokens);
            json.WriteString("finish_reason", ChatEndpoint.Name(reason));
            json.WriteEndObject();
        }

        private void WriteLogprobs(Utf8JsonWriter json, IReadOnlyList<GeneratedToken> tokens)
        {
            if (!tokens.Any(t => t.Logprobs is not null))
            {
                json.WriteNull("logprobs");
                return;
            }

            json.WriteStartObject("logprobs");
            json.WriteStartArray("tokens");
            foreach (GeneratedToken token in tokens)
                json.WriteStringValue(Text(token.Id));
            json.WriteEndArray();
            json.WriteStartArray("token_logprobs");
            foreach (GeneratedToken token in tokens)
                json.WriteNumberValue(Math.Max(token.Logprobs!.Logprob, -9999));
            json.WriteEndArray();
            json.WriteStartArray("top_logprobs");
            foreach (GeneratedToken token in tokens)
            {
                json.WriteStartObject();
                foreach ((string text, double logprob) in token.Logprobs!.Top.Select(t => (Text(t.Id), t.Logprob)).DistinctBy(t => t.Item1))
                    json.WriteNumber(text, Math.Max(logprob, -9999));
                json.WriteEndObject();
            }

            json.WriteEndArray();
            json.WriteEndObject();
        }

        private string Text(int id) => Encoding.UTF8.GetString(Engine.Model.Tokenizer.GetBytes(id));
    }
}
