namespace Qwen.Host.Http;

/// <summary>An error that the client gets as OpenAI's error object.</summary>
/// <param name="status">HTTP status.</param>
/// <param name="type">OpenAI's kind: invalid_request_error, not_found_error, server_error, ...</param>
/// <param name="message">What is wrong.</param>
/// <param name="parameter">The field it is about, or null.</param>
public sealed class ApiException(int status, string type, string message, string? parameter = null) : Exception(message)
{
    /// <summary>HTTP status.</summary>
    public int Status { get; } = status;

    /// <summary>OpenAI's kind.</summary>
    public string Type { get; } = type;

    /// <summary>The field it is about, or null.</summary>
    public string? Parameter { get; } = parameter;

    /// <summary>A mistake in a field of the request.</summary>
    public static ApiException Invalid(string message, string? parameter = null) => new(StatusCodes.Status400BadRequest, "invalid_request_error", message, parameter);
}
