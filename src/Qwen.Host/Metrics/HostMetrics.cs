using System.Diagnostics;
using System.Diagnostics.Metrics;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Metrics;

/// <summary>What is measured of the process, under the names that Prometheus's own clients give it, and of the engine's steps beside what the memory gives.</summary>
internal sealed class HostMetrics : IDisposable
{
    /// <summary>The name of the meter.</summary>
    public const string Name = "Qwen.Host";

    /// <summary>The instruments of a server.</summary>
    /// <param name="engine">What computes.</param>
    /// <param name="memoryBandwidth">In bytes per second; null if it was not measured.</param>
    public HostMetrics(QwenEngine engine, double? memoryBandwidth)
    {
        Meter = new Meter(Name);
        Meter.CreateObservableGauge("process_resident_memory_bytes", () => Environment.WorkingSet, "By", "Memory of the process that is in RAM.");
        Meter.CreateObservableCounter("process_cpu_seconds", () => Environment.CpuUsage.TotalTime.TotalSeconds, "s", "Processor time of the process, user and system.");
        Meter.CreateObservableGauge("process_start_time_seconds", () => StartTime, "s", "When the process started, in seconds since 1970.");
        if (memoryBandwidth is not { } bandwidth)
            return;
        Meter.CreateObservableGauge("qwen.memory_bandwidth_bytes_per_second", () => bandwidth, "By/s", "What the memory gives that the weights lie in: the roofline of steps that only decode.");
        Meter.CreateObservableGauge("qwen.step_roofline_share", () => Shares(engine.Statistics, bandwidth), "1", "Bytes that steps had to read, over their time and the memory's bandwidth, by kind, since the start.");
    }

    public Meter Meter { get; }

    /// <inheritdoc/>
    public void Dispose() => Meter.Dispose();

    private static double StartTime { get; } = (Process.GetCurrentProcess().StartTime.ToUniversalTime() - DateTime.UnixEpoch).TotalSeconds;

    private static IEnumerable<Measurement<double>> Shares(EngineStatistics statistics, double bandwidth)
    {
        foreach ((string kind, StepStatistics steps) in new (string, StepStatistics)[] { ("prefill", statistics.Prefill), ("decode", statistics.Decode), ("mixed", statistics.Mixed) })
        {
            if (steps.Steps > 0)
                yield return new Measurement<double>(steps.Bytes / steps.Time.TotalSeconds / bandwidth, new KeyValuePair<string, object?>("kind", kind));
        }
    }
}
