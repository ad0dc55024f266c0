using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Threading.Tasks.Sources;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>What the loop adds to an answer: a token, the reason why it ends, or both.</summary>
/// <param name="Answer">Which of the request's answers.</param>
/// <param name="Token">The token, if there is one.</param>
/// <param name="Reason">Set at the end of the answer, and only there.</param>
internal readonly record struct AnswerPart(int Answer, GeneratedToken? Token, FinishReason? Reason);

/// <summary>
/// The tokens of a request's answers on their way from the loop thread to the one reader. Writing allocates nothing once the buffer has
/// grown to the reader's lag, and never runs the reader's code: the reader is woken on the thread pool.
/// </summary>
/// <remarks>The loop pauses a request whose reader lags too far behind (<see cref="EngineOptions.MaxUnreadTokens"/>), so the buffer is bounded.</remarks>
internal sealed class TokenStream : IValueTaskSource, IThreadPoolWorkItem
{
    private readonly Lock _lock = new();
    private AnswerPart[] _unread = new AnswerPart[16];
    private int _count;
    private bool _readerWaits;
    private Exception? _error;
    private ManualResetValueTaskSourceCore<bool> _wake;

    /// <summary>Parts the reader has yet to take.</summary>
    public int Unread => Volatile.Read(ref _count);

    /// <summary>Adds a part.</summary>
    public void Write(in AnswerPart part)
    {
        bool wake;
        lock (_lock)
        {
            if (_count == _unread.Length)
                Array.Resize(ref _unread, _count * 2);
            _unread[_count++] = part;
            wake = TakeWaiter();
        }

        Wake(wake);
    }

    /// <summary>Ends the stream with an error, which the reader gets after what was written.</summary>
    public void Fail(Exception error)
    {
        bool wake;
        lock (_lock)
        {
            _error = error;
            wake = TakeWaiter();
        }

        Wake(wake);
    }

    /// <summary>Waits until there are parts.</summary>
    /// <exception cref="Exception">The stream's error, once all parts are read.</exception>
    public ValueTask WaitAsync()
    {
        lock (_lock)
        {
            if (_count > 0)
                return ValueTask.CompletedTask;
            if (_error is not null)
                return ValueTask.FromException(_error);
            _wake.Reset();
            _readerWaits = true;
            return new ValueTask(this, _wake.Version);
        }
    }

    /// <summary>Moves all unread parts to <paramref name="destination"/>.</summary>
    public void Read(List<AnswerPart> destination)
    {
        lock (_lock)
        {
            CollectionsMarshal.SetCount(destination, _count);
            _unread.AsSpan(0, _count).CopyTo(CollectionsMarshal.AsSpan(destination));
            _count = 0;
        }
    }

    void IThreadPoolWorkItem.Execute() => _wake.SetResult(true);

    void IValueTaskSource.GetResult(short token)
    {
        _wake.GetResult(token);
        lock (_lock)
        {
            if (_count == 0 && _error is not null)
                ExceptionDispatchInfo.Throw(_error);
        }
    }

    ValueTaskSourceStatus IValueTaskSource.GetStatus(short token) => _wake.GetStatus(token);

    void IValueTaskSource.OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
        _wake.OnCompleted(continuation, state, token, flags);

    private bool TakeWaiter()
    {
        bool waits = _readerWaits;
        _readerWaits = false;
        return waits;
    }

    // Queues this object itself, so that waking a reader allocates nothing.
    private void Wake(bool wake)
    {
        if (wake)
            ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
    }
}
