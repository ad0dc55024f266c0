using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.LoadTest;

/// <summary>The figures of a run.</summary>
internal sealed class Report
{
    private readonly JsonObject _figures = [];

    /// <summary>Adds a figure.</summary>
    public void Add(string name, JsonNode? value) => _figures[name] = value;

    /// <summary>Adds three percentiles of times in seconds, in milliseconds.</summary>
    public void AddTimes(string name, IEnumerable<double> seconds)
    {
        double[] sorted = [.. seconds.Order()];
        if (sorted.Length == 0)
            return;
        foreach (int percent in (ReadOnlySpan<int>)[50, 95, 99])
            Add($"{name}_ms_p{percent}", Math.Round(1000 * Percentile(sorted, percent), 3));
    }

    /// <summary>The nearest-rank percentile.</summary>
    public static double Percentile(double[] sorted, double percent) => sorted[Math.Clamp((int)Math.Ceiling(percent / 100 * sorted.Length) - 1, 0, sorted.Length - 1)];

    /// <summary>Writes a table, and JSON where a file is given.</summary>
    public async Task WriteAsync(TextWriter output, string? jsonFile)
    {
        int width = _figures.Max(f => f.Key.Length);
        foreach ((string name, JsonNode? value) in _figures)
            await output.WriteLineAsync(string.Create(CultureInfo.InvariantCulture, $"{name.PadRight(width)}  {value}")).ConfigureAwait(false);
        if (jsonFile is not null)
            await File.WriteAllTextAsync(jsonFile, _figures.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n").ConfigureAwait(false);
    }
}
