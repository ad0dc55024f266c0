using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Runtime.CompilerServices;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Speculation;
using Qwen.Runtime.Templates;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Engine;

/// <summary>
/// A Qwen model that answers. Any number of requests may run at once, from any thread; they share each step of the network. On the
/// CPU an answer depends on its request alone, bit for bit, never on what else is running.
/// </summary>
/// <example>
/// <code>
/// await using var engine = await QwenEngine.LoadAsync("models/Qwen2.5-0.5B-Instruct");
/// await foreach (var chunk in engine.ChatAsync("What is a KV cache?"))
///     Console.Write(chunk.Text);
/// </code>
/// </example>
public sealed class QwenEngine : IAsyncDisposable, IDisposable
{
    private static readonly TimeSpan DrainReview = TimeSpan.FromMilliseconds(20);

    private readonly EngineLoop _loop;
    private readonly EngineMetrics _metrics;

    private QwenEngine(LoadedModel model, IDrafter? drafter)
    {
        Model = model;
        EngineOptions options = model.Options;
        EngineLoop? loop = null;
        _metrics = new EngineMetrics(() => loop!.Statistics, () => loop!.Health.IsReady, model.MaxModelLength, options.Speculation?.Tokens ?? 0, options.Clock);
        var pool = new BlockPool(model.KvBlocks, model.BlockSize, options.EnablePrefixCaching);
        var steps = new StepMeter(options.Clock, model.WeightBytesPerToken, model.KvBytesPerToken);
        _loop = loop = new EngineLoop(new EngineCore(new ModelRunner(model), model.Tokenizer.VocabularySize, pool, options, steps, _metrics, drafter), options);
        Prefixes = new PrefixStore(model, _loop);
    }

    /// <summary>The model that computes.</summary>
    public LoadedModel Model { get; }

    /// <summary>Prefixes that stay in the cache.</summary>
    public PrefixStore Prefixes { get; }

    /// <summary>What the engine is doing.</summary>
    public EngineStatistics Statistics => _loop.Statistics;

    /// <summary>Whether the engine answers: its thread lives, and no step takes longer than <see cref="EngineOptions.StuckAfter"/>.</summary>
    public EngineHealth Health => _loop.Health;

    /// <summary>The engine's own instruments, named as vLLM's metrics are, with a dot for the colon; spans come from the <see cref="System.Diagnostics.ActivitySource"/> of the same name.</summary>
    public Meter Meter => _metrics.Meter;

    /// <summary>Loads a model on another thread.</summary>
    /// <param name="path">A directory in Hugging Face layout, a <c>.gguf</c> file, or <c>synthetic:shape[:format]</c>; null for the demo model.</param>
    /// <param name="options">How; null for the defaults.</param>
    /// <param name="progress">Told of each stage.</param>
    /// <param name="cancellation">Stops the loading.</param>
    /// <exception cref="Formats.ModelFormatException">The files are damaged or of a kind that is not supported.</exception>
    /// <exception cref="IOException">They can't be read.</exception>
    public static Task<QwenEngine> LoadAsync(string? path = null, EngineOptions? options = null, IProgress<LoadProgress>? progress = null, CancellationToken cancellation = default) =>
        Task.Run(() => Load(path, options, progress, cancellation), cancellation);

    /// <summary>Loads a model on this thread.</summary>
    /// <inheritdoc cref="LoadAsync"/>
    public static QwenEngine Load(string? path = null, EngineOptions? options = null, IProgress<LoadProgress>? progress = null, CancellationToken cancellation = default) =>
        Create(LoadedModel.Load(path, options, progress, cancellation), progress, cancellation);

    /// <summary>Continues a prompt.</summary>
    /// <param name="prompt">Token ids.</param>
    /// <param name="options">How to sample; null for the model's defaults.</param>
    /// <param name="request">How to treat the request; null for the defaults.</param>
    /// <param name="cancellation">Takes effect before the next step and frees the sequence.</param>
    /// <returns>The answers in pieces; the last one of each has the finish reason. To stop reading is to cancel.</returns>
    /// <exception cref="InvalidRequestException">The prompt is empty, too long, or holds an id outside the vocabulary.</exception>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    /// <exception cref="EngineOverloadedException">The queue is full.</exception>
    /// <exception cref="EngineUnavailableException">The engine is being drained, or has failed.</exception>
    /// <exception cref="RequestTimeoutException">The request's time is over.</exception>
    /// <exception cref="SlowReaderException">The reader paused for too long.</exception>
    /// <exception cref="NonFiniteLogitException">The network gave NaN or infinity: the weights are damaged or overflow.</exception>
    public IAsyncEnumerable<GenerationChunk> GenerateAsync(
        IReadOnlyList<int> prompt, SamplingOptions? options = null, RequestOptions? request = null, CancellationToken cancellation = default)
    {
        SamplingParameters sampling = (options ?? new SamplingOptions()).Resolve(Model.Defaults, Model.Tokenizer.VocabularySize);
        RequestOptions treatment = (request ?? new RequestOptions()).Validated();
        Model.CheckPrompt(prompt);
        if (sampling.BestOf > Model.Options.MaxSequences)
            throw new ArgumentException($"n: {sampling.BestOf} answers at once are more than the {Model.Options.MaxSequences} sequences that may run.");
        if (sampling.BestOf == sampling.N)
            return StreamAsync(prompt, sampling, treatment, cancellation);
        SamplingParameters scored = sampling with { Logprobs = sampling.Logprobs ?? 0 };
        return BestAnswers.SelectAsync(StreamAsync(prompt, scored, treatment, cancellation), sampling.BestOf, sampling.N, sampling.Logprobs is not null);
    }

    /// <summary>Continues a text.</summary>
    /// <param name="prompt">The text.</param>
    /// <param name="options">How to sample; null for the model's defaults.</param>
    /// <param name="request">How to treat the request; null for the defaults.</param>
    /// <param name="parsing">Which added tokens written out in the text become tokens; control tokens only with <see cref="AddedTokenParsing.All"/>.</param>
    /// <param name="cancellation">Takes effect before the next step and frees the sequence.</param>
    /// <inheritdoc cref="GenerateAsync(IReadOnlyList{int}, SamplingOptions?, RequestOptions?, CancellationToken)"/>
    public IAsyncEnumerable<GenerationChunk> GenerateAsync(
        string prompt, SamplingOptions? options = null, RequestOptions? request = null, AddedTokenParsing parsing = AddedTokenParsing.UserDefined, CancellationToken cancellation = default) =>
        GenerateAsync(Model.Tokenizer.EncodeToIds(prompt, parsing), options, request, cancellation);

    /// <summary>Answers a conversation, put into the model's own format by its chat template.</summary>
    /// <param name="chat">Messages and tools. Their text never becomes a control token.</param>
    /// <param name="options">How to sample; null for the model's defaults.</param>
    /// <param name="request">How to treat the request; null for the defaults.</param>
    /// <param name="cancellation">Takes effect before the next step and frees the sequence.</param>
    /// <exception cref="TemplateException">The template refuses the messages.</exception>
    /// <inheritdoc cref="GenerateAsync(IReadOnlyList{int}, SamplingOptions?, RequestOptions?, CancellationToken)"/>
    public IAsyncEnumerable<GenerationChunk> ChatAsync(ChatRequest chat, SamplingOptions? options = null, RequestOptions? request = null, CancellationToken cancellation = default) =>
        GenerateAsync(EncodeChat(chat), options, request, cancellation);

    /// <summary>Answers one message.</summary>
    /// <inheritdoc cref="ChatAsync(ChatRequest, SamplingOptions?, RequestOptions?, CancellationToken)"/>
    public IAsyncEnumerable<GenerationChunk> ChatAsync(string userMessage, SamplingOptions? options = null, RequestOptions? request = null, CancellationToken cancellation = default) =>
        ChatAsync(ChatRequest.FromUser(userMessage), options, request, cancellation);

    /// <summary>The prompt of a conversation as token ids.</summary>
    /// <exception cref="TemplateException">The template refuses the messages.</exception>
    public IReadOnlyList<int> EncodeChat(ChatRequest request) => Model.Tokenizer.EncodeToIds(Model.Template.Render(request.Variables()));

    /// <summary>Takes no more requests, and waits until those it has are answered. The engine can't be put to use again.</summary>
    /// <param name="timeout">Most to wait; what still runs then goes on until the engine is disposed.</param>
    /// <param name="cancellation">Stops waiting.</param>
    /// <returns>True if nothing is left.</returns>
    public async Task<bool> DrainAsync(TimeSpan timeout, CancellationToken cancellation = default)
    {
        _loop.Drain();
        long start = Stopwatch.GetTimestamp();
        while (Statistics is { Running: > 0 } or { Waiting: > 0 })
        {
            TimeSpan left = timeout - Stopwatch.GetElapsedTime(start);
            if (left <= TimeSpan.Zero)
                return false;
            await Task.Delay(left < DrainReview ? left : DrainReview, cancellation).ConfigureAwait(false);
        }

        return true;
    }

    /// <summary>Ends all requests, then frees the model.</summary>
    public void Dispose()
    {
        _loop.Dispose();
        Prefixes.Dispose();
        _metrics.Dispose();
        Model.Dispose();
    }

    /// <inheritdoc cref="Dispose"/>
    public ValueTask DisposeAsync() => new(Task.Run(Dispose));

    /// <summary>An engine of a model that is loaded, which it takes over.</summary>
    internal static QwenEngine Create(LoadedModel model, IProgress<LoadProgress>? progress = null, CancellationToken cancellation = default)
    {
        try
        {
            return new QwenEngine(model, model.Options.Speculation switch
            {
                null => null,
                { DraftModel: null } lookup => new NGramDrafter(lookup),
                { } speculation => ModelDrafter.Load(model, speculation, progress, cancellation),
            });
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    private async IAsyncEnumerable<GenerationChunk> StreamAsync(
        IReadOnlyList<int> prompt, SamplingParameters sampling, RequestOptions options, [EnumeratorCancellation] CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        var request = new Request(prompt, sampling, options, Model.MaxModelLength, Model.EosTokenIds, _loop.Pool);
        var reader = new AnswerReader(request, Model.Tokenizer, Model.Options.Clock);
        _loop.Submit(request);
        Activity? span = EngineMetrics.StartSpan(request, Model.Name);
        Exception? error = null;
        try
        {
            using CancellationTokenRegistration registration = cancellation.UnsafeRegister(_ => _loop.Cancel(request, cancellation), null);
            while (reader.IsOpen)
            {
                try
                {
                    await request.Stream.WaitAsync().ConfigureAwait(false);
                }
                catch (Exception e) when (Note(e))
                {
                    throw;
                }

                bool wasFull = request.Stream.Unread >= Model.Options.MaxUnreadTokens;
                foreach (GenerationChunk piece in reader.Read())
                    yield return piece;
                if (wasFull)
                    _loop.Wake();
            }
        }
        finally
        {
            _loop.Cancel(request, CancellationToken.None); // to stop reading is to cancel
            if (span is not null)
                _metrics.EndSpan(span, request, error);
        }

        bool Note(Exception e)
        {
            error = e;
            return true;
        }
    }
}
