using System.Diagnostics;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>What the memory gives: the ceiling of every decode kernel.</summary>
public static unsafe class MemoryBandwidth
{
    private const long BufferBytes = 512L << 20;
    private const int ChunkBytes = 1 << 20, Passes = 7;

    /// <summary>Reads a buffer larger than the caches with plain vector loads on all threads; the median pass, in bytes per second.</summary>
    public static double Measure(WorkerPool pool)
    {
        using var buffer = new NativeBuffer<byte>(BufferBytes);
        new Span<byte>(buffer.Pointer, (int)BufferBytes).Fill(1); // the first write gives each page its memory
        using var sink = new NativeBuffer<int>(pool.Threads * 16L);
        var job = new ReadJob(buffer.Pointer, sink.Pointer);
        Span<double> seconds = stackalloc double[Passes];
        for (int i = 0; i < Passes; i++)
        {
            long start = Stopwatch.GetTimestamp();
            pool.Run(ref job, (int)(BufferBytes / ChunkBytes), grain: 4);
            seconds[i] = Stopwatch.GetElapsedTime(start).TotalSeconds;
        }

        seconds.Sort();
        return BufferBytes / seconds[Passes / 2];
    }

    private readonly struct ReadJob(byte* buffer, int* sink) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            Vector512<int> a = default, b = default, c = default, d = default;
            int* p = (int*)(buffer + ((long)from * ChunkBytes)), end = (int*)(buffer + ((long)to * ChunkBytes));
            for (; p < end; p += 64)
            {
                a += Vector512.Load(p);
                b += Vector512.Load(p + 16);
                c += Vector512.Load(p + 32);
                d += Vector512.Load(p + 48);
            }

            sink[worker * 16] += Vector512.Sum(a + b + c + d); // keeps the loads alive
        }
    }
}
