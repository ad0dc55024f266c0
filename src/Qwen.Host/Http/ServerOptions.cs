using System.Net;

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
}
