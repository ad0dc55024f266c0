using System.Globalization;
using Grpc.Core;
using Grpc.Core.Interceptors;
using Qwen.Host.Http;

namespace Qwen.Host.Rpc;

/// <summary>Every fault of a call becomes a gRPC status, as HTTP's errors become its statuses; the field it is about is in the trailer <c>field</c>.</summary>
internal sealed class ErrorStatus(ILogger<ErrorStatus> logger) : Interceptor
{
    public override async Task<TResponse> UnaryServerHandler<TRequest, TResponse>(TRequest request, ServerCallContext context, UnaryServerMethod<TRequest, TResponse> continuation)
    {
        try
        {
            return await continuation(request, context).ConfigureAwait(false);
        }
        catch (Exception e) when (e is not RpcException)
        {
            throw Translate(e, context);
        }
    }

    public override async Task ServerStreamingServerHandler<TRequest, TResponse>(
        TRequest request, IServerStreamWriter<TResponse> responseStream, ServerCallContext context, ServerStreamingServerMethod<TRequest, TResponse> continuation)
    {
        try
        {
            await continuation(request, responseStream, context).ConfigureAwait(false);
        }
        catch (Exception e) when (e is not RpcException)
        {
            throw Translate(e, context);
        }
    }

    private RpcException Translate(Exception e, ServerCallContext context)
    {
        if (context.CancellationToken.IsCancellationRequested)
        {
            return context.Deadline <= DateTime.UtcNow
                ? new RpcException(new Status(StatusCode.DeadlineExceeded, "The deadline came before the end of the answer."))
                : new RpcException(new Status(StatusCode.Cancelled, "The call was cancelled."));
        }

        // The engine names its options as requests do, at the head of the message.
        ApiException error = e is ArgumentException ? ApiException.Invalid(e.Message) : ErrorHandling.Translate(e, logger);
        StatusCode code = error.Status switch
        {
            StatusCodes.Status400BadRequest => StatusCode.InvalidArgument,
            StatusCodes.Status404NotFound => StatusCode.NotFound,
            StatusCodes.Status429TooManyRequests => StatusCode.ResourceExhausted,
            StatusCodes.Status408RequestTimeout => StatusCode.Aborted,
            StatusCodes.Status503ServiceUnavailable => StatusCode.Unavailable,
            StatusCodes.Status504GatewayTimeout => StatusCode.DeadlineExceeded,
            _ => StatusCode.Internal,
        };
        var trailers = new Metadata();
        if (error.Param is { } field)
            trailers.Add("field", field);
        if (error.RetryAfter is { } time)
            trailers.Add("grpc-retry-pushback-ms", ((long)Math.Max(time.TotalMilliseconds, 1000)).ToString(CultureInfo.InvariantCulture)); // what gRPC's own retries obey
        return new RpcException(new Status(code, error.Message), trailers);
    }
}
