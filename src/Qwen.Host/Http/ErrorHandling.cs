using System.Globalization;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Templates;

namespace Qwen.Host.Http;

/// <summary>Turns whatever a handler throws into OpenAI's error object with the right status.</summary>
internal static class ErrorHandling
{
    // For another one, or this one started again, to be found.
    private static readonly TimeSpan OtherServer = TimeSpan.FromSeconds(5);

    /// <summary>The outermost step of each request.</summary>
    public static async Task InvokeAsync(HttpContext context, RequestDelegate next, ILogger logger)
    {
        ApiException error;
        try
        {
            await next(context).ConfigureAwait(false);
            if (context.Response.HasStarted || context.Response.StatusCode < 400)
                return;
            error = OfStatus(context); // set by routing: no such route, or not with this method
        }
        catch (Exception) when (context.RequestAborted.IsCancellationRequested)
        {
            return; // nobody is there to read an answer
        }
#pragma warning disable CA1031 // Every fault becomes an answer; ours are logged.
        catch (Exception e) when (!context.Response.HasStarted)
#pragma warning restore CA1031
        {
            error = Translate(e, logger);
        }

        if (error.RetryAfter is { } time)
            context.Response.Headers.RetryAfter = Math.Max(Math.Ceiling(time.TotalSeconds), 1).ToString(CultureInfo.InvariantCulture);
        await JsonResponse.WriteAsync(context, error.Status, error.Write).ConfigureAwait(false);
    }

    /// <summary>What the client is told of an exception. A fault of ours is logged, and the client gets no details.</summary>
    public static ApiException Translate(Exception e, ILogger logger)
    {
        switch (e)
        {
            case ApiException api:
                return api;
            case TemplateException template:
                return ApiException.Invalid($"The chat template refuses the messages: {template.RaisedMessage ?? template.Message}", "messages");
            case EngineOverloadedException overloaded:
                return new ApiException(StatusCodes.Status429TooManyRequests, e.Message, code: "engine_overloaded") { RetryAfter = overloaded.RetryAfter };
            case EngineUnavailableException:
                return new ApiException(StatusCodes.Status503ServiceUnavailable, e.Message, code: "engine_unavailable") { RetryAfter = OtherServer };
            case ObjectDisposedException or OperationCanceledException: // whoever asked is still there
                return new ApiException(StatusCodes.Status503ServiceUnavailable, "The server stops.", code: "server_stopping") { RetryAfter = OtherServer };
            case RequestTimeoutException:
                return new ApiException(StatusCodes.Status504GatewayTimeout, e.Message, "timeout", "request_timeout");
            case SlowReaderException:
                return new ApiException(StatusCodes.Status408RequestTimeout, e.Message, code: "slow_reader");
            case NonFiniteLogitException:
                return new ApiException(StatusCodes.Status500InternalServerError, e.Message, code: "non_finite_logit");
            case BadHttpRequestException { StatusCode: StatusCodes.Status413PayloadTooLarge }:
                return new ApiException(StatusCodes.Status413PayloadTooLarge, "The request body is larger than the server takes.", code: "request_too_large");
            case BadHttpRequestException bad:
                return new ApiException(bad.StatusCode, bad.Message);
            default:
                logger.LogError(e, "A request failed.");
                return new ApiException(StatusCodes.Status500InternalServerError, "The server failed to answer; its log says why.", code: "internal_error");
        }
    }

    private static ApiException OfStatus(HttpContext context)
    {
        string what = $"{context.Request.Method} {context.Request.Path.ToUriComponent()}";
        return context.Response.StatusCode switch
        {
            StatusCodes.Status404NotFound => new ApiException(StatusCodes.Status404NotFound, $"There is no {what}.", code: "unknown_url"),
            StatusCodes.Status405MethodNotAllowed => new ApiException(StatusCodes.Status405MethodNotAllowed, $"There is no {what}; the path takes {context.Response.Headers.Allow}.", code: "method_not_allowed"),
            int status => new ApiException(status, $"{what} is refused."),
        };
    }
}
