using System.Security.Cryptography;

namespace Qwen.Host.Http;

/// <summary>The chat page at <c>/</c>: files of the folder Web, which the program carries within itself.</summary>
internal static class WebPage
{
    private static readonly (string Path, string File, string Type)[] Files =
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/app.js", "app.js", "text/javascript; charset=utf-8"),
        ("/markdown.js", "markdown.js", "text/javascript; charset=utf-8"),
        ("/style.css", "style.css", "text/css; charset=utf-8"),
    ];

    /// <summary>A path is one of the page's files.</summary>
    public static bool IsPartOf(PathString path) => Array.Exists(Files, f => f.Path == path.Value);

    public static void Map(WebApplication app)
    {
        foreach ((string path, string file, string type) in Files)
        {
            byte[] content = EmbeddedFile.Read($"Web/{file}");
            string tag = $"\"{Convert.ToHexStringLower(SHA256.HashData(content).AsSpan(0, 8))}\"";
            app.MapGet(path, context => SendAsync(context, content, type, tag));
        }
    }

    private static async Task SendAsync(HttpContext context, byte[] content, string type, string tag)
    {
        IHeaderDictionary headers = context.Response.Headers;
        headers.ETag = tag;
        headers.CacheControl = "no-cache";
        // Nothing but these files and this server: what a model writes can't load, run or frame anything.
        headers.ContentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        headers.XContentTypeOptions = "nosniff";
        headers["Referrer-Policy"] = "no-referrer";
        if (context.Request.Headers.IfNoneMatch == tag)
        {
            context.Response.StatusCode = StatusCodes.Status304NotModified;
            return;
        }

        context.Response.ContentType = type;
        context.Response.ContentLength = content.Length;
        await context.Response.Body.WriteAsync(content, context.RequestAborted).ConfigureAwait(false);
    }
}
