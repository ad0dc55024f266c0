using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary><c>GET /health</c>: the process need not be started again; <c>GET /health/ready</c>: it answers requests.</summary>
internal static class HealthEndpoints
{
    public static void Map(WebApplication app, QwenEngine engine)
    {
        app.MapGet("/health", context => WriteAsync(context, engine.Health, isWell: engine.Health.State is EngineState.Ready or EngineState.Draining));
        app.MapGet("/health/ready", context => WriteAsync(context, engine.Health, engine.Health.IsReady));
    }

    private static Task WriteAsync(HttpContext context, EngineHealth health, bool isWell) =>
        JsonResponse.WriteAsync(context, isWell ? StatusCodes.Status200OK : StatusCodes.Status503ServiceUnavailable, json =>
        {
            json.WriteString("status", isWell ? "ok" : "unavailable");
            json.WriteString("engine", health.State.ToString().ToLowerInvariant());
        });
}
