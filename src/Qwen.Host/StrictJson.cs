using System.Text.Encodings.Web;
using System.Text.Json;

namespace Qwen.Host;

/// <summary>JSON from outside: nesting is bounded, no object names a member twice, and every string is valid Unicode, so that reading it further can't fail.</summary>
internal static class StrictJson
{
    /// <summary>How the host writes JSON: text as it is, not escaped for HTML.</summary>
    public static readonly JsonWriterOptions Writing = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private static readonly JsonDocumentOptions Reading = new() { MaxDepth = 128, AllowDuplicateProperties = false };

    /// <summary>Parses a text.</summary>
    /// <exception cref="JsonException">It is not such JSON.</exception>
    public static JsonElement Parse(string json)
    {
        try
        {
            JsonElement root = JsonElement.Parse(json, Reading);
            Visit(root);
            return root;
        }
        catch (InvalidOperationException e)
        {
            throw NotUnicode(e);
        }
    }

    /// <summary>Reads a stream to its end.</summary>
    /// <exception cref="JsonException">It is not such JSON.</exception>
    public static async Task<JsonElement> ParseAsync(Stream utf8, CancellationToken cancellation)
    {
        try
        {
            using JsonDocument document = await JsonDocument.ParseAsync(utf8, Reading, cancellation).ConfigureAwait(false);
            Visit(document.RootElement);
            return document.RootElement.Clone();
        }
        catch (InvalidOperationException e)
        {
            throw NotUnicode(e);
        }
    }

    private static JsonException NotUnicode(InvalidOperationException e) => new("a string is not valid Unicode", e);

    /// <summary>Decodes every string once: the parser leaves lone surrogates and broken UTF-8 to whoever reads them.</summary>
    private static void Visit(JsonElement element)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.String:
                _ = element.GetString();
                break;
            case JsonValueKind.Array:
                foreach (JsonElement item in element.EnumerateArray())
                    Visit(item);
                break;
            case JsonValueKind.Object:
                foreach (JsonProperty member in element.EnumerateObject())
                {
                    _ = member.Name;
                    Visit(member.Value);
                }

                break;
        }
    }
}
