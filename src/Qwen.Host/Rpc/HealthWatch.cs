using Grpc.Health.V1;
using Grpc.HealthCheck;
using Qwen.Runtime.Engine;
using ServingStatus = Grpc.Health.V1.HealthCheckResponse.Types.ServingStatus;

namespace Qwen.Host.Rpc;

/// <summary>Keeps gRPC's health service, whose watchers are told of each change, on what the engine says of itself.</summary>
internal sealed class HealthWatch(QwenEngine engine, HealthServiceImpl health) : BackgroundService
{
    private static readonly TimeSpan Interval = TimeSpan.FromMilliseconds(200);

    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        using var timer = new PeriodicTimer(Interval);
        try
        {
            do
                Set(engine.Health.IsReady);
            while (await timer.WaitForNextTickAsync(stoppingToken).ConfigureAwait(false));
        }
        finally
        {
            Set(isServing: false);
        }
    }

    private void Set(bool isServing)
    {
        foreach (string service in (string[])["", Inference.Descriptor.FullName])
            health.SetStatus(service, isServing ? ServingStatus.Serving : ServingStatus.NotServing);
    }
}
