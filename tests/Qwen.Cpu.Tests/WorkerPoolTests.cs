namespace Qwen.Cpu.Tests;

public sealed unsafe class WorkerPoolTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(8)]
    public void Run_DoesEachItemOnce_ForManyShortJobs(int threads)
    {
        int seed = Environment.TickCount;
        Random random = new(seed);
        using WorkerPool pool = new(threads);
        using NativeBuffer<int> counts = new(100);
        using NativeBuffer<int> workers = new(1);
        for (int i = 0; i < 20_000; i++)
        {
            int count = random.Next(0, 100), grain = random.Next(1, 8);
            counts.Span.Clear();
            CountJob job = new(counts.Pointer, workers.Pointer);
            pool.Run(ref job, count, grain);
            for (int item = 0; item < 100; item++)
                Assert.True(counts.Span[item] == (item < count ? 1 : 0), $"seed {seed}, job {i}: item {item} of {count} was done {counts.Span[item]} times");
        }

        Assert.Equal(0, workers.Span[0] & ~((1 << threads) - 1));
    }

    [Fact]
    public void Run_WakesParkedHelpers_EvenWhenThreadsOutnumberProcessors()
    {
        // Pauses around the time after which helpers park, and jobs that some finish and park after while others have not woken yet.
        int seed = Environment.TickCount;
        Random random = new(seed);
        using WorkerPool pool = new(8);
        using NativeBuffer<int> counts = new(16);
        using NativeBuffer<int> workers = new(1);
        for (int i = 0; i < 2_000; i++)
        {
            counts.Span.Clear();
            CountJob job = new(counts.Pointer, workers.Pointer, spins: random.Next(2_000));
            pool.Run(ref job, 16);
            Assert.All(counts.Span.ToArray(), c => Assert.Equal(1, c));
            Thread.SpinWait(random.Next(20_000));
        }
    }

    [Fact]
    public void Run_UsesTheHelpers_WhenTheCallerIsBusy()
    {
        using WorkerPool pool = new(2);
        using NativeBuffer<int> meeting = new(1);
        MeetJob job = new(meeting.Pointer);
        pool.Run(ref job, 2); // Each of the two items waits for the other: one thread alone would never end.
        Assert.Equal(2, meeting.Span[0]);
    }

    [Fact]
    public void Run_AllocatesNothing()
    {
        using WorkerPool pool = new(3);
        using NativeBuffer<int> counts = new(64);
        using NativeBuffer<int> workers = new(1);
        CountJob job = new(counts.Pointer, workers.Pointer);
        pool.Run(ref job, 64);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 1_000; i++)
            pool.Run(ref job, 64);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public void Run_ClosesTheJob_WhenTheCallersPartThrows()
    {
        using WorkerPool pool = new(2);
        using NativeBuffer<int> counts = new(64);
        using NativeBuffer<int> workers = new(1);
        using NativeBuffer<int> thrown = new(1);
        ThrowJob bad = new(thrown.Pointer);
        Assert.Throws<InvalidOperationException>(() => pool.Run(ref bad, 1_000_000));
        CountJob good = new(counts.Pointer, workers.Pointer);
        pool.Run(ref good, 64);
        Assert.All(counts.Span.ToArray(), c => Assert.Equal(1, c));
    }

    [Fact]
    public void Dispose_EndsSpinningAndParkedThreads_AndMayBeRepeated()
    {
        foreach (int pause in (ReadOnlySpan<int>)[0, 20])
        {
            WorkerPool pool = new(4);
            Thread.Sleep(pause);
            pool.Dispose();
            pool.Dispose();
            CountJob job = default;
            Assert.Throws<ObjectDisposedException>(() => pool.Run(ref job, 1));
        }
    }

    [Fact]
    public void Run_RefusesAGrainOfZero()
    {
        using WorkerPool pool = new(1);
        CountJob job = default;
        Assert.Throws<ArgumentOutOfRangeException>(() => pool.Run(ref job, 10, 0));
    }

    [Fact]
    public void Measure_ReadsAtAPlausibleRate()
    {
        using WorkerPool pool = new(2);
        Assert.InRange(MemoryBandwidth.Measure(pool, 4 << 20, 2), 1e7, 1e13);
    }

    private readonly struct CountJob(int* counts, int* workers, int spins = 0) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            Interlocked.Or(ref *workers, 1 << worker);
            for (int i = from; i < to; i++)
                Interlocked.Increment(ref counts[i]);
            Thread.SpinWait(spins);
        }
    }

    private readonly struct MeetJob(int* arrived) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            Interlocked.Increment(ref *arrived);
            SpinWait spin = default;
            while (Volatile.Read(ref *arrived) < 2)
                spin.SpinOnce();
        }
    }

    /// <summary>The caller's first item throws. The others wait for that, so that there is one left for the caller, however late it comes.</summary>
    private readonly struct ThrowJob(int* thrown) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            if (worker == 0)
            {
                Volatile.Write(ref *thrown, 1);
                throw new InvalidOperationException();
            }

            SpinWait spin = default;
            while (Volatile.Read(ref *thrown) == 0)
                spin.SpinOnce();
        }
    }
}
