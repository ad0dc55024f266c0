using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Http;

/// <summary>The answers of one request, which run side by side in the engine and are read together as their pieces come.</summary>
internal sealed class Answers : IAsyncDisposable
{
    private readonly CancellationTokenSource _stop;
    private readonly IAsyncEnumerator<GenerationChunk>[] _readers;
    private readonly Task<bool>?[] _next; // null where the answer has ended
    private readonly Usage[] _usage;

    private Answers(IEnumerable<IAsyncEnumerable<GenerationChunk>> answers, CancellationTokenSource stop)
    {
        _stop = stop;
        _readers = [.. answers.Select(a => a.GetAsyncEnumerator(CancellationToken.None))];
        _usage = new Usage[_readers.Length];
        _next = [.. _readers.Select(r => r.MoveNextAsync().AsTask())];
    }

    /// <summary>How many there are.</summary>
    public int Count => _readers.Length;

    /// <summary>Tokens of all of them, so far.</summary>
    public Usage Usage => new(_usage.Sum(u => u.PromptTokens), _usage.Sum(u => u.CompletionTokens));

    /// <summary>Submits all prompts.</summary>
    /// <param name="engine">What answers.</param>
    /// <param name="prompts">Token ids.</param>
    /// <param name="sampling">For each of them.</param>
    /// <param name="promptField">The field that the prompts came from, for errors.</param>
    /// <param name="cancellation">The client has gone: ends all.</param>
    /// <exception cref="ApiException">The engine refuses a prompt or an option.</exception>
    /// <exception cref="EngineOverloadedException">The queue is full; none is left in it.</exception>
    public static async Task<Answers> StartAsync(
        QwenEngine engine, IReadOnlyList<IReadOnlyList<int>> prompts, SamplingOptions sampling, string promptField, CancellationToken cancellation)
    {
        var stop = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var answers = new Answers([.. prompts.Select(prompt => Generate(engine, prompt, sampling, promptField, stop.Token))], stop);
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
            Task<bool>[] running = [.. _next.OfType<Task<bool>>()];
            if (running.Length == 0)
                return null;
            int i = Array.IndexOf(_next, await Task.WhenAny(running).ConfigureAwait(false));
            if (!await _next[i]!.ConfigureAwait(false))
            {
                _next[i] = null;
                continue;
            }

            GenerationChunk chunk = _readers[i].Current;
            _usage[i] = chunk.Usage;
            _next[i] = _readers[i].MoveNextAsync().AsTask();
            return (i, chunk);
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

    private static IAsyncEnumerable<GenerationChunk> Generate(QwenEngine engine, IReadOnlyList<int> prompt, SamplingOptions sampling, string promptField, CancellationToken cancellation)
    {
        try
        {
            return engine.GenerateAsync(prompt, sampling, cancellation: cancellation);
        }
        catch (InvalidRequestException e)
        {
            throw ApiException.Invalid(e.Message, promptField, prompt.Count >= engine.Model.MaxModelLength ? "context_length_exceeded" : null);
        }
        catch (ArgumentException e)
        {
            // An option out of range. The engine's options have the names they have here, and the message begins with the name.
            throw ApiException.Invalid(e.Message, e.Message.Split(':')[0], "invalid_value");
        }
    }
}
