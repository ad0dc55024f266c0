using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Models;
using Spectre.Console;

namespace Qwen.Host.Commands;

/// <summary>The flags that say which model is loaded, and how. Names are vLLM's where it has them.</summary>
internal sealed class ModelOptions
{
    private readonly Option<string?> _model = new("--model", "-m") { Description = "A directory in Hugging Face layout, a .gguf file, or synthetic:shape[:format]; the demo model if not given." };
    private readonly Option<int?> _maxModelLength = new("--max-model-len") { Description = "Longest sequence, prompt and answer together." };
    private readonly Option<int> _maxSequences = new("--max-num-seqs") { Description = "Most sequences that run at once.", DefaultValueFactory = _ => new EngineOptions().MaxSequences };
    private readonly Option<int> _maxBatchedTokens = new("--max-num-batched-tokens") { Description = "Most tokens in one step.", DefaultValueFactory = _ => new EngineOptions().MaxBatchedTokens };
    private readonly Option<string> _cacheType = new("--kv-cache-dtype") { Description = "How keys and values are stored: auto (f16), f16, bf16, f32.", DefaultValueFactory = _ => "auto" };
    private readonly Option<string?> _cacheBytes = new("--kv-cache-memory") { Description = "Bytes for keys and values, such as 2G." };
    private readonly Option<int> _blockSize = new("--block-size") { Description = "Tokens per block of the KV cache.", DefaultValueFactory = _ => new EngineOptions().BlockSize };
    private readonly Option<int> _threads = new("--threads", "-t") { Description = "CPU threads; 0 for all the process may use." };
    private readonly Option<string?> _rope = new("--rope-scaling") { Description = """Rotary scaling, such as '{"rope_type":"yarn","factor":4,"original_max_position_embeddings":32768}'.""" };
    private readonly Option<string?> _template = new("--chat-template") { Description = "A file with the chat template to use." };

    public void AddTo(Command command)
    {
        foreach (Option option in (ReadOnlySpan<Option>)[_model, _maxModelLength, _maxSequences, _maxBatchedTokens, _cacheType, _cacheBytes, _blockSize, _threads, _rope, _template])
            command.Options.Add(option);
    }

    /// <summary>The model's path, or null for the demo model.</summary>
    public string? Path(ParseResult parsed) => parsed.GetValue(_model);

    /// <summary>The path of the chat template to use instead of the model's own, or null.</summary>
    public string? TemplateFile(ParseResult parsed) => parsed.GetValue(_template);

    /// <summary>The options, checked.</summary>
    /// <exception cref="ArgumentException">A value can't be read; the message names the flag.</exception>
    public EngineOptions Read(ParseResult parsed) => new()
    {
        MaxModelLength = parsed.GetValue(_maxModelLength),
        MaxSequences = parsed.GetValue(_maxSequences),
        MaxBatchedTokens = Math.Max(parsed.GetValue(_maxBatchedTokens), parsed.GetResult(_maxBatchedTokens)?.Implicit == false ? 0 : parsed.GetValue(_maxSequences)),
        KvCacheType = parsed.GetValue(_cacheType) switch
        {
            "auto" or "f16" or "float16" => KvCacheType.F16,
            "bf16" or "bfloat16" => KvCacheType.BF16,
            "f32" or "float32" => KvCacheType.F32,
            string other => throw new ArgumentException($"--kv-cache-dtype: '{other}' is not known; known are auto, f16, bf16, f32."),
            null => KvCacheType.F16,
        },
        KvCacheBytes = parsed.GetValue(_cacheBytes) is { } bytes ? Bytes("--kv-cache-memory", bytes) : null,
        BlockSize = parsed.GetValue(_blockSize),
        Threads = parsed.GetValue(_threads),
        RopeScaling = parsed.GetValue(_rope) is { } rope ? RopeScaling.Parse(JsonLines.ParseObject(rope, "--rope-scaling"), "--rope-scaling") : null,
        ChatTemplate = TemplateFile(parsed) is { } file ? File.ReadAllText(file) : null,
    };

    /// <summary>Loads the model, with a progress bar where a person is watching.</summary>
    public async Task<T> LoadAsync<T>(ParseResult parsed, Streams streams, Func<string?, EngineOptions, IProgress<LoadProgress>?, Task<T>> load)
    {
        EngineOptions options = Read(parsed);
        if (Console.IsErrorRedirected || streams.Error != Console.Error)
            return await load(Path(parsed), options, null).ConfigureAwait(false);
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(Console.Error) });
        return await console.Progress().AutoClear(true).StartAsync(async context =>
        {
            ProgressTask task = context.AddTask("loading", maxValue: 1);
            return await load(Path(parsed), options, new Bar(task)).ConfigureAwait(false);
        }).ConfigureAwait(false);
    }

    private static long Bytes(string flag, string text)
    {
        int shift = char.ToUpperInvariant(text.Length > 0 ? text[^1] : ' ') switch { 'K' => 10, 'M' => 20, 'G' => 30, 'T' => 40, _ => 0 };
        return double.TryParse(shift == 0 ? text : text[..^1], NumberStyles.Float, CultureInfo.InvariantCulture, out double number) && number > 0 && number * Math.Pow(2, shift) < 1L << 50
            ? (long)(number * Math.Pow(2, shift))
            : throw new ArgumentException($"{flag}: '{text}' is no number of bytes; write 2G, 512M or 1073741824.");
    }

    // Reported on the loading thread itself: Progress<T> would post to the thread pool, out of order.
    private sealed class Bar(ProgressTask task) : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value)
        {
            task.Description = value.Stage;
            task.Value = value.Fraction;
        }
    }
}
