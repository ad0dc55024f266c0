using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.Runtime.Formats;

/// <summary>Typed reads from a JSON object of a model file, with errors that name file, field and value. Absent and null are alike.</summary>
internal readonly struct JsonFields(JsonObject json, string file, string? parent = null)
{
    public static JsonObject Load(string path)
    {
        try
        {
            using FileStream stream = File.OpenRead(path);
            return JsonNode.Parse(stream, documentOptions: new JsonDocumentOptions { MaxDepth = 64 }) as JsonObject
                ?? throw new ModelFormatException(path, "is not a JSON object");
        }
        catch (JsonException e)
        {
            throw new ModelFormatException(path, $"is not valid JSON: {e.Message}");
        }
        catch (ArgumentException e) // a duplicate name in an object
        {
            throw new ModelFormatException(path, $"is not valid JSON: {e.Message}");
        }
    }

    public ModelFormatException Error(string name, string what) => new(file, parent is null ? $"{name}: {what}" : $"{parent}.{name}: {what}");

    public int RequireInt(string name) => Int(name) ?? throw Error(name, "is missing");

    public int? Int(string name) => Value(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetInt32(out int value) => value,
        { } e => throw Error(name, $"{e} is not a 32-bit whole number"),
    };

    public double? Double(string name) => Value(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetDouble(out double value) && double.IsFinite(value) => value,
        { } e => throw Error(name, $"{e} is not a finite number"),
    };

    public bool? Bool(string name) => Value(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } e => throw Error(name, $"{e} is not true or false"),
    };

    public string? String(string name) => Value(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.String } e => e.GetString(),
        { } e => throw Error(name, $"{e} is not a string"),
    };

    public JsonObject? Object(string name) => json[name] switch
    {
        null => null,
        JsonObject value => value,
        { } other => throw Error(name, $"{other.ToJsonString()} is not an object"),
    };

    public JsonArray? Array(string name) => json[name] switch
    {
        null => null,
        JsonArray value => value,
        { } other => throw Error(name, $"{other.ToJsonString()} is not a list"),
    };

    /// <summary>A list of strings; empty where it is absent.</summary>
    public string[] Strings(string name)
    {
        JsonFields self = this;
        return [.. (Array(name) ?? []).Select(node => node is JsonValue value && value.TryGetValue(out string? text) ? text : throw self.Error(name, $"{node?.ToJsonString() ?? "null"} is not a string"))];
    }

    /// <summary>A token id, or a list of them.</summary>
    public int[] TokenIds(string name)
    {
        JsonFields self = this;
        return json[name] switch
        {
            null => [],
            JsonArray list => [.. list.Select(One)],
            { } node => [One(node)],
        };

        int One(JsonNode? node) => node is JsonValue value && value.TryGetValue(out int id) && id >= 0
            ? id
            : throw self.Error(name, $"{node?.ToJsonString() ?? "null"} is not a token id");
    }

    private JsonElement? Value(string name) => json[name] is { } node ? JsonSerializer.SerializeToElement(node) : null;
}
