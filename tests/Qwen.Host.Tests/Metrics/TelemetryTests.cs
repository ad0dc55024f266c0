using System.Collections.Concurrent;
using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.Logging;
using Qwen.Host.Http;
using Qwen.Host.Tests.Http;

namespace Qwen.Host.Tests.Metrics;

[Collection(DemoEngine.Collection)]
public sealed class TelemetryTests(DemoEngine demo)
{
    [Fact]
    public async Task Otlp_GetsTheSpanOfARequest_AndTheMetrics()
    {
        var received = new ConcurrentDictionary<string, string>();
        await using WebApplication collector = await CollectorAsync(received);
        await using (TestHost host = await TestHost.StartAsync(demo.Engine, new ServerOptions { ModelName = "demo", OtlpEndpoint = new Uri(collector.Urls.Single()) }))
        {
            host.Client.DefaultRequestHeaders.Add(RequestId.Header, "traced-1");
            await host.AskAsync("/v1/completions", new JsonObject { ["prompt"] = "a", ["max_tokens"] = 3 });
        } // which sends what is left

        Assert.Contains("llm_request", received["/opentelemetry.proto.collector.trace.v1.TraceService/Export"], StringComparison.Ordinal);
        Assert.Contains("traced-1", received["/opentelemetry.proto.collector.trace.v1.TraceService/Export"], StringComparison.Ordinal);
        Assert.Contains("vllm.generation_tokens", received["/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"], StringComparison.Ordinal);
        Assert.Contains("process_resident_memory_bytes", received["/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"], StringComparison.Ordinal);
    }

    /// <summary>The least that a collector must do over gRPC: take messages, and answer each with an empty one. Texts lie in them as they are.</summary>
    private static async Task<WebApplication> CollectorAsync(ConcurrentDictionary<string, string> received)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.Listen(IPAddress.Loopback, 0, listen => listen.Protocols = HttpProtocols.Http2));
        WebApplication app = builder.Build();
        app.Run(async context =>
        {
            using var body = new MemoryStream();
            await context.Request.Body.CopyToAsync(body);
            string text = Encoding.UTF8.GetString(body.ToArray());
            received.AddOrUpdate(context.Request.Path, text, (_, before) => before + text);
            context.Response.ContentType = "application/grpc";
            context.Response.AppendTrailer("grpc-status", "0");
            await context.Response.Body.WriteAsync(new byte[5]);
        });
        await app.StartAsync();
        return app;
    }
}
