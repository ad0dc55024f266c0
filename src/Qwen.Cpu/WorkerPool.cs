using System.Runtime.CompilerServices;

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
/// Helpers spin for some microseconds between jobs (ops of a decode step follow each other that fast) and park when none comes.
/// </summary>
/// <remarks>
/// Chunks of <c>grain</c> items are handed out by an atomic counter, so a thread that the operating system delays holds nobody up.
/// Which thread does an item must not change its result: kernels own whole output elements. Running a job allocates nothing.
/// <see cref="Run"/> is for one thread at a time: the engine's loop thread.
/// </remarks>
public sealed unsafe class WorkerPool : IDisposable
{
    private const int SpinsBeforePark = 2000; // about 20 to 50 microseconds of PAUSE: longer than the gap between two ops of a step.

    private readonly Thread[] _helpers;
    private readonly object _gate = new(); // parked helpers wait on it
    private void* _job;
    private delegate*<void*, int, int, int, void> _execute;
    private int _count;
    private int _grain;
    private int _generation;
    private volatile bool _stopping;
    private PaddedCounter _next;
    private PaddedCounter _running;
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
    public void Run<TJob>(ref TJob job, int count, int grain = 1)
        where TJob : struct, IJob
    {
        if (count <= 0)
            return;
        if (_helpers.Length == 0 || count <= grain)
        {
            job.Execute(0, count, 0);
            return;
        }

        // The job stays on the caller's stack, which does not move and outlives the run.
        _job = Unsafe.AsPointer(ref job);
        _execute = &Invoke<TJob>;
        _count = count;
        _grain = grain;
        _next.Value = 0;
        Volatile.Write(ref _running.Value, _helpers.Length);
        Interlocked.Increment(ref _generation);
        if (Volatile.Read(ref _parked.Value) > 0)
            WakeParked();

        Work(0);
        SpinWait spin = default;
        while (Volatile.Read(ref _running.Value) != 0)
            spin.SpinOnce(sleep1Threshold: -1);
    }

    /// <summary>Ends the threads.</summary>
    public void Dispose()
    {
        if (_stopping)
            return;
        _stopping = true;
        WakeParked();
        foreach (Thread helper in _helpers)
            helper.Join();
    }

    private static void Invoke<TJob>(void* job, int from, int to, int worker)
        where TJob : struct, IJob => Unsafe.AsRef<TJob>(job).Execute(from, to, worker);

    private void Work(int worker)
    {
        int grain = _grain, count = _count;
        while (true)
        {
            int from = Interlocked.Add(ref _next.Value, grain) - grain;
            if (from >= count)
                return;
            _execute(_job, from, Math.Min(from + grain, count), worker);
        }
    }

    private void Help(int worker)
    {
        int seen = 0;
        while (true)
        {
            if (!AwaitJob(ref seen))
                return;
            Work(worker);
            Interlocked.Decrement(ref _running.Value);
        }
    }

    /// <summary>Waits for a generation this worker has not seen; false when the pool stops.</summary>
    /// <remarks>Every helper takes part in every job (the caller counts them down), so none may skip a generation.</remarks>
    private bool AwaitJob(ref int seen)
    {
        for (int i = 0; i < SpinsBeforePark; i++)
        {
            if (_stopping)
                return false;
            if (Volatile.Read(ref _generation) != seen)
            {
                seen++;
                return true;
            }

            Thread.SpinWait(8);
        }

        // The generation changes before the count of the parked is read, and is looked at under the lock after it was raised:
        // either this helper sees the new job, or the caller sees this helper and pulses.
        Interlocked.Increment(ref _parked.Value);
        lock (_gate)
        {
            while (!_stopping && Volatile.Read(ref _generation) == seen)
                Monitor.Wait(_gate);
        }

        Interlocked.Decrement(ref _parked.Value);
        seen++;
        return !_stopping;
    }

    private void WakeParked()
    {
        lock (_gate)
            Monitor.PulseAll(_gate);
    }

    /// <summary>A counter alone on its cache lines, so that threads that spin on one do not slow writers of another.</summary>
    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Explicit, Size = 192)]
    private struct PaddedCounter
    {
        [System.Runtime.InteropServices.FieldOffset(64)]
        public int Value;
    }
}
