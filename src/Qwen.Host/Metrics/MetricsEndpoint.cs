using System.Text;

namespace Qwen.Host.Metrics;

/// <summary><c>GET /metrics</c>.</summary>
internal static class MetricsEndpoint
{
    public static void Map(WebApplication app)
    {
        PrometheusExporter exporter = app.Services.GetRequiredService<PrometheusExporter>();
        _ = app.Services.GetRequiredService<HostMetrics>(); // made known to the host, which disposes it
        app.MapGet("/metrics", async context =>
        {
            byte[] text = Encoding.UTF8.GetBytes(exporter.Scrape());
            context.Response.ContentType = PrometheusExporter.ContentType;
            context.Response.ContentLength = text.Length;
            await context.Response.Body.WriteAsync(text, context.RequestAborted).ConfigureAwait(false);
        });
    }
}
