using System.Diagnostics.Metrics;
using System.Globalization;
using Qwen.Host.Metrics;

namespace Qwen.Host.Tests.Metrics;

public sealed class MetricFamilyTests : IDisposable
{
    private readonly Meter _meter = new("test");

    public void Dispose() => _meter.Dispose();

    [Fact]
    public void Scrape_HasTheSumOfACounter_TheLastOfAGauge_AndEveryLabel()
    {
        Counter<long> counter = _meter.CreateCounter<long>("vllm.request_success", null, "Requests\nthat \\ ended.");
        Gauge<double> gauge = _meter.CreateGauge<double>("qwen.load");
        _meter.CreateObservableCounter("process_cpu_seconds", () => 1.25);
        using var exporter = new PrometheusExporter([_meter], ("model_name", "a\"b\\c\nd"));
        counter.Add(2, new KeyValuePair<string, object?>("finished_reason", "stop"));
        counter.Add(1, new KeyValuePair<string, object?>("finished_reason", "length"));
        counter.Add(3, new KeyValuePair<string, object?>("finished_reason", "stop"));
        gauge.Record(0.5);
        gauge.Record(double.NaN);

        const string Model = """model_name="a\"b\\c\nd" """;
        Assert.Equal($$"""
            # TYPE process_cpu_seconds_total counter
            process_cpu_seconds_total{{{Model.Trim()}}} 1.25
            # TYPE qwen:load gauge
            qwen:load{{{Model.Trim()}}} NaN
            # HELP vllm:request_success_total Requests\nthat \\ ended.
            # TYPE vllm:request_success_total counter
            vllm:request_success_total{{{Model.Trim()}},finished_reason="stop"} 5
            vllm:request_success_total{{{Model.Trim()}},finished_reason="length"} 1

            """.ReplaceLineEndings("\n"), exporter.Scrape());
    }

    [Fact]
    public void Histogram_HasCumulativeBuckets_UpToInfinity_WithSumAndCount()
    {
        Histogram<double> histogram = _meter.CreateHistogram("vllm.time_seconds", null, "t", null, new InstrumentAdvice<double> { HistogramBucketBoundaries = [0.5, 1, 2.5] });
        using var exporter = new PrometheusExporter([_meter]);
        Assert.Contains("vllm:time_seconds_count 0\n", exporter.Scrape(), StringComparison.Ordinal);
        foreach (double value in (double[])[0.5, 0.6, 1, 2, 3, 100])
            histogram.Record(value);

        Assert.Equal("""
            # HELP vllm:time_seconds t
            # TYPE vllm:time_seconds histogram
            vllm:time_seconds_bucket{le="0.5"} 1
            vllm:time_seconds_bucket{le="1.0"} 3
            vllm:time_seconds_bucket{le="2.5"} 4
            vllm:time_seconds_bucket{le="+Inf"} 6
            vllm:time_seconds_sum 107.1
            vllm:time_seconds_count 6

            """.ReplaceLineEndings("\n"), exporter.Scrape());
    }

    [Fact]
    public async Task Measurements_OfManyThreads_AllCount_AndBucketsNeverFall()
    {
        Histogram<int> histogram = _meter.CreateHistogram("vllm.tokens", null, null, null, new InstrumentAdvice<int> { HistogramBucketBoundaries = [1, 4, 16] });
        using var exporter = new PrometheusExporter([_meter]);
        Task[] writers = [.. Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            for (int i = 0; i < 20_000; i++)
                histogram.Record(i % 20);
        }))];
        do
        {
            long[] counts = [.. exporter.Scrape().Split('\n').Where(l => l.StartsWith("vllm:tokens_bucket", StringComparison.Ordinal)).Select(l => long.Parse(l[(l.LastIndexOf(' ') + 1)..], CultureInfo.InvariantCulture))];
            Assert.Equal(4, counts.Length);
            Assert.Equal(counts.Order(), counts);
        }
        while (!writers.All(w => w.IsCompleted));
        await Task.WhenAll(writers);
        Assert.Contains("vllm:tokens_count 80000\n", exporter.Scrape(), StringComparison.Ordinal);
    }

    [Fact]
    public void Recording_AllocatesNothing()
    {
        Histogram<double> histogram = _meter.CreateHistogram("vllm.time_seconds", null, null, null, new InstrumentAdvice<double> { HistogramBucketBoundaries = [0.5, 1, 2.5] });
        using var exporter = new PrometheusExporter([_meter]);
        histogram.Record(1);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10_000; i++)
            histogram.Record(i);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public void AnotherMeter_OfTheSameName_IsNotHeard()
    {
        using var other = new Meter("test");
        using var exporter = new PrometheusExporter([_meter]);
        other.CreateCounter<int>("vllm.other").Add(1);
        Assert.Equal("", exporter.Scrape());
    }

    [Theory]
    [InlineData("vllm.num_requests_running", "vllm:num_requests_running")]
    [InlineData("vllm.a.b-c", "vllm:a_b_c")]
    [InlineData("process_cpu", "process_cpu")]
    public void Names_HaveAColonForTheirFirstDot(string instrument, string name) => Assert.Equal(name, MetricFamily.NameOf(instrument, MetricKind.Gauge));

    [Fact]
    public void Counters_EndInTotal_Once()
    {
        Assert.Equal("vllm:x_total", MetricFamily.NameOf("vllm.x", MetricKind.Counter));
        Assert.Equal("vllm:x_total", MetricFamily.NameOf("vllm.x_total", MetricKind.Counter));
    }
}
