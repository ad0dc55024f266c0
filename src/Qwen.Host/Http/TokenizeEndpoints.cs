using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Http;

/// <summary><c>POST /tokenize</c> and <c>POST /detokenize</c>, in vLLM's form.</summary>
internal static class TokenizeEndpoints
{
    public static void Map(WebApplication app, Responder responder)
    {
        app.MapPost("/tokenize", context => TokenizeAsync(context, responder));
        app.MapPost("/detokenize", context => DetokenizeAsync(context, responder));
    }

    /// <summary>A <c>prompt</c>, or <c>messages</c> as the chat template writes them.</summary>
    private static async Task TokenizeAsync(HttpContext context, Responder responder)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        responder.CheckModel(fields);
        QwenEngine engine = responder.Engine;
        AddedTokenParsing parsing = fields.Bool("parse_special") == true ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
        IReadOnlyList<int> ids = fields.Element("messages") is not null
            ? engine.EncodeChat(ChatFields.Read(fields))
            : engine.Model.Tokenizer.EncodeToIds(fields.String("prompt") ?? throw fields.Missing("prompt"), parsing);
        bool withTexts = fields.Bool("return_token_strs") ?? false;
        await JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json =>
        {
            json.WriteNumber("count", ids.Count);
            json.WriteNumber("max_model_len", engine.Model.MaxModelLength);
            WriteList(json, "tokens", ids, json.WriteNumberValue);
            if (withTexts)
                WriteList(json, "token_strs", ids, id => json.WriteStringValue(engine.Model.Tokenizer.Decode([id])));
        }).ConfigureAwait(false);
    }

    private static async Task DetokenizeAsync(HttpContext context, Responder responder)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        responder.CheckModel(fields);
        QwenTokenizer tokenizer = responder.Engine.Model.Tokenizer;
        if (fields.Element("tokens") is null)
            throw fields.Missing("tokens");
        IReadOnlyList<int> ids = fields.Ints("tokens");
        for (int i = 0; i < ids.Count; i++)
        {
            if ((uint)ids[i] >= (uint)tokenizer.VocabularySize)
                throw ApiException.Invalid($"tokens[{i}]: token {ids[i]} is outside the vocabulary of {tokenizer.VocabularySize}.", $"tokens[{i}]", "invalid_value");
        }

        await JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json => json.WriteString("prompt", tokenizer.Decode(ids))).ConfigureAwait(false);
    }

    private static void WriteList(Utf8JsonWriter json, string name, IReadOnlyList<int> ids, Action<int> write)
    {
        json.WriteStartArray(name);
        foreach (int id in ids)
            write(id);
        json.WriteEndArray();
    }
}
