using OpenTelemetry;
using OpenTelemetry.Exporter;
using OpenTelemetry.Metrics;
using OpenTelemetry.Resources;
using OpenTelemetry.Trace;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Metrics;

/// <summary>Sends metrics and a span per request to an OpenTelemetry collector. Without an endpoint nothing of it is there.</summary>
internal static class Telemetry
{
    /// <summary>Adds the exporters.</summary>
    /// <param name="services">The host's.</param>
    /// <param name="engine">What is measured.</param>
    /// <param name="endpoint">The collector; gRPC, unless OTEL_EXPORTER_OTLP_PROTOCOL says http/protobuf.</param>
    public static void Add(IServiceCollection services, QwenEngine engine, Uri endpoint)
    {
        string source = engine.Meter.Name; // the activity source has the same
        services.AddOpenTelemetry()
            .ConfigureResource(resource => resource.AddService("qwen", serviceVersion: Http.QwenServer.Version))
            .WithMetrics(metrics => metrics.AddMeter(source, HostMetrics.Name).AddOtlpExporter(otlp => Configure(otlp, endpoint, "v1/metrics")))
            .WithTracing(traces => traces.AddSource(source).AddOtlpExporter(otlp => Configure(otlp, endpoint, "v1/traces")));
    }

    private static void Configure(OtlpExporterOptions otlp, Uri endpoint, string signal) =>
        otlp.Endpoint = otlp.Protocol == OtlpExportProtocol.HttpProtobuf ? new Uri(new Uri(endpoint.AbsoluteUri.TrimEnd('/') + "/"), signal) : endpoint;
}
