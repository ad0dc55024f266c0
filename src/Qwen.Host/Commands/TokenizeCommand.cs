using System.CommandLine;
using System.Text;
using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen tokenize</c>: text to ids and back, a JSON object a line. Reads no weights.</summary>
internal static class TokenizeCommand
{
    public static Command Create(Streams streams)
    {
        Option<string?> model = ModelOptions.CreatePath();
        var decode = new Option<bool>("--decode") { Description = "From {\"ids\": [...]} to {\"bytes\": base64, \"text\": ...}." };
        var jsonl = new Option<bool>("--jsonl") { Description = "A JSON object a line: {\"text\": ..., \"special\": true|false} to {\"ids\": [...]} (the only form there is)." };
        var command = new Command("tokenize", "Turns text into token ids, or back; reads and writes JSON lines.") { model, decode, jsonl };
        command.SetAction(parsed =>
        {
            QwenTokenizer tokenizer = ModelFiles.LoadTokenizer(ModelOptions.ReadPath(parsed.GetValue(model)) ?? ModelFiles.DemoModel);
            bool isDecode = parsed.GetValue(decode);
            return JsonLines.AnswerAsync(streams, line => isDecode ? Decode(tokenizer, JsonLines.Ints(line, "ids")) : Encode(tokenizer, line));
        });
        return command;
    }

    private static Action<Utf8JsonWriter> Encode(QwenTokenizer tokenizer, JsonElement line)
    {
        // Without special, tokens that control nothing (<think>, <tool_call>) still count, as in Hugging Face's tokenizers and llama.cpp.
        AddedTokenParsing parsing = JsonLines.Bool(line, "special") ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
        IReadOnlyList<int> ids = tokenizer.EncodeToIds(JsonLines.String(line, "text"), parsing);
        return json =>
        {
            json.WriteStartArray("ids");
            foreach (int id in ids)
                json.WriteNumberValue(id);
            json.WriteEndArray();
        };
    }

    private static Action<Utf8JsonWriter> Decode(QwenTokenizer tokenizer, int[] ids)
    {
        foreach (int id in ids)
        {
            if ((uint)id >= (uint)tokenizer.VocabularySize)
                throw new ArgumentException($"ids: {id} is outside the vocabulary of {tokenizer.VocabularySize}.");
        }

        byte[] bytes = tokenizer.DecodeBytes(ids);
        return json =>
        {
            json.WriteBase64String("bytes", bytes);
            json.WriteString("text", Encoding.UTF8.GetString(bytes));
        };
    }
}
