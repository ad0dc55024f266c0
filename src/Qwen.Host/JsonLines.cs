using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.Host;

/// <summary>One JSON object a line, in and out.</summary>
internal static class JsonLines
{
    private static readonly JsonWriterOptions Options = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Parses an object.</summary>
    /// <exception cref="ArgumentException">It is none; the message says where it came from.</exception>
    public static JsonObject ParseObject(string json, string source)
    {
        try
        {
            JsonObject parsed = JsonNode.Parse(json, documentOptions: new JsonDocumentOptions { MaxDepth = 128 }) as JsonObject
                ?? throw new ArgumentException($"{source}: is no JSON object.");
            _ = parsed.Count; // finds duplicate names now
            return parsed;
        }
        catch (JsonException e)
        {
            throw new ArgumentException($"{source}: is not valid JSON: {e.Message}");
        }
    }

    /// <summary>Answers every line of the input with a line; a line that can't be answered with {"error": ...}.</summary>
    public static async Task<int> AnswerAsync(Streams streams, Func<JsonObject, Action<Utf8JsonWriter>> answer, Func<Exception, bool> isAnswer)
    {
        while (await streams.Input.ReadLineAsync().ConfigureAwait(false) is { } line)
        {
            if (string.IsNullOrWhiteSpace(line))
                continue;
            Action<Utf8JsonWriter> write;
            try
            {
                write = answer(ParseObject(line, "line"));
            }
            catch (Exception e) when (isAnswer(e))
            {
                write = json => json.WriteString("error", e.Message);
            }

            await streams.Output.WriteLineAsync(Format(write)).ConfigureAwait(false);
        }

        await streams.Output.FlushAsync().ConfigureAwait(false);
        return 0;
    }

    /// <summary>An object on one line.</summary>
    public static string Format(Action<Utf8JsonWriter> members)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer, Options))
        {
            json.WriteStartObject();
            members(json);
            json.WriteEndObject();
        }

        return Encoding.UTF8.GetString(buffer.GetBuffer(), 0, (int)buffer.Length);
    }

    public static int[] Ints(JsonObject json, string name) => json[name] is JsonArray list
        ? [.. list.Select(item => item is JsonValue value && value.TryGetValue(out int number) ? number : throw new ArgumentException($"{name}: {item?.ToJsonString() ?? "null"} is no whole number."))]
        : throw new ArgumentException($"{name}: is missing, or no list.");

    public static int Int(JsonObject json, string name, int absent) => json[name] switch
    {
        null => absent,
        JsonValue value when value.TryGetValue(out int number) => number,
        { } other => throw new ArgumentException($"{name}: {other.ToJsonString()} is no whole number."),
    };

    public static string String(JsonObject json, string name) => json[name] is JsonValue value && value.TryGetValue(out string? text)
        ? text
        : throw new ArgumentException($"{name}: is missing, or no string.");

    public static bool Bool(JsonObject json, string name, bool absent) => json[name] switch
    {
        null => absent,
        JsonValue value when value.TryGetValue(out bool flag) => flag,
        { } other => throw new ArgumentException($"{name}: {other.ToJsonString()} is neither true nor false."),
    };
}
