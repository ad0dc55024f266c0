using System.Buffers;

namespace Qwen.Host.Http;

/// <summary>The id of a request, <c>X-Request-Id</c>: the client's own or a new one, in the answer and in the log.</summary>
internal static class RequestId
{
    /// <summary>The header.</summary>
    public const string Header = "X-Request-Id";

    private const int MostCharacters = 128;
    private static readonly SearchValues<char> Allowed = SearchValues.Create("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=");

    /// <summary>Gives a request its id. One that could spoil a log is not taken over.</summary>
    public static Task InvokeAsync(HttpContext context, RequestDelegate next)
    {
        string? given = context.Request.Headers[Header];
        bool isFit = given is { Length: > 0 and <= MostCharacters } && !given.AsSpan().ContainsAnyExcept(Allowed);
        context.TraceIdentifier = isFit ? given! : Guid.NewGuid().ToString("N");
        context.Response.Headers[Header] = context.TraceIdentifier;
        return next(context);
    }
}
