using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using System.Threading.Tasks.Sources;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>
/// The tokens of one answer on their way from the loop thread to the one reader of the stream. Writing allocates nothing once the
/// buffer has grown to the reader's lag, and never runs the reader's code: the reader is woken on the thread pool.
/// </summary>
internal sealed class TokenStream : IValueTaskSource, IThreadPoolWorkItem
{
    private readonly Lock _lock = new();
    private GeneratedToken[] _unread = new GeneratedToken[16];
    private int _count;
    private bool _readerWaits;
    private FinishReason? _reason;
    private Exception? _error;
    private ManualResetValueTaskSourceCore<bool> _wake;

    /// <summary>Adds a token.</summary>
    public void Write(in GeneratedToken token)
    {
        bool wake;
        lock (_lock)
        {
            Add(token);
            wake = TakeWaiter();
        }

        Wake(wake);
    }

    /// <summary>Ends the stream, with a last token or without.</summary>
    public void Complete(FinishReason reason, GeneratedToken? last = null)
    {
        bool wake;
        lock (_lock)
        {
            if (last is { } token)
                Add(token);
            _reason = reason;
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

    /// <summary>Waits until there are tokens, or the stream has ended.</summary>
    /// <exception cref="Exception">The stream's error, once all tokens are read.</exception>
    public ValueTask WaitAsync()
    {
        lock (_lock)
        {
            if (_count > 0 || _reason is not null)
                return ValueTask.CompletedTask;
            if (_error is not null)
                return ValueTask.FromException(_error);
            _wake.Reset();
            _readerWaits = true;
            return new ValueTask(this, _wake.Version);
        }
    }

    /// <summary>Moves all unread tokens to <paramref name="destination"/>; the reason, if the stream ended with them.</summary>
    public FinishReason? Read(List<GeneratedToken> destination)
    {
        lock (_lock)
        {
            CollectionsMarshal.SetCount(destination, _count);
            _unread.AsSpan(0, _count).CopyTo(CollectionsMarshal.AsSpan(destination));
            _count = 0;
            return _reason;
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

    private void Add(in GeneratedToken token)
    {
        if (_count == _unread.Length)
            Array.Resize(ref _unread, _count * 2);
        _unread[_count++] = token;
    }

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
