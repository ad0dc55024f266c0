using System.CommandLine;
using System.Text;
using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen tokenize</c>: text to ids and back, a JSON object a line.</summary>
internal static class TokenizeCommand
{
    public static Command Create(Streams streams)
    {
        var model = new Option<string?>("--model", "-m") { Description = "A model directory, a .gguf file or synthetic:shape; the demo model if not given." };
        var decode = new Option<bool>("--decode") { Description = "From {\"ids\": [...]} to {\"bytes\": base64, \"text\": ...}." };
        var jsonl = new Option<bool>("--jsonl") { Description = "A JSON object a line: {\"text\": ..., \"special\": true|false} to {\"ids\": [...]} (the only form there is)." };
        var command = new Command("tokenize", "Turns text into token ids, or back; reads and writes JSON lines.") { model, decode, jsonl };
        command.SetAction(parsed =>
        {
            QwenTokenizer tokenizer = ModelFiles.LoadTokenizer(parsed.GetValue(model) ?? ModelFiles.DemoModel);
            bool isDecode = parsed.GetValue(decode);
            return JsonLines.AnswerAsync(streams, line => isDecode ? Decode(tokenizer, JsonLines.Ints(line, "ids")) : Encode(tokenizer, line), e => e is ArgumentException or ModelFormatException);
        });
        return command;
    }

    private static Action<Utf8JsonWriter> Encode(QwenTokenizer tokenizer, System.Text.Json.Nodes.JsonObject line)
    {
        AddedTokenParsing parsing = JsonLines.Bool(line, "special", absent: false) ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
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
        byte[] bytes = tokenizer.DecodeBytes(ids);
        return json =>
        {
            json.WriteBase64String("bytes", bytes);
            json.WriteString("text", Encoding.UTF8.GetString(bytes));
        };
    }
}
