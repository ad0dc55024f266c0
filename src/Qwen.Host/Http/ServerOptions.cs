using System.Net;
using System.Security.Cryptography.X509Certificates;

namespace Qwen.Host.Http;

/// <summary>What the HTTP server is told.</summary>
public sealed record ServerOptions
{
    /// <summary>The model's name in the API. A request may leave its model out; one that names another gets a 404.</summary>
    public required string ModelName { get; init; }

    /// <summary>Where to listen; port 0 takes any free one.</summary>
    public IPEndPoint Endpoint { get; init; } = new(IPAddress.Loopback, 8000);

    /// <summary>Where to listen for gRPC; null for not at all.</summary>
    public IPEndPoint? RpcEndpoint { get; init; }

    /// <summary>Longest request body, in bytes.</summary>
    public long MaxRequestBytes { get; init; } = 32L << 20;

    /// <summary>Most time that a request may take from its arrival to its last token; null for no such bound.</summary>
    public TimeSpan? RequestTimeout { get; init; }

    /// <summary>The folder for saved prefixes; null to refuse saving and restoring.</summary>
    public string? PrefixDirectory { get; init; }

    /// <summary>Writes the log as a JSON object a line.</summary>
    public bool LogAsJson { get; init; }

    /// <summary>Where to send metrics and traces by OTLP; null for nowhere.</summary>
    public Uri? OtlpEndpoint { get; init; }

    /// <summary>What the memory gives, in bytes per second, for the share that steps reach of it; null if it was not measured.</summary>
    public double? MemoryBandwidth { get; init; }

    /// <summary>Keys, one of which a request must carry; none for no such check.</summary>
    public IReadOnlyList<string> ApiKeys { get; init; } = [];

    /// <summary>Web origins whose pages may use the server, such as <c>https://example.org</c>; <c>*</c> for all.</summary>
    public IReadOnlyList<string> AllowedOrigins { get; init; } = [];

    /// <summary>The certificate with its key, for TLS on both ports; null for none.</summary>
    public X509Certificate2? Certificate { get; init; }
}
