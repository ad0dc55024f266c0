using System.Text.Json;

namespace Qwen.Host.Http;

/// <summary>Typed reads from an object of a request; an absent field and null are alike, a wrong type is a 400 that names the field.</summary>
/// <param name="json">The object.</param>
/// <param name="path">Where it is in the body, such as <c>messages[0].</c>; empty for the body itself.</param>
internal readonly struct RequestFields(JsonElement json, string path = "")
{
    /// <summary>Reads the body as a JSON object.</summary>
    /// <remarks>
    /// The content type must say JSON: a web page may send any other to this machine without asking, so this keeps pages in a browser
    /// from using a server that listens on loopback.
    /// </remarks>
    public static async Task<RequestFields> ReadBodyAsync(HttpRequest request)
    {
        if (!request.HasJsonContentType())
            throw new ApiException(StatusCodes.Status415UnsupportedMediaType, "The body must be JSON, with the header Content-Type: application/json.", code: "unsupported_media_type");
        try
        {
            JsonElement body = await StrictJson.ParseAsync(request.Body, request.HttpContext.RequestAborted).ConfigureAwait(false);
            return body.ValueKind == JsonValueKind.Object ? new RequestFields(body) : throw ApiException.Invalid("The body is not a JSON object.");
        }
        catch (JsonException e)
        {
            throw ApiException.Invalid($"The body is not valid JSON: {e.Message}", code: "invalid_json");
        }
    }

    /// <summary>The whole object.</summary>
    public JsonElement Json => json;

    /// <summary>The name of a field in the whole body.</summary>
    public string PathOf(string name) => path + name;

    /// <summary>A field of any type.</summary>
    public JsonElement? Element(string name) => json.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null ? value : null;

    public double? Double(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetDouble(out double value) && double.IsFinite(value) => value,
        { } e => throw Wrong(PathOf(name), e, "a number"),
    };

    public int? Int(string name) => Element(name) is { } e ? Whole(PathOf(name), e) : null;

    public bool? Bool(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } e => throw Wrong(PathOf(name), e, "true or false"),
    };

    public string? String(string name) => Element(name) is { } e ? Text(PathOf(name), e) : null;

    /// <summary>A string, or a list of them.</summary>
    public IReadOnlyList<string> Strings(string name) => Element(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.String } e => [e.GetString()!],
        { ValueKind: JsonValueKind.Array } e => Items(PathOf(name), e, Text),
        { } e => throw Wrong(PathOf(name), e, "a string or a list of strings"),
    };

    public IReadOnlyList<int> Ints(string name) => Element(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } e => Items(PathOf(name), e, Whole),
        { } e => throw Wrong(PathOf(name), e, "a list of whole numbers"),
    };

    public RequestFields? Object(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Object } e => new RequestFields(e, PathOf(name) + "."),
        { } e => throw Wrong(PathOf(name), e, "an object"),
    };

    /// <summary>A list of objects; null where there is no list.</summary>
    public IReadOnlyList<RequestFields>? Objects(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Array } e => Items(PathOf(name), e, (at, item) => item.ValueKind == JsonValueKind.Object ? new RequestFields(item, at + ".") : throw Wrong(at, item, "an object")),
        { } e => throw Wrong(PathOf(name), e, "a list of objects"),
    };

    /// <summary>A seed: any whole number of 64 bits, signed or not.</summary>
    public ulong? Seed(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetInt64(out long value) => unchecked((ulong)value),
        { ValueKind: JsonValueKind.Number } e when e.TryGetUInt64(out ulong value) => value,
        { } e => throw Wrong(PathOf(name), e, "a whole number of 64 bits"),
    };

    /// <summary>Refuses a field that asks for what is not there yet, rather than give an answer that ignores it.</summary>
    public void Refuse(string name, Predicate<JsonElement> isHarmless, string message)
    {
        if (Element(name) is { } e && !isHarmless(e))
            throw ApiException.Invalid($"{PathOf(name)}: {message}", PathOf(name), "unsupported_value");
    }

    /// <summary>The value is this string.</summary>
    public static bool Is(JsonElement element, string text) => element.ValueKind == JsonValueKind.String && element.ValueEquals(text);

    /// <summary>The field is not there, and must be.</summary>
    public ApiException Missing(string name) => ApiException.Invalid($"{PathOf(name)}: is missing.", PathOf(name), "missing_required_parameter");

    /// <summary>Reads each item of a list.</summary>
    public static T[] Items<T>(string name, JsonElement list, Func<string, JsonElement, T> read)
    {
        var items = new T[list.GetArrayLength()];
        int i = 0;
        foreach (JsonElement item in list.EnumerateArray())
            items[i] = read($"{name}[{i++}]", item);
        return items;
    }

    public static int Whole(string name, JsonElement element) =>
        element.ValueKind == JsonValueKind.Number && element.TryGetInt32(out int value) ? value : throw Wrong(name, element, "a whole number of 32 bits");

    public static string Text(string name, JsonElement element) =>
        element.ValueKind == JsonValueKind.String ? element.GetString()! : throw Wrong(name, element, "a string");

    public static ApiException Wrong(string name, JsonElement element, string wanted)
    {
        string text = element.GetRawText();
        return ApiException.Invalid($"{name}: {(text.Length <= 80 ? text : text[..80] + "...")} is not {wanted}.", name, "invalid_type");
    }
}
