using System.Text.Json;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary><c>GET /v1/models</c> and <c>GET /v1/models/{name}</c>.</summary>
internal static class ModelsEndpoint
{
    public static void Map(WebApplication app, QwenEngine engine, string modelName)
    {
        long created = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
        app.MapGet("/v1/models", context => JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json =>
        {
            json.WriteString("object", "list");
            json.WriteStartArray("data");
            json.WriteStartObject();
            WriteModel(json);
            json.WriteEndObject();
            json.WriteEndArray();
        }));
        // Names of models may hold slashes.
        app.MapGet("/v1/models/{**name}", context => (string?)context.GetRouteValue("name") is { } name && name == modelName
            ? JsonResponse.WriteAsync(context, StatusCodes.Status200OK, WriteModel)
            : throw NotServed((string?)context.GetRouteValue("name") ?? "", modelName));

        void WriteModel(Utf8JsonWriter json)
        {
            json.WriteString("id", modelName);
            json.WriteString("object", "model");
            json.WriteNumber("created", created);
            json.WriteString("owned_by", "qwen");
            json.WriteNumber("max_model_len", engine.Model.MaxModelLength);
        }
    }

    /// <summary>The request names a model that is not here.</summary>
    public static ApiException NotServed(string name, string modelName) =>
        new(StatusCodes.Status404NotFound, $"The model '{name}' is not served here; '{modelName}' is.", "model", "model_not_found");
}
