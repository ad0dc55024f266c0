using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Engine;

/// <summary>The thread that owns the core: the network, the cache and the scheduler. Requests come in by a queue; tokens leave by their streams.</summary>
internal sealed class EngineLoop : IDisposable
{
    // So many steps that throw one after the other are no longer the requests' fault.
    private const int MostFailedSteps = 3;

    // How often readers and timeouts are looked after while there is nothing to compute.
    private static readonly TimeSpan IdleReview = TimeSpan.FromMilliseconds(20);

    private readonly EngineCore _core;
    private readonly EngineOptions _options;
    private readonly Lock _lock = new(); // of the fields below it
    private readonly Queue<Request> _inbox = new();
    private readonly Queue<LoopCommand> _commands = new();
    private EngineStatistics _statistics;
    private TimeSpan _endInterval;
    private int _failedSteps;
    private EngineState _state;
    private Exception? _error;
    private readonly AutoResetEvent _wake = new(false);
    private readonly Thread _thread;
    private long _stepStart; // 0 between steps
    private volatile bool _stopping;

    /// <summary>Starts the thread.</summary>
    /// <param name="core">What it runs; disposed with the loop.</param>
    /// <param name="options">Bounds and clock.</param>
    public EngineLoop(EngineCore core, EngineOptions options)
    {
        _core = core;
        _options = options;
        _statistics = core.Statistics;
        _thread = new Thread(Run) { IsBackground = true, Name = "qwen-engine" };
        _thread.Start();
    }

    public BlockPool Pool => _core.Pool;

    /// <summary>As it was after the last step.</summary>
    public EngineStatistics Statistics
    {
        get
        {
            lock (_lock)
                return _statistics with { Waiting = _statistics.Waiting + _inbox.Count };
        }
    }

    /// <summary>How it is: a step that takes too long is reported while it does (a watchdog without a thread of its own).</summary>
    public EngineHealth Health
    {
        get
        {
            long start = Volatile.Read(ref _stepStart);
            TimeSpan step = start == 0 ? TimeSpan.Zero : _options.Clock.GetElapsedTime(start);
            lock (_lock)
            {
                EngineState state = _state > EngineState.Draining ? _state
                    : step > _options.StuckAfter ? EngineState.Stuck
                    : _failedSteps >= MostFailedSteps ? EngineState.Failing
                    : _state;
                return new EngineHealth(state, step, _error);
            }
        }
    }

    /// <summary>Hands a request to the loop.</summary>
    /// <exception cref="EngineOverloadedException">Too many wait already.</exception>
    /// <exception cref="EngineUnavailableException">The engine is drained or has failed.</exception>
    /// <exception cref="ObjectDisposedException">The engine was disposed.</exception>
    public void Submit(Request request)
    {
        lock (_lock)
        {
            CheckRuns();
            if (_state == EngineState.Draining)
                throw new EngineUnavailableException("The engine finishes what it has and takes no more requests.");
            int waiting = _statistics.Waiting + _inbox.Count;
            int places = _statistics.Waiting > 0 ? 0 : Math.Max(_options.MaxSequences - _statistics.Running, 0);
            if (waiting >= _options.MaxQueue + places)
                throw new EngineOverloadedException($"{waiting - places} requests are waiting, the most that may; try again later.", _endInterval);
            request.SubmittedAt = _options.Clock.GetTimestamp();
            _inbox.Enqueue(request);
        }

        _wake.Set();
    }

    /// <summary>Takes a request out before the next step.</summary>
    public void Cancel(Request request, CancellationToken cancellation)
    {
        request.Cancel(cancellation);
        _wake.Set();
    }

    /// <summary>Has the loop look after its requests, where it has nothing to compute.</summary>
    public void Wake() => _wake.Set();

    /// <summary>Runs a function on the loop's thread between two steps: what it does with the core and the cache is safe there.</summary>
    public Task<T> RunAsync<T>(Func<EngineCore, T> function)
    {
        var command = new LoopCommand<T>(function);
        lock (_lock)
        {
            CheckRuns();
            _commands.Enqueue(command);
        }

        _wake.Set();
        return command.Task;
    }

    /// <summary>Takes no more requests.</summary>
    public void Drain()
    {
        lock (_lock)
        {
            if (_state == EngineState.Ready)
                _state = EngineState.Draining;
        }
    }

    /// <summary>Ends the thread after its step, and every request with an <see cref="ObjectDisposedException"/>.</summary>
    public void Dispose()
    {
        if (_stopping)
            return;
        _stopping = true;
        _wake.Set();
        _thread.Join();
        _core.Dispose();
    }

    private void Run()
    {
        Exception? error = null;
        try
        {
            while (!_stopping)
            {
                TakeIn();
                bool stepped = false;
                if (_core.HasWork)
                {
                    Volatile.Write(ref _stepStart, _options.Clock.GetTimestamp());
                    stepped = _core.Step();
                    Volatile.Write(ref _stepStart, 0);
                }

                Publish();
                if (!stepped && IsIdle())
                    _wake.WaitOne(_core.HasWork ? IdleReview : Timeout.InfiniteTimeSpan);
            }
        }
#pragma warning disable CA1031 // What a step throws is dealt with there; anything else is a fault of the engine, and told to all that use it.
        catch (Exception e)
#pragma warning restore CA1031
        {
            error = e;
        }

        Close(error);
    }

    private void TakeIn()
    {
        while (true)
        {
            LoopCommand? command;
            lock (_lock)
            {
                while (_inbox.TryDequeue(out Request? request))
                    _core.Add(request);
                _statistics = _core.Statistics; // so that what was taken in still counts as waiting
                if (!_commands.TryDequeue(out command))
                    return;
            }

            command.Run(_core);
        }
    }

    private void Publish()
    {
        lock (_lock)
        {
            _statistics = _core.Statistics;
            _endInterval = _core.EndInterval;
            _failedSteps = _core.FailedSteps;
        }
    }

    private bool IsIdle()
    {
        lock (_lock)
            return _inbox.Count + _commands.Count == 0 && !_stopping;
    }

    private void Close(Exception? error)
    {
        Exception reason;
        lock (_lock)
        {
            (_state, _error) = (error is null ? EngineState.Stopped : EngineState.Failed, error);
            reason = error is null ? Disposed() : Failed();
            while (_inbox.TryDequeue(out Request? request))
                _core.Add(request);
            while (_commands.TryDequeue(out LoopCommand? command))
                command.Fail(reason);
        }

        _core.EndAll(reason);
        Publish();
    }

    private void CheckRuns()
    {
        if (_state == EngineState.Failed)
            throw Failed();
        if (_stopping || _state == EngineState.Stopped)
            throw Disposed();
    }

    private static ObjectDisposedException Disposed() => new(nameof(QwenEngine), "The engine was disposed.");

    private EngineUnavailableException Failed() => new($"The engine has failed: {_error!.Message}", _error);
}
