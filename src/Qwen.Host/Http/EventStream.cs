using System.Buffers;
using System.IO.Pipelines;
using System.Text.Json;

namespace Qwen.Host.Http;

/// <summary>Server-sent events, a JSON object each, as OpenAI's streams have them.</summary>
internal sealed class EventStream(HttpContext context)
{
    private readonly PipeWriter _body = context.Response.BodyWriter;

    /// <summary>Sends the headers: from here on an error can only be an event.</summary>
    public async Task StartAsync()
    {
        context.Response.ContentType = "text/event-stream; charset=utf-8";
        context.Response.Headers.CacheControl = "no-cache";
        await _body.FlushAsync(context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>Sends an event at once. A slow reader is waited for.</summary>
    public async Task SendAsync(Action<Utf8JsonWriter> members)
    {
        _body.Write("data: "u8);
        using (var json = new Utf8JsonWriter(_body, StrictJson.Writing))
        {
            json.WriteStartObject();
            members(json);
            json.WriteEndObject();
        }

        _body.Write("\n\n"u8);
        await _body.FlushAsync(context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>Says that there is no more.</summary>
    public async Task EndAsync() => await _body.WriteAsync("data: [DONE]\n\n"u8.ToArray(), context.RequestAborted).ConfigureAwait(false);
}
