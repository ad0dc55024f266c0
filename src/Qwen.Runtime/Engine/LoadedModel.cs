using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Templates;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Engine;

/// <summary>A model ready to compute: its files, its network on a backend, and its KV cache. Disposing it unmaps the files.</summary>
public sealed class LoadedModel : IDisposable
{
    private readonly ModelDevices _devices;

    private LoadedModel(Checkpoint checkpoint, EngineOptions options, IProgress<LoadProgress>? progress, CancellationToken cancellation)
    {
        Checkpoint = checkpoint;
        Options = options;
        Config = ModelConfig.Load(checkpoint);
        if (options.RopeScaling is { } scaling)
            Config = Config with { RopeScaling = scaling };
        Tokenizer = ModelFiles.LoadTokenizer(checkpoint);
        if (Tokenizer.VocabularySize > Config.VocabularySize)
            throw new ModelFormatException(checkpoint.Path, $"the tokenizer has {Tokenizer.VocabularySize} tokens, the embedding {Config.VocabularySize} rows");
        Template = options.ChatTemplate is { } source
            ? ModelFiles.ParseTemplate(source, "chat template", Tokenizer)
            : ModelFiles.LoadTemplate(checkpoint, Tokenizer);
        Defaults = ModelFiles.LoadDefaults(checkpoint);
        EosTokenIds = EndOfSequence(Config, Defaults, Tokenizer);
        cancellation.ThrowIfCancellationRequested();

        _devices = new ModelDevices(checkpoint, Config, options);
        try
        {
            IProgress<double>? layers = progress is null ? null : new Stage(progress, "loading weights", cancellation);
            Network = new QwenModel(checkpoint, Config, _devices.Placement, options.MaxBatchedTokens, options.MaxLogitRows, MaxModelLength, layers);
            Cache = Network.AllocateCache(options.KvCacheType, KvBlocks, options.BlockSize);
        }
        catch
        {
            Network?.Dispose();
            _devices.Dispose();
            throw;
        }
    }

    /// <summary>Where the model came from, as it was given.</summary>
    public string Path => Checkpoint.Path;

    /// <summary>A short name: the directory's or the file's.</summary>
    public string Name => System.IO.Path.GetFileNameWithoutExtension(System.IO.Path.TrimEndingDirectorySeparator(Path)) is { Length: > 0 } name ? name : Path;

    /// <summary>The files of weights.</summary>
    public Checkpoint Checkpoint { get; }

    /// <summary>The hyperparameters, with the options' rotary scaling.</summary>
    public ModelConfig Config { get; }

    /// <summary>The options it was loaded with.</summary>
    public EngineOptions Options { get; }

    /// <summary>The tokenizer.</summary>
    public QwenTokenizer Tokenizer { get; }

    /// <summary>The chat template.</summary>
    public ChatTemplate Template { get; }

    /// <summary>Sampling defaults of the model's makers.</summary>
    public GenerationDefaults Defaults { get; }

    /// <summary>Every token that ends an answer: those of the config, of generation_config.json and Qwen's own two.</summary>
    public IReadOnlySet<int> EosTokenIds { get; }

    /// <summary>Longest sequence, prompt and answer together.</summary>
    public int MaxModelLength => _devices.Plan.MaxModelLength;

    /// <summary>Blocks of the KV cache.</summary>
    public int KvBlocks => _devices.Plan.KvBlocks;

    /// <summary>Tokens per block.</summary>
    public int BlockSize => Options.BlockSize;

    /// <summary>Bytes of keys and values of one token, over all layers.</summary>
    public long KvBytesPerToken => _devices.Plan.KvBytesPerToken;

    /// <summary>Bytes of weights that one decoded token reads.</summary>
    public long WeightBytesPerToken => Network.WeightBytesPerToken;

    /// <summary>What computes, for people.</summary>
    public string BackendName => _devices.Name;

    /// <summary>What was placed where, with the GPU's sums: a line for people.</summary>
    public string Placement => _devices.Description;

    /// <summary>Bytes taken on a GPU; null where there is none.</summary>
    public GpuSums? GpuMemory => _devices.Plan.Gpu;

    /// <summary>CPU threads that compute.</summary>
    public int Threads => _devices.Threads;

    /// <summary>How long each op took, where <see cref="EngineOptions.Profile"/> asked for it; else null.</summary>
    public OpProfile? Profile => _devices.Profile;

    internal QwenModel Network { get; }

    internal KvCache Cache { get; }

    /// <summary>Loads a model.</summary>
    /// <param name="path">A directory in Hugging Face layout, a <c>.gguf</c> file, or <c>synthetic:shape[:format]</c>; null for the demo model.</param>
    /// <param name="options">How; null for the defaults.</param>
    /// <param name="progress">Told of each stage.</param>
    /// <param name="cancellation">Stops between layers.</param>
    /// <exception cref="ModelFormatException">The files are damaged or of a kind that is not supported.</exception>
    /// <exception cref="IOException">They can't be read.</exception>
    /// <exception cref="Native.Device.DeviceException">A GPU was asked for and there is none, or what was asked for does not fit on it.</exception>
    /// <exception cref="InvalidRequestException">The KV cache is too small for the sequences asked for.</exception>
    public static LoadedModel Load(string? path = null, EngineOptions? options = null, IProgress<LoadProgress>? progress = null, CancellationToken cancellation = default)
    {
        options = (options ?? new EngineOptions()).Validated();
        path ??= ModelFiles.DemoModel;
        Checkpoint checkpoint = Checkpoint.Open(path, progress is null ? null : new Stage(progress, "making weights", cancellation));
        try
        {
            return new LoadedModel(checkpoint, options, progress, cancellation);
        }
        catch
        {
            checkpoint.Dispose();
            throw;
        }
    }

    /// <summary>Reads a buffer larger than the caches: what the memory gives that the output projection lies in, in bytes per second.</summary>
    public double MeasureReadBandwidth() => _devices.MeasureReadBandwidth();

    /// <summary>Checks that a prompt can be read.</summary>
    /// <exception cref="InvalidRequestException">It is empty, too long, or holds an id outside the vocabulary.</exception>
    internal void CheckPrompt(IReadOnlyList<int> prompt)
    {
        if (prompt.Count == 0)
            throw new InvalidRequestException("The prompt is empty.");
        if (prompt.Count >= MaxModelLength)
            throw new InvalidRequestException($"The prompt has {prompt.Count} tokens; the model takes {MaxModelLength}, prompt and answer together.");
        for (int i = 0; i < prompt.Count; i++)
        {
            if ((uint)prompt[i] >= (uint)Tokenizer.VocabularySize)
                throw new InvalidRequestException($"Token {i} of the prompt, {prompt[i]}, is outside the vocabulary of {Tokenizer.VocabularySize}.");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Cache.Dispose();
        Network.Dispose();
        _devices.Dispose();
        Checkpoint.Dispose();
    }

    private static HashSet<int> EndOfSequence(ModelConfig config, GenerationDefaults defaults, QwenTokenizer tokenizer)
    {
        var ids = new HashSet<int>([.. config.EosTokenIds, .. defaults.EosTokenIds]);
        foreach (AddedToken token in tokenizer.AddedTokens)
        {
            if (token.IsControl && token.Text is "<|im_end|>" or "<|endoftext|>")
                ids.Add(token.Id);
        }

        return ids;
    }

    private sealed class Stage(IProgress<LoadProgress> progress, string name, CancellationToken cancellation) : IProgress<double>
    {
        public void Report(double value)
        {
            cancellation.ThrowIfCancellationRequested();
            progress.Report(new LoadProgress(name, value));
        }
    }
}
