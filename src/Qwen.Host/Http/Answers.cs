using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Http;

/// <summary>The answers of one request, which run side by side in the engine and are read together as their pieces come.</summary>
internal sealed class Answers : IAsyncDisposable
{
    private readonly CancellationTokenSource _stop;
    private readonly IAsyncEnumerator<GenerationChunk>[] _readers;
    private readonly Task<bool>?[] _next; // null where the prompt's answers have ended
    private readonly Usage[] _usage;
    private readonly int _perPrompt;

    private Answers(IEnumerable<IAsyncEnumerable<GenerationChunk>> answers, int perPrompt, CancellationTokenSource stop)
    {
        _stop = stop;
        _perPrompt = perPrompt;
        _readers = [.. answers.Select(a => a.GetAsyncEnumerator(CancellationToken.None))];
        _usage = new Usage[_readers.Length];
        _next = [.. _readers.Select(r => r.MoveNextAsync().AsTask())];
    }

    /// <summary>How many there are.</summary>
    public int Count => _readers.Length * _perPrompt;

    /// <summary>Tokens of all of them, so far.</summary>
    public Usage Usage => new(_usage.Sum(u => u.PromptTokens), _usage.Sum(u => u.CompletionTokens), _usage.Sum(u => u.CachedTokens));

    /// <summary>Submits all prompts.</summary>
    /// <param name="engine">What answers.</param>
    /// <param name="prompts">Token ids.</param>
    /// <param name="sampling">For each of them.</param>
    /// <param name="request">How to treat each of them.</param>
    /// <param name="promptField">The field that the prompts came from, for errors.</param>
    /// <param name="gone">The client has gone: ends all.</param>
    /// <param name="stopping">The server stops: ends all.</param>
    /// <exception cref="ApiException">The engine refuses a prompt or an option.</exception>
    /// <exception cref="EngineOverloadedException">The queue is full; none is left in it.</exception>
    public static async Task<Answers> StartAsync(
        QwenEngine engine, IReadOnlyList<IReadOnlyList<int>> prompts, SamplingOptions sampling, RequestOptions request, string promptField, CancellationToken gone, CancellationToken stopping)
    {
        var stop = CancellationTokenSource.CreateLinkedTokenSource(gone, stopping);
        var answers = new Answers([.. prompts.Select(prompt => Generate(engine, prompt, sampling, request, promptField, stop.Token))], sampling.N, stop);
        try
        {
            // A refusal by the queue is there at once; the first token is not waited for, so that a stream can begin before a long prompt is read.
            foreach (Task<bool>? first in answers._next)
            {
                if (first!.IsFaulted)
                    await first.ConfigureAwait(false);
            }

            return answers;
        }
        catch
        {
            await answers.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>The next piece of any answer, with the answer's index; null when all have ended.</summary>
    public async ValueTask<(int Index, GenerationChunk Chunk)?> NextAsync()
    {
        while (true)
        {
            int i = 0;
            if (_next.Length > 1)
            {
                Task<bool>[] running = [.. _next.OfType<Task<bool>>()];
                if (running.Length == 0)
                    return null;
                i = Array.IndexOf(_next, await Task.WhenAny(running).ConfigureAwait(false));
            }
            else if (_next[0] is null)
            {
                return null;
            }

            if (!await _next[i]!.ConfigureAwait(false))
            {
                _next[i] = null;
                continue;
            }

            GenerationChunk chunk = _readers[i].Current;
            _usage[i] = chunk.Usage;
            _next[i] = _readers[i].MoveNextAsync().AsTask();
            return ((i * _perPrompt) + chunk.Index, chunk);
        }
    }

    /// <summary>Ends what still runs, and waits until the engine has let go of it.</summary>
    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync().ConfigureAwait(false);
        for (int i = 0; i < _readers.Length; i++)
        {
            if (_next[i] is Task next)
                await next.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await _readers[i].DisposeAsync().ConfigureAwait(false);
        }

        _stop.Dispose();
    }

    private static IAsyncEnumerable<GenerationChunk> Generate(QwenEngine engine, IReadOnlyList<int> prompt, SamplingOptions sampling, RequestOptions request, string promptField, CancellationToken cancellation)
    {
        try
        {
            return engine.GenerateAsync(prompt, sampling, request, cancellation);
        }
        catch (ArgumentException e)
        {
            throw ApiException.Of(e, promptField, prompt.Count >= engine.Model.MaxModelLength);
        }
    }
}
