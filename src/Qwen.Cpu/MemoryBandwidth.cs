using System.Diagnostics;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>How fast this machine reads memory: the bound of decoding, to which its speed is compared.</summary>
public static unsafe class MemoryBandwidth
{
    private const int ChunkBytes = 1 << 20;

    /// <summary>Bytes per second of the fastest of some plain reads of a buffer by all threads of a pool.</summary>
    /// <param name="pool">The threads.</param>
    /// <param name="bytes">Size of the buffer: several times the last-level cache; rounded down to whole MiB, at least one.</param>
    /// <param name="passes">Reads; the best counts, as anything else that runs can only slow one down.</param>
    /// <exception cref="OutOfMemoryException">The system has no such block of memory.</exception>
    public static double Measure(WorkerPool pool, long bytes = 512L << 20, int passes = 8)
    {
        ArgumentNullException.ThrowIfNull(pool);
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(passes);
        int chunks = checked((int)Math.Max(1, bytes / ChunkBytes));

        using NativeBuffer<byte> buffer = new((long)chunks * ChunkBytes);
        for (int i = 0; i < chunks; i++)
            new Span<byte>(buffer.Pointer + ((long)i * ChunkBytes), ChunkBytes).Fill(1); // The first write gives a page its memory.
        using NativeBuffer<long> sinks = new(pool.Threads * 8L);
        ReadJob job = new(buffer.Pointer, sinks.Pointer);
        double best = double.PositiveInfinity;
        for (int i = 0; i <= passes; i++)
        {
            long start = Stopwatch.GetTimestamp();
            pool.Run(ref job, chunks);
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            if (i > 0) // The first warms up threads and code.
                best = Math.Min(best, seconds);
        }

        return (long)chunks * ChunkBytes / best;
    }

    private readonly struct ReadJob(byte* data, long* sinks) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            byte* source = data + ((long)from * ChunkBytes);
            long bytes = (long)(to - from) * ChunkBytes;

            // A result that is kept somewhere (a cache line per thread) cannot be optimised away.
            if (Vector512.IsHardwareAccelerated)
                sinks[worker * 8] |= Read512(source, bytes);
            else if (Vector256.IsHardwareAccelerated)
                sinks[worker * 8] |= Read256(source, bytes);
            else
                sinks[worker * 8] |= Read128(source, bytes);
        }

        private static long Read512(byte* source, long bytes)
        {
            Vector512<long> a = default, b = default, c = default, d = default;
            for (long i = 0; i < bytes; i += 256)
            {
                a |= Vector512.Load((long*)(source + i));
                b |= Vector512.Load((long*)(source + i + 64));
                c |= Vector512.Load((long*)(source + i + 128));
                d |= Vector512.Load((long*)(source + i + 192));
            }

            return Vector512.Sum(a | b | c | d);
        }

        private static long Read256(byte* source, long bytes)
        {
            Vector256<long> a = default, b = default, c = default, d = default;
            for (long i = 0; i < bytes; i += 128)
            {
                a |= Vector256.Load((long*)(source + i));
                b |= Vector256.Load((long*)(source + i + 32));
                c |= Vector256.Load((long*)(source + i + 64));
                d |= Vector256.Load((long*)(source + i + 96));
            }

            return Vector256.Sum(a | b | c | d);
        }

        private static long Read128(byte* source, long bytes)
        {
            Vector128<long> a = default, b = default, c = default, d = default;
            for (long i = 0; i < bytes; i += 64)
            {
                a |= Vector128.Load((long*)(source + i));
                b |= Vector128.Load((long*)(source + i + 16));
                c |= Vector128.Load((long*)(source + i + 32));
                d |= Vector128.Load((long*)(source + i + 48));
            }

            return Vector128.Sum(a | b | c | d);
        }
    }
}
