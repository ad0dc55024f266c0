using System.Text;
using System.Text.Json;

namespace Qwen.Host.Http;

/// <summary>Server-sent events as OpenAI's clients read them: <c>data: {...}</c>, at the end <c>data: [DONE]</c>.</summary>
internal sealed class EventStream(HttpContext context)
{
    public async Task SendAsync(Action<Utf8JsonWriter> members)
    {
        if (!context.Response.HasStarted)
        {
            context.Response.ContentType = "text/event-stream; charset=utf-8";
            context.Response.Headers.CacheControl = "no-cache";
        }

        await WriteAsync(JsonLines.Format(members)).ConfigureAwait(false);
    }

    /// <summary>Runs what sends events. A fault before the first is the handler's; after it, it is sent as an event.</summary>
    public async Task RunAsync(Func<Task> send)
    {
        try
        {
            await send().ConfigureAwait(false);
        }
        catch (Exception e) when (context.Response.HasStarted && !context.RequestAborted.IsCancellationRequested)
        {
            ApiException error = QwenServer.AsApiError(e) ?? new ApiException(StatusCodes.Status500InternalServerError, "server_error", e.Message);
            await WriteAsync(JsonLines.Format(json => QwenServer.WriteError(json, error))).ConfigureAwait(false);
        }

        await WriteAsync("[DONE]").ConfigureAwait(false);
    }

    private async Task WriteAsync(string data)
    {
        await context.Response.Body.WriteAsync(Encoding.UTF8.GetBytes($"data: {data}\n\n"), context.RequestAborted).ConfigureAwait(false);
        await context.Response.Body.FlushAsync(context.RequestAborted).ConfigureAwait(false);
    }
}
