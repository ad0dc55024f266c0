using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Qwen.Cpu;

/// <summary>A piece of work that can be split: <c>Execute</c> is called with disjoint ranges that cover <c>[0, count)</c>.</summary>
public interface IJob
{
    /// <summary>Does the items <c>[from, to)</c>. Runs on any thread; must not throw.</summary>
    /// <param name="from">First item.</param>
    /// <param name="to">One past the last item.</param>
    /// <param name="worker">0 .. Threads-1: which thread this is, for per-thread scratch memory.</param>
    void Execute(int from, int to, int worker);
}

/// <summary>
/// A fixed team of threads that runs one <see cref="IJob"/> at a time. The calling thread is worker 0.
/// Helpers spin for a while between jobs (ops of a decode step follow each other within microseconds) and park when none comes.
/// </summary>
/// <remarks>
/// Chunks of <c>grain</c> items are handed out by an atomic counter, and a helper joins a job only while it is open: the caller opens it,
/// works, closes it when no chunk is left and waits for those who joined. So a helper that the operating system delays holds nobody up
/// unless it holds a chunk. Which thread does an item must not change its result: kernels own whole output elements.
/// Running a job allocates nothing. <see cref="Run"/> is for one thread at a time: the engine's loop thread.
/// </remarks>
public sealed unsafe class WorkerPool : IDisposable
{
    private const int SpinsBeforePark = 500; // Of about 0.3 microseconds: longer than the gap between two ops of a step.

    private const long Open = 1L << 31; // Of the state: the bits below count who has joined, those above number the jobs.

    private readonly Thread[] _helpers;
    private readonly object _parking = new();
    private void* _job;
    private delegate*<void*, int, int, int, void> _execute;
    private int _count;
    private int _grain;
    private volatile bool _stopping;
    private PaddedCounter _state;
    private PaddedCounter _next;
    private PaddedCounter _parked;

    /// <summary>Starts the team.</summary>
    /// <param name="threads">Threads in all, the caller included; 0 for <see cref="DefaultThreads"/>.</param>
    /// <exception cref="ArgumentOutOfRangeException">Negative, or more than 1,024.</exception>
    public WorkerPool(int threads = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(threads);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(threads, 1024);
        Threads = threads == 0 ? DefaultThreads : threads;
        _helpers = new Thread[Threads - 1];
        for (int i = 0; i < _helpers.Length; i++)
        {
            int worker = i + 1;
            _helpers[i] = new Thread(() => Help(worker)) { IsBackground = true, Name = $"qwen-cpu-{worker}" };
            _helpers[i].Start();
        }
    }

    /// <summary>The processors this process may use: .NET counts the affinity mask and the container's CPU quota.</summary>
    public static int DefaultThreads => Environment.ProcessorCount;

    /// <summary>Threads in all, the caller included.</summary>
    public int Threads { get; }

    /// <summary>Runs the job over <c>[0, count)</c> in chunks of <paramref name="grain"/> items and returns when all are done.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The grain is not positive.</exception>
    /// <exception cref="ObjectDisposedException">The threads were ended.</exception>
    public void Run<TJob>(ref TJob job, int count, int grain = 1)
        where TJob : struct, IJob
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(grain);
        ObjectDisposedException.ThrowIf(_stopping, this);
        if (count <= 0)
            return;
        if (_helpers.Length == 0 || count <= grain)
        {
            job.Execute(0, count, 0);
            return;
        }

        // Pinned, should it lie in an object: helpers see it through a plain pointer.
        fixed (byte* pinned = &Unsafe.As<TJob, byte>(ref job))
        {
            _job = pinned;
            _execute = &Invoke<TJob>;
            _count = count;
            _grain = grain;
            _next.Value = 0;
            OpenJob();
            try
            {
                Work(0);
            }
            finally
            {
                CloseJob();
            }
        }
    }

    /// <summary>Ends the threads.</summary>
    public void Dispose()
    {
        _stopping = true;
        lock (_parking)
            Monitor.PulseAll(_parking);
        foreach (Thread helper in _helpers)
            helper.Join();
    }

    private static void Invoke<TJob>(void* job, int from, int to, int worker)
        where TJob : struct, IJob => Unsafe.AsRef<TJob>(job).Execute(from, to, worker);

    /// <summary>The number of the job, with whether it is open.</summary>
    private static long Number(long state) => state >> 31;

    private void OpenJob()
    {
        // Nobody changes a closed state: the caller waited for the last to leave.
        long number = _state.Value >> 32;
        Interlocked.Exchange(ref _state.Value, ((number + 1) << 32) | Open);

        // A full fence lies between the state and this look at the parked, and one between parking and its look at the state:
        // at least one of the two sees the other.
        if (Volatile.Read(ref _parked.Value) != 0)
        {
            lock (_parking)
                Monitor.PulseAll(_parking);
        }
    }

    private void CloseJob()
    {
        Interlocked.And(ref _state.Value, ~Open);
        SpinWait spin = default;
        while ((Volatile.Read(ref _state.Value) & (Open - 1)) != 0)
            spin.SpinOnce(sleep1Threshold: -1);
    }

    private void Work(int worker)
    {
        int grain = _grain, count = _count;
        while (true)
        {
            long from = Interlocked.Add(ref _next.Value, grain) - grain;
            if (from >= count)
                return;
            _execute(_job, (int)from, (int)Math.Min(from + grain, count), worker);
        }
    }

    private void Help(int worker)
    {
        long done = 0;
        while (AwaitJob(done))
        {
            long state = Volatile.Read(ref _state.Value);
            done = Number(state);
            while ((state & Open) != 0)
            {
                long seen = Interlocked.CompareExchange(ref _state.Value, state + 1, state);
                if (seen == state)
                {
                    // Joined: until this thread leaves, the job's fields stay as they are.
                    done = Number(state);
                    Work(worker);
                    Interlocked.Decrement(ref _state.Value);
                    break;
                }

                state = seen;
            }
        }
    }

    /// <summary>Waits until an open job other than the one done last is there; false when the pool stops.</summary>
    private bool AwaitJob(long done)
    {
        for (int i = 0; i < SpinsBeforePark; i++)
        {
            if (_stopping)
                return false;
            if (IsNew(done))
                return true;
            Thread.SpinWait(8);
        }

        Interlocked.Increment(ref _parked.Value);
        lock (_parking)
        {
            while (!_stopping && !IsNew(done))
                Monitor.Wait(_parking);
        }

        Interlocked.Decrement(ref _parked.Value);
        return !_stopping;
    }

    private bool IsNew(long done)
    {
        long state = Volatile.Read(ref _state.Value);
        return (state & Open) != 0 && Number(state) != done;
    }

    /// <summary>A counter alone on its cache lines, so that threads that spin on one do not slow writers of another.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 192)]
    private struct PaddedCounter
    {
        [FieldOffset(64)]
        public long Value;
    }
}
