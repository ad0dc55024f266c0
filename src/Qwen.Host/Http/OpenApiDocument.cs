namespace Qwen.Host.Http;

/// <summary><c>GET /openapi.json</c>: what the server takes and gives, for tools that make clients. The tests hold it to the routes there are.</summary>
internal static class OpenApiDocument
{
    public static void Map(WebApplication app)
    {
        byte[] document = EmbeddedFile.Read("openapi.json");
        app.MapGet("/openapi.json", context =>
        {
            context.Response.ContentType = "application/json";
            return context.Response.Body.WriteAsync(document, context.RequestAborted).AsTask();
        });
    }
}
