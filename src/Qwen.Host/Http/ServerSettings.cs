namespace Qwen.Host.Http;

/// <summary>What the HTTP server is told.</summary>
/// <param name="ModelName">The model's name in the API.</param>
/// <param name="MostRequestBytes">Longest request body.</param>
public sealed record ServerSettings(string ModelName, long MostRequestBytes);
