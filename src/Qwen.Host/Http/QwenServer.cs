using System.Net;
using System.Text.Json;
using Microsoft.AspNetCore.Diagnostics;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Templates;

namespace Qwen.Host.Http;

/// <summary>The web server: OpenAI's routes over one engine.</summary>
public static class QwenServer
{
    /// <summary>Builds a server that is yet to be started; the engine stays its owner's.</summary>
    /// <param name="engine">What answers.</param>
    /// <param name="settings">Name and bounds.</param>
    /// <param name="endpoint">Where to listen.</param>
    /// <param name="configure">Further configuration, for tests.</param>
    public static WebApplication Create(QwenEngine engine, ServerSettings settings, IPEndPoint endpoint, Action<WebApplicationBuilder>? configure = null)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.Limits.MaxRequestBodySize = settings.MostRequestBytes;
            kestrel.Listen(endpoint);
            kestrel.AddServerHeader = false;
        });
        builder.Logging.ClearProviders();
        builder.Logging.AddConsole(console => console.LogToStandardErrorThreshold = LogLevel.Trace);
        builder.Logging.SetMinimumLevel(LogLevel.Warning);
        configure?.Invoke(builder);
        WebApplication app = builder.Build();
        app.Use((context, next) => GuardAsync(context, next, app.Logger));
        app.MapPost("/v1/chat/completions", context => ChatEndpoint.HandleAsync(context, engine, settings));
        app.MapPost("/v1/completions", context => CompletionsEndpoint.HandleAsync(context, engine, settings));
        app.MapGet("/v1/models", context => WriteAsync(context, StatusCodes.Status200OK, json =>
        {
            json.WriteString("object", "list");
            json.WriteStartArray("data");
            json.WriteStartObject();
            WriteModel(json, engine, settings);
            json.WriteEndObject();
            json.WriteEndArray();
        }));
        app.MapGet("/v1/models/{name}", (HttpContext context, string name) => name == settings.ModelName
            ? WriteAsync(context, StatusCodes.Status200OK, json => WriteModel(json, engine, settings))
            : throw new ApiException(StatusCodes.Status404NotFound, "not_found_error", $"The model '{name}' is not served here; '{settings.ModelName}' is.", "model"));
        app.MapGet("/health", context => WriteAsync(context, StatusCodes.Status200OK, json => json.WriteString("status", "ok")));
        app.MapFallback(context => throw new ApiException(StatusCodes.Status404NotFound, "not_found_error", $"There is no {context.Request.Method} {context.Request.Path}."));
        return app;
    }

    /// <summary>Answers with a JSON object.</summary>
    internal static async Task WriteAsync(HttpContext context, int status, Action<Utf8JsonWriter> members)
    {
        context.Response.StatusCode = status;
        context.Response.ContentType = "application/json";
        await context.Response.WriteAsync(JsonLines.Format(members), context.RequestAborted).ConfigureAwait(false);
    }

    /// <summary>Checks the model's name; an absent one is the one that is served.</summary>
    internal static void CheckModel(RequestFields fields, ServerSettings settings)
    {
        if (fields.String("model") is { } name && name != settings.ModelName)
            throw new ApiException(StatusCodes.Status404NotFound, "not_found_error", $"The model '{name}' is not served here; '{settings.ModelName}' is.", "model");
    }

    /// <summary>The error that a client gets for an exception; null where it is ours to log.</summary>
    internal static ApiException? AsApiError(Exception e) => e switch
    {
        ApiException api => api,
        EngineOverloadedException => new ApiException(StatusCodes.Status429TooManyRequests, "rate_limit_error", e.Message),
        TemplateException => ApiException.Invalid($"The chat template refuses the messages: {e.Message}", "messages"),
        ArgumentException => ApiException.Invalid(e.Message, e.Message.Split(':')[0] is { Length: < 32 } field && !field.Contains(' ', StringComparison.Ordinal) ? field : null),
        BadHttpRequestException bad => new ApiException(bad.StatusCode, "invalid_request_error", bad.Message),
        _ => null,
    };

    internal static void WriteError(Utf8JsonWriter json, ApiException error)
    {
        json.WriteStartObject("error");
        json.WriteString("message", error.Message);
        json.WriteString("type", error.Type);
        json.WriteString("param", error.Parameter);
        json.WriteNumber("code", error.Status);
        json.WriteEndObject();
    }

    /// <summary>Turns what a handler throws into OpenAI's error object; a client that has gone gets nothing.</summary>
    private static async Task GuardAsync(HttpContext context, RequestDelegate next, ILogger logger)
    {
        ApiException error;
        try
        {
            await next(context).ConfigureAwait(false);
            if (context.Response.HasStarted || context.Response.StatusCode < 400)
                return;
            error = new ApiException(context.Response.StatusCode, "invalid_request_error", $"{context.Request.Method} {context.Request.Path} is not possible here.");
        }
        catch (Exception) when (context.RequestAborted.IsCancellationRequested)
        {
            return;
        }
#pragma warning disable CA1031 // Every fault becomes an answer; ours are logged.
        catch (Exception e)
#pragma warning restore CA1031
        {
            if (AsApiError(e) is not { } known)
            {
                logger.LogError(e, "{Method} {Path} failed", context.Request.Method, context.Request.Path);
                known = new ApiException(StatusCodes.Status500InternalServerError, "server_error", "The server failed to answer; its log says why.");
            }

            error = known;
        }

        if (context.Response.HasStarted)
            return;
        if (error.Status == StatusCodes.Status429TooManyRequests)
            context.Response.Headers.RetryAfter = "1";
        await WriteAsync(context, error.Status, json => WriteError(json, error)).ConfigureAwait(false);
    }

    private static void WriteModel(Utf8JsonWriter json, QwenEngine engine, ServerSettings settings)
    {
        json.WriteString("id", settings.ModelName);
        json.WriteString("object", "model");
        json.WriteNumber("created", 0);
        json.WriteString("owned_by", "qwen");
        json.WriteNumber("max_model_len", engine.Model.MaxModelLength);
    }
}
