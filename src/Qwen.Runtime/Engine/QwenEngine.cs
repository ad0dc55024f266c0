using System.Runtime.CompilerServices;
using System.Text;
using Qwen.Runtime.Sampling;
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
    private readonly EngineLoop _loop;

    private QwenEngine(LoadedModel model)
    {
        Model = model;
        _loop = new EngineLoop(model);
    }

    /// <summary>The model that computes.</summary>
    public LoadedModel Model { get; }

    /// <summary>What the engine is doing.</summary>
    public EngineStatistics Statistics => _loop.Statistics;

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
        new(LoadedModel.Load(path, options, progress, cancellation));

    /// <summary>Continues a prompt.</summary>
    /// <param name="prompt">Token ids.</param>
    /// <param name="options">How to sample; null for the model's defaults.</param>
    /// <param name="cancellation">Takes effect before the next step and frees the sequence.</param>
    /// <returns>The answer in pieces; the last one has the finish reason. To stop reading is to cancel.</returns>
    /// <exception cref="InvalidRequestException">The prompt is empty, too long, or holds an id outside the vocabulary.</exception>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    /// <exception cref="EngineOverloadedException">The queue is full.</exception>
    /// <exception cref="NonFiniteLogitException">The network gave NaN or infinity: the weights are damaged or overflow.</exception>
    public IAsyncEnumerable<GenerationChunk> GenerateAsync(IReadOnlyList<int> prompt, SamplingOptions? options = null, CancellationToken cancellation = default)
    {
        SamplingParameters sampling = (options ?? new SamplingOptions()).Resolve(Model.Defaults, Model.Tokenizer.VocabularySize);
        CheckPrompt(prompt);
        return StreamAsync(prompt, sampling, cancellation);
    }

    /// <summary>Continues a text.</summary>
    /// <param name="prompt">The text.</param>
    /// <param name="options">How to sample; null for the model's defaults.</param>
    /// <param name="parsing">Which added tokens written out in the text become tokens; control tokens only with <see cref="AddedTokenParsing.All"/>.</param>
    /// <param name="cancellation">Takes effect before the next step and frees the sequence.</param>
    /// <inheritdoc cref="GenerateAsync(IReadOnlyList{int}, SamplingOptions?, CancellationToken)"/>
    public IAsyncEnumerable<GenerationChunk> GenerateAsync(
        string prompt, SamplingOptions? options = null, AddedTokenParsing parsing = AddedTokenParsing.UserDefined, CancellationToken cancellation = default) =>
        GenerateAsync(Model.Tokenizer.EncodeToIds(prompt, parsing), options, cancellation);

    /// <summary>Answers a conversation, put into the model's own format by its chat template.</summary>
    /// <param name="request">Messages and tools. Their text never becomes a control token.</param>
    /// <param name="options">How to sample; null for the model's defaults.</param>
    /// <param name="cancellation">Takes effect before the next step and frees the sequence.</param>
    /// <exception cref="TemplateException">The template refuses the messages.</exception>
    /// <inheritdoc cref="GenerateAsync(IReadOnlyList{int}, SamplingOptions?, CancellationToken)"/>
    public IAsyncEnumerable<GenerationChunk> ChatAsync(ChatRequest request, SamplingOptions? options = null, CancellationToken cancellation = default) =>
        GenerateAsync(EncodeChat(request), options, cancellation);

    /// <summary>Answers one message.</summary>
    /// <inheritdoc cref="ChatAsync(ChatRequest, SamplingOptions?, CancellationToken)"/>
    public IAsyncEnumerable<GenerationChunk> ChatAsync(string userMessage, SamplingOptions? options = null, CancellationToken cancellation = default) =>
        ChatAsync(ChatRequest.FromUser(userMessage), options, cancellation);

    /// <summary>The prompt of a conversation as token ids.</summary>
    /// <exception cref="TemplateException">The template refuses the messages.</exception>
    public IReadOnlyList<int> EncodeChat(ChatRequest request) => Model.Tokenizer.EncodeToIds(Model.Template.Render(request.Variables()));

    /// <summary>Ends all requests, then frees the model.</summary>
    public void Dispose()
    {
        _loop.Dispose();
        Model.Dispose();
    }

    /// <inheritdoc cref="Dispose"/>
    public ValueTask DisposeAsync() => new(Task.Run(Dispose));

    private void CheckPrompt(IReadOnlyList<int> prompt)
    {
        if (prompt.Count == 0)
            throw new InvalidRequestException("The prompt is empty.");
        if (prompt.Count >= Model.MaxModelLength)
            throw new InvalidRequestException($"The prompt has {prompt.Count} tokens; the model takes {Model.MaxModelLength}, prompt and answer together.");
        for (int i = 0; i < prompt.Count; i++)
        {
            if ((uint)prompt[i] >= (uint)Model.Tokenizer.VocabularySize)
                throw new InvalidRequestException($"Token {i} of the prompt, {prompt[i]}, is outside the vocabulary of {Model.Tokenizer.VocabularySize}.");
        }
    }

    private async IAsyncEnumerable<GenerationChunk> StreamAsync(
        IReadOnlyList<int> prompt, SamplingParameters sampling, [EnumeratorCancellation] CancellationToken cancellation)
    {
        cancellation.ThrowIfCancellationRequested();
        var generation = new Generation(prompt, Model, _loop.Pool, sampling);
        var answer = new AnswerText(Model.Tokenizer, sampling);
        var tokens = new List<GeneratedToken>();
        int generated = 0;
        _loop.Submit(generation);
        using CancellationTokenRegistration registration = cancellation.UnsafeRegister(_ => _loop.Cancel(generation), null);
        try
        {
            while (true)
            {
                await generation.Stream.WaitAsync().ConfigureAwait(false);
                FinishReason? reason = generation.Stream.Read(tokens);
                if (reason == FinishReason.Cancelled)
                {
                    cancellation.ThrowIfCancellationRequested();
                    throw new ObjectDisposedException(nameof(QwenEngine), "The engine was disposed while it answered.");
                }

                string text = answer.Append(tokens, reason, out int used);
                generated += used;
                if (answer.IsStopped)
                    reason = FinishReason.Stop;
                if (text.Length > 0 || used > 0 || reason is not null)
                    yield return new GenerationChunk(text, [.. tokens.Take(used)], reason, new Usage(prompt.Count, generated));
                if (reason is not null)
                    yield break;
            }
        }
        finally
        {
            _loop.Cancel(generation);
        }
    }
}
