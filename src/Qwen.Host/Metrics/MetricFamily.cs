using System.Diagnostics.Metrics;
using System.Globalization;
using System.Text;

namespace Qwen.Host.Metrics;

/// <summary>How Prometheus reads a family.</summary>
internal enum MetricKind
{
    Gauge,
    Counter,
    Histogram,
}

/// <summary>What one instrument measured so far: a series for each set of labels. Recording into a series that is there allocates nothing, unless it has labels.</summary>
internal sealed class MetricFamily
{
    private readonly Lock _lock = new(); // held for nanoseconds: by whoever records, and while a scrape copies
    private readonly double[] _bounds;
    private readonly bool _isAbsolute;
    private readonly Dictionary<string, Series> _series = new(StringComparer.Ordinal);
    private readonly Series? _unlabelled;

    /// <summary>A family that has measured nothing.</summary>
    /// <param name="instrument">What measures.</param>
    public MetricFamily(Instrument instrument)
    {
        Help = instrument.Description ?? "";
        Kind = KindOf(instrument);
        Name = NameOf(instrument.Name, Kind);
        _isAbsolute = instrument.IsObservable || Kind == MetricKind.Gauge;
        _bounds = Kind == MetricKind.Histogram ? Bounds(instrument) : [];
        if (Kind == MetricKind.Histogram)
            _series[""] = _unlabelled = new Series(_bounds.Length + 1); // there with zeros before the first, as in vLLM
    }

    public string Name { get; }

    public string Help { get; }

    public MetricKind Kind { get; }

    /// <summary>
    /// An instrument's name as Prometheus has it: the first dot was a colon in vLLM's names, the others can't be; a counter ends in _total.
    /// </summary>
    public static string NameOf(string instrument, MetricKind kind)
    {
        int dot = instrument.IndexOf('.', StringComparison.Ordinal);
        string name = dot < 0 ? instrument : $"{instrument[..dot]}:{instrument[(dot + 1)..]}";
        var fit = new StringBuilder(name.Length);
        foreach (char c in name)
            fit.Append(char.IsAsciiLetterOrDigit(c) || c is '_' or ':' ? c : '_');
        return kind == MetricKind.Counter && !name.EndsWith("_total", StringComparison.Ordinal) ? fit.Append("_total").ToString() : fit.ToString();
    }

    /// <summary>Takes a measurement.</summary>
    public void Record(double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        lock (_lock)
        {
            Series series = tags.IsEmpty && _unlabelled is not null ? _unlabelled : SeriesOf(tags);
            if (Kind == MetricKind.Histogram)
            {
                int bucket = 0;
                while (bucket < _bounds.Length && value > _bounds[bucket])
                    bucket++;
                series.Buckets[bucket]++;
                series.Value += value;
            }
            else
            {
                series.Value = _isAbsolute ? value : series.Value + value;
            }
        }
    }

    /// <summary>Writes all series.</summary>
    /// <param name="text">The exposition.</param>
    /// <param name="common">Labels of every series, written out, such as <c>model_name="demo"</c>.</param>
    public void Write(StringBuilder text, string common)
    {
        lock (_lock)
        {
            if (_series.Count == 0)
                return;
            if (Help.Length > 0)
                text.Append(CultureInfo.InvariantCulture, $"# HELP {Name} {EscapeHelp(Help)}\n");
            text.Append(CultureInfo.InvariantCulture, $"# TYPE {Name} {Kind.ToString().ToLowerInvariant()}\n");
            foreach ((string own, Series series) in _series)
            {
                string labels = own.Length == 0 ? common : common.Length == 0 ? own : $"{common},{own}";
                if (Kind == MetricKind.Histogram)
                    WriteHistogram(text, labels, series);
                else
                    WriteSample(text, "", labels, series.Value);
            }
        }
    }

    /// <summary>A label as it is written.</summary>
    public static string Label(string name, string? value) =>
        $"{name}=\"{(value ?? "").Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal).Replace("\n", "\\n", StringComparison.Ordinal)}\"";

    private void WriteHistogram(StringBuilder text, string labels, Series series)
    {
        string before = labels.Length == 0 ? "" : labels + ",";
        long count = 0;
        for (int i = 0; i <= _bounds.Length; i++)
        {
            count += series.Buckets[i];
            WriteSample(text, "_bucket", before + Label("le", i < _bounds.Length ? Number(_bounds[i], isBound: true) : "+Inf"), count);
        }

        WriteSample(text, "_sum", labels, series.Value);
        WriteSample(text, "_count", labels, count);
    }

    private void WriteSample(StringBuilder text, string suffix, string labels, double value)
    {
        text.Append(Name).Append(suffix);
        if (labels.Length > 0)
            text.Append('{').Append(labels).Append('}');
        text.Append(' ').Append(Number(value, isBound: false)).Append('\n');
    }

    // Bounds are written as Prometheus's Python client writes them (1.0), so that a dashboard made for vLLM finds its buckets.
    private static string Number(double value, bool isBound) =>
        double.IsNaN(value) ? "NaN"
        : double.IsInfinity(value) ? (value > 0 ? "+Inf" : "-Inf")
        : isBound && value == Math.Floor(value) && Math.Abs(value) < 1e15 ? value.ToString("F1", CultureInfo.InvariantCulture)
        : value.ToString("R", CultureInfo.InvariantCulture);

    private static string EscapeHelp(string text) => text.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\n", "\\n", StringComparison.Ordinal);

    private Series SeriesOf(ReadOnlySpan<KeyValuePair<string, object?>> tags)
    {
        string key = "";
        foreach ((string name, object? value) in tags)
            key += (key.Length == 0 ? "" : ",") + Label(name, Convert.ToString(value, CultureInfo.InvariantCulture));
        return _series.TryGetValue(key, out Series? series) ? series : _series[key] = new Series(Kind == MetricKind.Histogram ? _bounds.Length + 1 : 0);
    }

    private static MetricKind KindOf(Instrument instrument)
    {
        Type type = instrument.GetType().GetGenericTypeDefinition();
        return type == typeof(Histogram<>) ? MetricKind.Histogram
            : type == typeof(Counter<>) || type == typeof(ObservableCounter<>) ? MetricKind.Counter
            : type == typeof(Gauge<>) || type == typeof(ObservableGauge<>) ? MetricKind.Gauge
            : throw new NotSupportedException($"{instrument.Name}: a {type.Name} has no form in Prometheus here.");
    }

    private static double[] Bounds(Instrument instrument) => instrument switch
    {
        Histogram<double> { Advice.HistogramBucketBoundaries: { } bounds } => [.. bounds],
        Histogram<int> { Advice.HistogramBucketBoundaries: { } bounds } => [.. bounds.Select(b => (double)b)],
        Histogram<long> { Advice.HistogramBucketBoundaries: { } bounds } => [.. bounds.Select(b => (double)b)],
        _ => throw new NotSupportedException($"{instrument.Name}: a histogram must advise its buckets."),
    };

    private sealed class Series(int buckets)
    {
        public long[] Buckets { get; } = new long[buckets];

        /// <summary>The value; the sum of a histogram.</summary>
        public double Value { get; set; }
    }
}
