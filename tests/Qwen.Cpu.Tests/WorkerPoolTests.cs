namespace Qwen.Cpu.Tests;

public sealed unsafe class WorkerPoolTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(8)]
    public void Run_DoesEveryItemOnce(int threads)
    {
        using var pool = new WorkerPool(threads);
        var random = new Random(threads);
        using var counts = new NativeBuffer<int>(1000);
        using var wrong = new NativeBuffer<int>(1);
        for (int round = 0; round < 1500; round++)
        {
            int count = random.Next(0, 1000), grain = random.Next(1, 50);
            counts.Span.Clear();
            var job = new CountJob(counts.Pointer, wrong.Pointer, threads);
            pool.Run(ref job, count, grain);
            for (int i = 0; i < 1000; i++)
                Assert.True(counts.Pointer[i] == (i < count ? 1 : 0), $"round {round}: item {i} of {count} done {counts.Pointer[i]} times");
            if (round % 500 == 499)
                Thread.Sleep(20); // lets the helpers park
        }

        Assert.Equal(0, *wrong.Pointer);
    }

    [Fact]
    public void Run_AllocatesNothing()
    {
        using var pool = new WorkerPool(2);
        using var counts = new NativeBuffer<int>(100);
        using var wrong = new NativeBuffer<int>(1);
        var job = new CountJob(counts.Pointer, wrong.Pointer, 2);
        for (int i = 0; i < 100; i++)
            pool.Run(ref job, 100);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++)
            pool.Run(ref job, 100);
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
    }

    [Fact]
    public void Dispose_EndsParkedAndSpinningHelpers()
    {
        for (int i = 0; i < 50; i++)
        {
            using var pool = new WorkerPool(4);
            if (i % 10 == 0)
                Thread.Sleep(10);
        }
    }

    private readonly struct CountJob(int* counts, int* wrong, int threads) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            if (from >= to || (uint)worker >= (uint)threads)
                Interlocked.Increment(ref *wrong);
            for (int i = from; i < to; i++)
                Interlocked.Increment(ref counts[i]);
        }
    }
}
