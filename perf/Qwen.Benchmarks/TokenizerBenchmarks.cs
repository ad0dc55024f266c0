using System.Text;
using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Columns;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using Qwen.Runtime.Tokenization;

namespace Qwen.Benchmarks;

/// <summary>
/// Encoding on one thread, and loading. <c>QWEN_TOKENIZER</c> names a model directory; its vocabulary should be a full one, as small
/// ones are faster. Without it the demo model's is used.
/// </summary>
[Config(typeof(Config))]
public class TokenizerBenchmarks
{
    private const int Characters = 1 << 20;

    private readonly int[] _ids = new int[3 * Characters];
    private QwenTokenizer _tokenizer = null!;
    private string _text = "";

    /// <summary>What is encoded.</summary>
    [Params("prose", "code", "chinese")]
    public string Kind { get; set; } = "";

    private static string Folder => Environment.GetEnvironmentVariable("QWEN_TOKENIZER") ?? Path.Combine(AppContext.BaseDirectory, "models", "demo");

    /// <summary>A megabyte of text in the vocabulary of this page's words, put together at random with a fixed seed.</summary>
    internal static string Text(string kind)
    {
        string[] words = kind switch
        {
            "code" => ["for (int i = 0; i < count; i++)\n", "{\n    ", "return ", "values[index]", " += ", "x.Length", ";\n", "}\n\n", "public static ", "Span<float> ", "// adds the tail\n", "if (a != b)\n    "],
            "chinese" => ["模型", "一次", "读取", "整个", "提示", "，", "然后", "写出", "答案", "。", "每个", "词元", "都", "需要", "内存", "带宽"],
            _ => ["the", "model", "reads", "a", "whole", "prompt", "at", "once", "and", "then", "it", "writes", "its", "answer", "one", "token", "after", "another", "which", "is", "limited", "by", "memory",
                "bandwidth", "because", "every", "weight", "must", "be", "fetched", "again", "however", "small", "machines", "can", "still", "serve", "several", "people", "together", "don't", "they'll", "In", "When", "of", "to"],
        };
        var random = new Random(1);
        var text = new StringBuilder();
        for (int n = 1; text.Length < Characters; n++)
        {
            text.Append(words[random.Next(words.Length)]);
            if (kind == "prose")
                text.Append(n % 97 == 0 ? ".\n\n" : n % 13 == 0 ? ". " : n % 7 == 0 ? ", " : " ");
        }

        return text.ToString(0, Characters);
    }

    /// <summary>Loads the vocabulary.</summary>
    [GlobalSetup]
    public void Setup()
    {
        _tokenizer = QwenTokenizer.Load(Folder);
        _text = Text(Kind);
    }

    /// <summary>A text into a buffer.</summary>
    [Benchmark]
    public int Encode() => _tokenizer.Encode(_text, _ids, AddedTokenParsing.UserDefined);

    /// <summary>The files of the tokenizer.</summary>
    [Benchmark]
    public int Load() => QwenTokenizer.Load(Folder).VocabularySize;

    private sealed class Config : ManualConfig
    {
        public Config() => AddColumn(new Throughput());
    }

    private sealed class Throughput : IColumn
    {
        public string Id => "MB/s";

        public string ColumnName => "MB/s";

        public bool AlwaysShow => true;

        public ColumnCategory Category => ColumnCategory.Custom;

        public int PriorityInCategory => 0;

        public bool IsNumeric => true;

        public UnitType UnitType => UnitType.Dimensionless;

        public string Legend => "UTF-8 bytes of text per second";

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase)
        {
            if (benchmarkCase.Descriptor.WorkloadMethod.Name != nameof(Encode) || summary[benchmarkCase]?.ResultStatistics is not { } result)
                return "-";
            int bytes = Encoding.UTF8.GetByteCount(Text((string)benchmarkCase.Parameters[nameof(Kind)]));
            return (bytes / result.Median * 1000).ToString("F1");
        }

        public string GetValue(Summary summary, BenchmarkCase benchmarkCase, SummaryStyle style) => GetValue(summary, benchmarkCase);

        public bool IsAvailable(Summary summary) => true;

        public bool IsDefault(Summary summary, BenchmarkCase benchmarkCase) => false;
    }
}
