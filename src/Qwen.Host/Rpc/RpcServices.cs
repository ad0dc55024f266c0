using Grpc.HealthCheck;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Rpc;

/// <summary>gRPC beside HTTP: <c>qwen.v1.Inference</c>, <c>grpc.health.v1.Health</c> and server reflection, on a port of its own that speaks HTTP/2, by prior knowledge where there is no TLS.</summary>
internal static class RpcServices
{
    /// <summary>The services and their port.</summary>
    public static void Add(WebApplicationBuilder builder, QwenEngine engine, ServerOptions options)
    {
        builder.Services.AddSingleton(engine).AddSingleton(options).AddSingleton<HealthServiceImpl>().AddHostedService<HealthWatch>();
        builder.Services.AddGrpc(grpc =>
        {
            grpc.MaxReceiveMessageSize = checked((int)Math.Min(options.MaxRequestBytes, int.MaxValue));
            grpc.IgnoreUnknownServices = true; // their routes would match HTTP's paths too; a 404 means UNIMPLEMENTED to gRPC's clients
            grpc.Interceptors.Add<ErrorStatus>();
        });
        builder.Services.AddGrpcReflection();
        if (options.RpcEndpoint is { } endpoint)
            builder.WebHost.ConfigureKestrel(kestrel => kestrel.Listen(endpoint, listen =>
            {
                listen.Protocols = HttpProtocols.Http2;
                QwenServer.UseTls(listen, options);
            }));
    }

    /// <summary>The routes.</summary>
    public static void Map(WebApplication app)
    {
        app.MapGrpcService<InferenceService>();
        app.MapGrpcService<HealthServiceImpl>();
        app.MapGrpcReflectionService();
    }
}
