using System.Text.Json;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary>An error that the client gets as OpenAI's error object.</summary>
/// <param name="status">HTTP status.</param>
/// <param name="message">What is wrong, and how to mend it.</param>
/// <param name="param">The field it is about, or null.</param>
/// <param name="code">A word for programs, or null.</param>
public sealed class ApiException(int status, string message, string? param = null, string? code = null) : Exception(message)
{
    /// <summary>HTTP status.</summary>
    public int Status { get; } = status;

    /// <summary>The field it is about, or null.</summary>
    public string? Param { get; } = param;

    /// <summary>A word for programs, or null.</summary>
    public string? Code { get; } = code;

    /// <summary>When to try again; null where that is no use.</summary>
    public TimeSpan? RetryAfter { get; init; }

    /// <summary>What the engine says of a request that it refuses.</summary>
    /// <param name="error">The engine's options have the names they have here, and its message begins with the name; or the prompt can't be served.</param>
    /// <param name="promptField">Where the prompt came from.</param>
    /// <param name="isTooLong">The prompt is longer than the model takes.</param>
    internal static ApiException Of(ArgumentException error, string promptField, bool isTooLong) => error is InvalidRequestException
        ? Invalid(error.Message, promptField, isTooLong ? "context_length_exceeded" : null)
        : Invalid(error.Message, error.Message.Split(':')[0], "invalid_value");

    /// <summary>A mistake in a field of the request.</summary>
    public static ApiException Invalid(string message, string? param = null, string? code = null) => new(StatusCodes.Status400BadRequest, message, param, code);

    /// <summary>Writes the member <c>error</c>.</summary>
    public void Write(Utf8JsonWriter json)
    {
        json.WriteStartObject("error");
        json.WriteString("message", Message);
        json.WriteString("type", Status switch
        {
            StatusCodes.Status401Unauthorized => "authentication_error",
            StatusCodes.Status429TooManyRequests => "rate_limit_error",
            >= 500 => "server_error",
            _ => "invalid_request_error",
        });
        json.WriteString("param", Param);
        json.WriteString("code", Code);
        json.WriteEndObject();
    }
}
