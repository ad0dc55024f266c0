using System.Text;
using System.Text.Json;

namespace Qwen.Host;

/// <summary>One JSON object a line, in and out.</summary>
internal static class JsonLines
{
    /// <summary>
    /// Answers every line of the input with a line, at once. A line that can't be answered gets {"error": ...}, which is an answer too:
    /// the next lines are read, and the exit code is 0.
    /// </summary>
    public static async Task<int> AnswerAsync(Streams streams, Func<JsonElement, Action<Utf8JsonWriter>> answer)
    {
        while (await streams.Input.ReadLineAsync().ConfigureAwait(false) is { } line)
        {
            if (string.IsNullOrWhiteSpace(line))
                continue;
            Action<Utf8JsonWriter> members;
            try
            {
                members = answer(ParseObject(line, "line"));
            }
            catch (Exception e) when (CommandLine.IsUserError(e))
            {
                members = json => json.WriteString("error", e.Message);
            }

            await streams.Output.WriteLineAsync(Format(members)).ConfigureAwait(false);
            await streams.Output.FlushAsync().ConfigureAwait(false);
        }

        return 0;
    }

    /// <summary>Parses an object.</summary>
    /// <exception cref="ArgumentException">It is none; the message begins with <paramref name="source"/>.</exception>
    public static JsonElement ParseObject(string json, string source)
    {
        try
        {
            JsonElement parsed = StrictJson.Parse(json);
            return parsed.ValueKind == JsonValueKind.Object ? parsed : throw new ArgumentException($"{source}: is not a JSON object.");
        }
        catch (JsonException e)
        {
            throw new ArgumentException($"{source}: is not valid JSON: {e.Message}");
        }
    }

    /// <summary>An object on one line.</summary>
    public static string Format(Action<Utf8JsonWriter> members)
    {
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer, StrictJson.Writing))
        {
            json.WriteStartObject();
            members(json);
            json.WriteEndObject();
        }

        return Encoding.UTF8.GetString(buffer.GetBuffer(), 0, (int)buffer.Length);
    }

    /// <summary>A list of whole numbers that must be there.</summary>
    public static int[] Ints(JsonElement json, string name) => json.TryGetProperty(name, out JsonElement list) && list.ValueKind == JsonValueKind.Array
        ? [.. list.EnumerateArray().Select(item => item.ValueKind == JsonValueKind.Number && item.TryGetInt32(out int number) ? number : throw new ArgumentException($"{name}: {item.GetRawText()} is not a whole number of 32 bits."))]
        : throw new ArgumentException($"{name}: is missing, or not a list.");

    /// <summary>A count; 0 where there is none.</summary>
    public static int Count(JsonElement json, string name) => Member(json, name) switch
    {
        null => 0,
        { ValueKind: JsonValueKind.Number } e when e.TryGetInt32(out int number) && number >= 0 => number,
        { } e => throw new ArgumentException($"{name}: {e.GetRawText()} is not a whole number from 0 on."),
    };

    /// <summary>A string that must be there.</summary>
    public static string String(JsonElement json, string name) => Member(json, name) is { ValueKind: JsonValueKind.String } e
        ? e.GetString()!
        : throw new ArgumentException($"{name}: is missing, or not a string.");

    /// <summary>A flag; false where there is none.</summary>
    public static bool Bool(JsonElement json, string name) => Member(json, name) switch
    {
        null or { ValueKind: JsonValueKind.False } => false,
        { ValueKind: JsonValueKind.True } => true,
        { } e => throw new ArgumentException($"{name}: {e.GetRawText()} is neither true nor false."),
    };

    private static JsonElement? Member(JsonElement json, string name) => json.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;
}
