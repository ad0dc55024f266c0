using System.Diagnostics;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary>One line for each request; those of probes and scrapers, which come every second, only where debug lines are wanted.</summary>
internal static partial class RequestLog
{
    /// <summary>Runs a request and logs what became of it.</summary>
    public static async Task InvokeAsync(HttpContext context, RequestDelegate next, ILogger logger)
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            await next(context).ConfigureAwait(false);
        }
        finally
        {
            Log(context, logger, Stopwatch.GetElapsedTime(start));
        }
    }

    private static void Log(HttpContext context, ILogger logger, TimeSpan elapsed)
    {
        Usage usage = context.Features.Get<RequestUsage>()?.Usage ?? default;
        string status = context.RequestAborted.IsCancellationRequested ? "disconnected" : $"{context.Response.StatusCode}";
        string path = context.Request.Path.ToUriComponent(); // escaped: a client must not be able to write lines of its own
        bool isProbe = context.Request.Path.StartsWithSegments("/health") || context.Request.Path.StartsWithSegments("/metrics");
        Served(logger, isProbe ? LogLevel.Debug : LogLevel.Information, context.TraceIdentifier, context.Request.Method, path, status, usage.PromptTokens, usage.CompletionTokens, elapsed.TotalSeconds);
    }

    [LoggerMessage(EventId = 1, Message = "{RequestId} {Method} {Path} {Status}, {PromptTokens} + {CompletionTokens} tokens, {Seconds:F3} s")]
    private static partial void Served(ILogger logger, LogLevel level, string requestId, string method, string path, string status, int promptTokens, int completionTokens, double seconds);
}

/// <summary>What a request has taken so far, for the log.</summary>
internal sealed class RequestUsage
{
    public Usage Usage { get; set; }
}
