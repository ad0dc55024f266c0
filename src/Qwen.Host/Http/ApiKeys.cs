using System.Security.Cryptography;
using System.Text;

namespace Qwen.Host.Http;

/// <summary>The keys that let a request in: <c>Authorization: Bearer KEY</c>, over HTTP and gRPC alike.</summary>
/// <remarks>Keys are compared by their hashes, every one of them, so that the time taken says nothing of them.</remarks>
internal sealed class ApiKeys
{
    private static readonly string[] Open = ["/health", "/metrics", "/version"]; // what gateways and probes ask; the page's own files too

    private readonly byte[][] _hashes;

    /// <summary>Takes keys.</summary>
    public ApiKeys(IEnumerable<string> keys) => _hashes = [.. keys.Select(Hash)];

    /// <summary>Reads a file with a key a line; empty lines and those that begin with # are left out.</summary>
    /// <exception cref="ArgumentException">There is none in it.</exception>
    public static IReadOnlyList<string> ReadFile(string path)
    {
        string[] keys = [.. File.ReadLines(path).Select(line => line.Trim()).Where(line => line.Length > 0 && line[0] != '#')];
        return keys.Length > 0 ? keys : throw new ArgumentException($"--api-key-file: '{path}' holds no key.");
    }

    /// <summary>Lets a request through, or refuses it with 401.</summary>
    public Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        if (IsOpen(context.Request) || IsKnown(context.Request.Headers.Authorization))
            return next(context);
        context.Response.Headers.WWWAuthenticate = "Bearer";
        throw new ApiException(StatusCodes.Status401Unauthorized, "This server wants a key: send the header Authorization: Bearer KEY.", code: "invalid_api_key");
    }

    private static bool IsOpen(HttpRequest request) =>
        HttpMethods.IsOptions(request.Method) // a browser's question before a request has no key
        || (HttpMethods.IsGet(request.Method) && (WebPage.IsPartOf(request.Path) || Open.Any(open => request.Path.StartsWithSegments(open))))
        || request.Path.StartsWithSegments("/grpc.health.v1.Health");

    private bool IsKnown(string? header)
    {
        const string Scheme = "Bearer ";
        if (header is null || !header.StartsWith(Scheme, StringComparison.OrdinalIgnoreCase))
            return false;
        byte[] given = Hash(header[Scheme.Length..].Trim());
        bool isKnown = false;
        foreach (byte[] known in _hashes)
            isKnown |= CryptographicOperations.FixedTimeEquals(known, given);
        return isKnown;
    }

    private static byte[] Hash(string key) => SHA256.HashData(Encoding.UTF8.GetBytes(key));
}
