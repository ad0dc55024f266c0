using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Speculation;
using Spectre.Console;

namespace Qwen.Host.Commands;

/// <summary>The flags that say which model is loaded, and how. Names are vLLM's where it has them.</summary>
internal sealed class ModelOptions
{
    private static readonly EngineOptions Defaults = new();

    // Of the engine's options, which errors name: their flags.
    private static readonly Dictionary<string, string> Flags = new(StringComparer.Ordinal)
    {
        [nameof(EngineOptions.MaxModelLength)] = "--max-model-len",
        [nameof(EngineOptions.MaxSequences)] = "--max-num-seqs",
        [nameof(EngineOptions.MaxBatchedTokens)] = "--max-num-batched-tokens",
        [nameof(EngineOptions.KvCacheBytes)] = "--kv-cache-memory",
        [nameof(EngineOptions.BlockSize)] = "--block-size",
        [nameof(EngineOptions.MaxUnreadTokens)] = "--max-unread-tokens",
        [nameof(EngineOptions.Threads)] = "--threads",
        [nameof(EngineOptions.GpuLayers)] = "--gpu-layers",
        [nameof(EngineOptions.GpuMemoryUtilization)] = "--gpu-memory-utilization",
        [nameof(EngineOptions.MaxQueue)] = "--max-queue",
        [$"{nameof(EngineOptions.Speculation)}.{nameof(SpeculationOptions.Tokens)}"] = "--num-speculative-tokens",
    };

    private readonly EngineFlags? _engine;
    private readonly Option<string?> _model = CreatePath();
    private readonly Option<int?> _maxModelLength = new("--max-model-len") { Description = "Longest sequence, prompt and answer together; the model's own context if not given." };
    private readonly Option<int> _maxSequences = new("--max-num-seqs") { Description = "Most sequences that run at once.", DefaultValueFactory = _ => Defaults.MaxSequences };
    private readonly Option<int?> _maxBatchedTokens = new("--max-num-batched-tokens") { Description = $"Most tokens in one step; {Defaults.MaxBatchedTokens} if not given, or as many as sequences." };
    private readonly Option<string> _cacheType = new("--kv-cache-dtype") { Description = "How keys and values are stored: auto (f16), f16, bf16, f32, int8, fp8 (fp8_e4m3), fp8_e5m2.", DefaultValueFactory = _ => "auto" };
    private readonly Option<string?> _cacheBytes = new("--kv-cache-memory") { Description = "Bytes for keys and values, such as 2G." };
    private readonly Option<int> _blockSize = new("--block-size") { Description = "Tokens per block of the KV cache.", DefaultValueFactory = _ => Defaults.BlockSize };
    private readonly Option<string> _device = new("--device") { Description = "Where to compute: auto (a GPU where there is one), cpu, cuda, cuda:n.", DefaultValueFactory = _ => "auto" };
    private readonly Option<string> _gpuLayers = new("--gpu-layers", "-ngl") { Description = "How many of the last layers a GPU computes: a number, all, or auto for as many as fit.", DefaultValueFactory = _ => "auto" };
    private readonly Option<double> _gpuMemory = new("--gpu-memory-utilization") { Description = "The part of the GPU's memory that may be in use.", DefaultValueFactory = _ => Defaults.GpuMemoryUtilization };
    private readonly Option<string> _dtype = new("--dtype") { Description = "Activations and dense weights on a GPU: auto (as the checkpoint), bfloat16, float16.", DefaultValueFactory = _ => "auto" };
    private readonly Option<int> _threads = new("--threads", "-t") { Description = "CPU threads; 0 for all the process may use." };
    private readonly Option<string?> _rope = new("--rope-scaling") { Description = """Rotary scaling, such as '{"rope_type":"yarn","factor":4,"original_max_position_embeddings":32768}'.""" };
    private readonly Option<string?> _template = new("--chat-template") { Description = "A file with the chat template to use instead of the model's." };

    /// <summary>The flags of a command.</summary>
    /// <param name="hasEngine">It answers requests: with the flags of the engine.</param>
    public ModelOptions(bool hasEngine = false) => _engine = hasEngine ? new EngineFlags() : null;

    /// <summary>The flag that every command has.</summary>
    public static Option<string?> CreatePath() =>
        new("--model", "-m") { Description = "A directory in Hugging Face layout, a .gguf file, or synthetic:shape[:format]; the demo model if not given." };

    /// <summary>Checks that there is such a model.</summary>
    /// <exception cref="FileNotFoundException">There is not.</exception>
    public static string? ReadPath(string? path, string flag = "--model") =>
        path is null || path.StartsWith(SyntheticCheckpoint.Prefix, StringComparison.Ordinal) || System.IO.Path.Exists(path)
            ? path
            : throw new FileNotFoundException($"{flag}: there is no file or directory '{path}'; give a directory in Hugging Face layout, a .gguf file, or synthetic:shape[:format].");

    /// <summary>A number of bytes with a unit of 1024.</summary>
    /// <exception cref="ArgumentException">It is none.</exception>
    public static long Bytes(string flag, string text)
    {
        int shift = text.Length == 0 ? 0 : char.ToUpperInvariant(text[^1]) switch { 'K' => 10, 'M' => 20, 'G' => 30, 'T' => 40, _ => 0 };
        bool isNumber = double.TryParse(shift == 0 ? text : text[..^1], NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double number);
        double bytes = number * Math.Pow(2, shift);
        return isNumber && bytes is >= 1 and < 1L << 50
            ? (long)bytes
            : throw new ArgumentException($"{flag}: '{text}' is not a number of bytes; write 1073741824, 512M or 2G.");
    }

    /// <summary>A time in seconds.</summary>
    /// <exception cref="ArgumentException">It is none, or not between 0 and a day.</exception>
    public static TimeSpan Seconds(string flag, double seconds, bool canBeZero = false) =>
        seconds is > 0 and <= 86_400 || (canBeZero && seconds == 0)
            ? TimeSpan.FromSeconds(seconds)
            : throw new ArgumentException($"{flag}: {seconds.ToString(CultureInfo.InvariantCulture)} is not a number of seconds between 0 and 86400.");

    public void AddTo(Command command)
    {
        foreach (Option option in (ReadOnlySpan<Option>)[_model, _maxModelLength, _maxSequences, _maxBatchedTokens, _cacheType, _cacheBytes, _blockSize, _device, _gpuLayers, _gpuMemory, _dtype, _threads, _rope, _template])
            command.Options.Add(option);
        _engine?.AddTo(command);
    }

    /// <summary>Loads the model with its engine, with a progress bar where a person is watching.</summary>
    /// <param name="parsed">The command line.</param>
    /// <param name="streams">For the bar.</param>
    /// <param name="cancellation">Stops the loading.</param>
    /// <param name="further">What other flags add to the options.</param>
    public async Task<QwenEngine> LoadEngineAsync(ParseResult parsed, Streams streams, CancellationToken cancellation, Func<EngineOptions, EngineOptions>? further = null)
    {
        QwenEngine engine = await LoadAsync(parsed, streams, (path, options, progress) => QwenEngine.LoadAsync(path, further?.Invoke(options) ?? options, progress, cancellation)).ConfigureAwait(false);
        await streams.NoteAsync($"{engine.Model.Placement}\n").ConfigureAwait(false);
        return engine;
    }

    /// <summary>Loads the model alone.</summary>
    public Task<LoadedModel> LoadModelAsync(ParseResult parsed, Streams streams, CancellationToken cancellation, bool profile = false) =>
        LoadAsync(parsed, streams, (path, options, progress) => Task.Run(() => LoadedModel.Load(path, options with { Profile = profile }, progress, cancellation), cancellation));

    private async Task<T> LoadAsync<T>(ParseResult parsed, Streams streams, Func<string?, EngineOptions, IProgress<LoadProgress>?, Task<T>> load)
    {
        string? path = ReadPath(parsed.GetValue(_model));
        EngineOptions options = Read(parsed);
        options = _engine?.Apply(parsed, options) ?? options;
        try
        {
            if (!streams.IsWatched)
                return await load(path, options, null).ConfigureAwait(false);
            IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(streams.Error) });
            return await console.Progress().AutoClear(true).StartAsync(context => load(path, options, new Bar(context.AddTask("loading", maxValue: 1)))).ConfigureAwait(false);
        }
        catch (DeviceException e)
        {
            throw new ArgumentException($"--device {parsed.GetValue(_device)}, --gpu-layers {parsed.GetValue(_gpuLayers)}: {e.Message}", e);
        }
        catch (ArgumentOutOfRangeException e) when (Flags.TryGetValue(e.ParamName ?? "", out string? flag))
        {
            throw new ArgumentException($"{flag}: {e.ActualValue} {e.Message[..e.Message.IndexOf(" (Parameter", StringComparison.Ordinal)]}");
        }
    }

    private EngineOptions Read(ParseResult parsed) => new()
    {
        MaxModelLength = parsed.GetValue(_maxModelLength),
        MaxSequences = parsed.GetValue(_maxSequences),
        MaxBatchedTokens = parsed.GetValue(_maxBatchedTokens) ?? Math.Max(Defaults.MaxBatchedTokens, parsed.GetValue(_maxSequences)),
        KvCacheType = parsed.GetValue(_cacheType) switch
        {
            "auto" or "f16" or "float16" => KvCacheType.F16,
            "bf16" or "bfloat16" => KvCacheType.BF16,
            "f32" or "float32" => KvCacheType.F32,
            "int8" => KvCacheType.Int8,
            "fp8" or "fp8_e4m3" => KvCacheType.F8_E4M3,
            "fp8_e5m2" => KvCacheType.F8_E5M2,
            string other => throw new ArgumentException($"--kv-cache-dtype: '{other}' is not known; known are auto, f16, bf16, f32, int8, fp8, fp8_e4m3, fp8_e5m2."),
            null => Defaults.KvCacheType,
        },
        KvCacheBytes = parsed.GetValue(_cacheBytes) is { } bytes ? Bytes("--kv-cache-memory", bytes) : null,
        BlockSize = parsed.GetValue(_blockSize),
        Device = Device(parsed.GetRequiredValue(_device)),
        GpuLayers = parsed.GetRequiredValue(_gpuLayers) switch
        {
            "auto" => null,
            "all" => int.MaxValue,
            string text when int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int layers) => layers,
            string other => throw new ArgumentException($"--gpu-layers: '{other}' is no number of layers; give one, auto or all."),
        },
        GpuMemoryUtilization = parsed.GetValue(_gpuMemory),
        GpuPrecision = parsed.GetValue(_dtype) switch
        {
            "auto" => GpuPrecision.Auto,
            "bfloat16" or "bf16" => GpuPrecision.BFloat16,
            "float16" or "f16" or "half" => GpuPrecision.Float16,
            string other => throw new ArgumentException($"--dtype: '{other}' is not known; known are auto, bfloat16, float16."),
            null => Defaults.GpuPrecision,
        },
        Threads = parsed.GetValue(_threads),
        RopeScaling = parsed.GetValue(_rope) is { } rope ? RopeScaling.Parse(JsonObject.Create(JsonLines.ParseObject(rope, "--rope-scaling")), "--rope-scaling") : null,
        ChatTemplate = parsed.GetValue(_template) is { } file ? File.ReadAllText(file) : null,
    };

    private static ComputeDevice Device(string text)
    {
        try
        {
            return ComputeDevice.Parse(text);
        }
        catch (FormatException e)
        {
            throw new ArgumentException($"--device: {e.Message}");
        }
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
