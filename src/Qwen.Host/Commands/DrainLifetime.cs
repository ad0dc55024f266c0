using System.Runtime.InteropServices;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary>
/// The first SIGTERM or SIGINT drains the server: it is no longer ready and refuses requests with 503, while those that run get a time
/// to end; then it stops, and what still runs is told so. The second is left to the system, which ends the process.
/// </summary>
/// <param name="engine">What runs.</param>
/// <param name="timeout">The time that running requests get.</param>
/// <param name="application">Stopped in the end.</param>
/// <param name="notes">Where the operator reads.</param>
internal sealed class DrainLifetime(QwenEngine engine, TimeSpan timeout, IHostApplicationLifetime application, TextWriter notes) : IHostLifetime, IDisposable
{
    private PosixSignalRegistration[] _signals = [];
    private int _count;

    /// <inheritdoc/>
    public Task WaitForStartAsync(CancellationToken cancellationToken)
    {
        _signals = [PosixSignalRegistration.Create(PosixSignal.SIGTERM, OnSignal), PosixSignalRegistration.Create(PosixSignal.SIGINT, OnSignal)];
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public Task StopAsync(CancellationToken cancellationToken) => Task.CompletedTask;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (PosixSignalRegistration signal in _signals)
            signal.Dispose();
    }

    private void OnSignal(PosixSignalContext context)
    {
        if (Interlocked.Increment(ref _count) > 1)
            return; // uncancelled: the system's default, which ends the process
        context.Cancel = true;
        _ = Task.Run(DrainAsync);
    }

    private async Task DrainAsync()
    {
        try
        {
            await notes.WriteLineAsync($"{Running()}: finishing them for at most {timeout.TotalSeconds:0.###} s; a second signal ends the program at once").ConfigureAwait(false);
            if (!await engine.DrainAsync(timeout, application.ApplicationStopping).ConfigureAwait(false))
                await notes.WriteLineAsync($"{Running()} at the end of the drain; they are cut").ConfigureAwait(false);
        }
        finally
        {
            application.StopApplication();
        }
    }

    private string Running()
    {
        EngineStatistics now = engine.Statistics;
        return $"{now.Running} sequences run and {now.Waiting} requests wait";
    }
}
