using System.Globalization;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Parameters;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;

namespace Qwen.Benchmarks;

/// <summary>What bounds a kernel.</summary>
public enum Bound
{
    /// <summary>Bytes read from memory.</summary>
    Memory,

    /// <summary>Bytes read from L2.</summary>
    Cache,

    /// <summary>F32 multiplications and additions.</summary>
    Floats,

    /// <summary>8-bit multiplications and additions.</summary>
    Bytes,
}

/// <summary>What one call of a benchmark does.</summary>
/// <param name="Amount">Bytes or operations.</param>
/// <param name="Bound">What bounds it.</param>
/// <param name="Threads">Threads that do it.</param>
public readonly record struct Work(double Amount, Bound Bound, int Threads = 1);

/// <summary>A benchmark class that knows what its methods do.</summary>
public interface IKernelBenchmark
{
    /// <summary>What one call of the method does; asked with the parameters set, before any setup. Null: no such bound.</summary>
    Work? WorkOf(string method);
}

/// <summary>Adds two columns: GB/s or GOP/s, and their share of what this machine was just measured to do at most.</summary>
public sealed class RooflineConfig : ManualConfig
{
    /// <summary>For <c>[Config]</c>.</summary>
    public RooflineConfig()
    {
        AddColumn(new Column("rate", "GB/s (bytes) or GFLOP/s, GOP/s (operations)", (work, seconds) =>
            string.Create(CultureInfo.InvariantCulture, $"{work.Amount / seconds / 1e9:F1} {Unit(work.Bound)}")));
        AddColumn(new Column("of limit", "share of the limit that MachineLimits measures", (work, seconds) =>
            string.Create(CultureInfo.InvariantCulture, $"{work.Amount / seconds / MachineLimits.Of(work.Bound, work.Threads):P0}")));
    }

    private static string Unit(Bound bound) => bound switch
    {
        Bound.Floats => "GFLOP/s",
        Bound.Bytes => "GOP/s",
        _ => "GB/s",
    };

    private sealed class Column(string name, string legend, Func<Work, double, string> text) : IColumn
    {
        public string Id => name;

        public string ColumnName => name;

        public bool AlwaysShow => true;

        public ColumnCategory Category => ColumnCategory.Custom;

        public int PriorityInCategory => 0;

        public bool IsNumeric => true;

        public UnitType UnitType => UnitType.Dimensionless;

        public string Legend => legend;

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase)
        {
            if (summary[benchmarkCase]?.ResultStatistics is not { } result)
                return "-";
            object benchmark = Activator.CreateInstance(benchmarkCase.Descriptor.Type)!;
            foreach (ParameterInstance parameter in benchmarkCase.Parameters.Items)
                benchmarkCase.Descriptor.Type.GetProperty(parameter.Name)!.SetValue(benchmark, parameter.Value);
            return ((IKernelBenchmark)benchmark).WorkOf(benchmarkCase.Descriptor.WorkloadMethod.Name) is { } work ? text(work, result.Median / 1e9) : "-";
        }

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase, SummaryStyle style) => GetValue(summary, benchmarkCase);

        public bool IsAvailable(Summary summary) => true;

        public bool IsDefault(Summary summary, BenchmarkCase benchmarkCase) => false;
    }
}
