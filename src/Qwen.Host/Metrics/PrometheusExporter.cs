using System.Collections.Concurrent;
using System.Diagnostics.Metrics;
using System.Text;

namespace Qwen.Host.Metrics;

/// <summary>Meters as Prometheus's text format, 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).</summary>
/// <remarks>
/// OpenTelemetry's exporter can't write the colons of vLLM's names. What the engine's thread records here is a bucket and a sum under a
/// lock that nobody else holds for long; all text is made by the thread that scrapes.
/// </remarks>
internal sealed class PrometheusExporter : IDisposable
{
    public const string ContentType = "text/plain; version=0.0.4; charset=utf-8";

    private readonly MeterListener _listener = new();
    private readonly Lock _scrape = new(); // observed values are set anew by each scrape
    private readonly ConcurrentDictionary<string, MetricFamily> _families = new(StringComparer.Ordinal);
    private readonly string _labels;

    /// <summary>Listens from now on.</summary>
    /// <param name="meters">To these, and no others of the process.</param>
    /// <param name="labels">Of every series.</param>
    public PrometheusExporter(IReadOnlyCollection<Meter> meters, params IEnumerable<(string Name, string Value)> labels)
    {
        _labels = string.Join(',', labels.Select(l => MetricFamily.Label(l.Name, l.Value)));
        _listener.InstrumentPublished = (instrument, listener) =>
        {
            if (!meters.Contains(instrument.Meter))
                return;
            var family = new MetricFamily(instrument);
            _families[family.Name] = family;
            listener.EnableMeasurementEvents(instrument, family);
        };
        _listener.SetMeasurementEventCallback<int>(static (_, value, tags, family) => ((MetricFamily)family!).Record(value, tags));
        _listener.SetMeasurementEventCallback<long>(static (_, value, tags, family) => ((MetricFamily)family!).Record(value, tags));
        _listener.SetMeasurementEventCallback<double>(static (_, value, tags, family) => ((MetricFamily)family!).Record(value, tags));
        _listener.Start();
    }

    /// <summary>All there is now.</summary>
    public string Scrape()
    {
        lock (_scrape)
        {
            _listener.RecordObservableInstruments();
            var text = new StringBuilder();
            foreach (MetricFamily family in _families.Values.OrderBy(f => f.Name, StringComparer.Ordinal))
                family.Write(text, _labels);
            return text.ToString();
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _listener.Dispose();
}
