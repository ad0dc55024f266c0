using System.Text.Json;

namespace Qwen.Host.Http;

/// <summary>Typed reads from a request body; an absent field and null are alike, a wrong type is a 400 that names the field.</summary>
internal readonly struct RequestFields(JsonElement body)
{
    private const int MostDepth = 64;

    /// <summary>Reads the body as a JSON object.</summary>
    public static async Task<JsonDocument> ReadBodyAsync(HttpRequest request)
    {
        try
        {
            JsonDocument document = await JsonDocument.ParseAsync(request.Body, new JsonDocumentOptions { MaxDepth = MostDepth }, request.HttpContext.RequestAborted).ConfigureAwait(false);
            if (document.RootElement.ValueKind == JsonValueKind.Object)
                return document;
            document.Dispose();
            throw ApiException.Invalid("The body is no JSON object.");
        }
        catch (JsonException e)
        {
            throw ApiException.Invalid($"The body is not valid JSON: {e.Message}");
        }
        catch (BadHttpRequestException e)
        {
            throw new ApiException(e.StatusCode, "invalid_request_error", e.Message);
        }
    }

    public JsonElement? Element(string name) =>
        body.TryGetProperty(name, out JsonElement value) && value.ValueKind is not (JsonValueKind.Null or JsonValueKind.Undefined) ? value : null;

    public double? Double(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetDouble(out double value) && double.IsFinite(value) => value,
        { } e => throw Wrong(name, e, "a number"),
    };

    public int? Int(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetInt32(out int value) => value,
        { } e => throw Wrong(name, e, "a whole number"),
    };

    public bool? Bool(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } e => throw Wrong(name, e, "true or false"),
    };

    public string? String(string name) => Element(name) is { } e ? Text(name, e) : null;

    /// <summary>A string, or a list of them.</summary>
    public IReadOnlyList<string> Strings(string name) => Element(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.String } e => [Text(name, e)],
        { ValueKind: JsonValueKind.Array } e => [.. e.EnumerateArray().Select(item => Text(name, item))],
        { } e => throw Wrong(name, e, "a string or a list of strings"),
    };

    public IReadOnlyList<int> Ints(string name) => Element(name) switch
    {
        null => [],
        { ValueKind: JsonValueKind.Array } e => [.. e.EnumerateArray().Select(item => Whole(name, item))],
        { } e => throw Wrong(name, e, "a list of whole numbers"),
    };

    public ulong? Seed(string name) => Element(name) switch
    {
        null => null,
        { ValueKind: JsonValueKind.Number } e when e.TryGetInt64(out long value) => unchecked((ulong)value),
        { ValueKind: JsonValueKind.Number } e when e.TryGetUInt64(out ulong value) => value,
        { } e => throw Wrong(name, e, "a whole number of 64 bits"),
    };

    /// <summary>Refuses a field that asks for what is not there yet.</summary>
    public void Refuse(string name, Predicate<JsonElement> isAsked, string message)
    {
        if (Element(name) is { } e && isAsked(e))
            throw ApiException.Invalid(message, name);
    }

    public static int Whole(string name, JsonElement element) =>
        element.ValueKind == JsonValueKind.Number && element.TryGetInt32(out int value) ? value : throw Wrong(name, element, "a whole number");

    public static string Text(string name, JsonElement element)
    {
        try
        {
            return element.ValueKind == JsonValueKind.String ? element.GetString()! : throw Wrong(name, element, "a string");
        }
        catch (InvalidOperationException)
        {
            throw ApiException.Invalid($"{name}: is not valid Unicode.", name);
        }
    }

    public static ApiException Wrong(string name, JsonElement element, string wanted)
    {
        string text = element.GetRawText();
        return ApiException.Invalid($"{name}: {(text.Length <= 80 ? text : text[..80] + "...")} is not {wanted}.", name);
    }
}
