using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>What this machine does at most, measured by the plainest loops there are: the best of many short runs.</summary>
internal static unsafe class MachineLimits
{
    private const int CacheBytes = 128 << 10; // more than L1, less than L2
    private const int Steps = 2000;

    private static readonly Dictionary<(Bound, int), double> Measured = [];

    private static Vector512<float> floatSink;
    private static Vector512<short> byteSink;
    private static Vector512<long> readSink;

    /// <summary>Bytes or operations per second of so many threads.</summary>
    public static double Of(Bound bound, int threads)
    {
        if (Measured.TryGetValue((bound, threads), out double limit))
            return limit;
        if (bound == Bound.Memory)
        {
            using WorkerPool pool = new(threads);
            limit = MemoryBandwidth.Measure(pool);
        }
        else if (bound == Bound.Cache)
        {
            using NativeBuffer<byte> buffer = new(CacheBytes);
            byte* data = buffer.Pointer;
            limit = threads * CacheBytes / Best(() => Read(data));
        }
        else
        {
            limit = threads * (bound == Bound.Floats ? 2.0 * 16 * 12 * Steps / Best(MultiplyFloats) : 2.0 * (Avx512BW.IsSupported ? 64 : 32) * 12 * Steps / Best(MultiplyBytes));
        }

        return Measured[(bound, threads)] = limit;
    }

    private static double Best(Action run)
    {
        double best = double.PositiveInfinity;
        for (int i = 0; i < 2000; i++)
        {
            long start = Stopwatch.GetTimestamp();
            run();
            best = Math.Min(best, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        return best;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Read(byte* data)
    {
        Vector512<long> a = default, b = default, c = default, d = default;
        for (byte* end = data + CacheBytes; data < end; data += 256)
        {
            a |= Vector512.Load((long*)data);
            b |= Vector512.Load((long*)(data + 64));
            c |= Vector512.Load((long*)(data + 128));
            d |= Vector512.Load((long*)(data + 192));
        }

        readSink = a | b | c | d;
    }

    /// <summary>Twelve sums: more than a multiply-add's latency times its throughput.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplyFloats()
    {
        Vector512<float> x = Vector512.Create(1.0001f), y = Vector512.Create(0.9f);
        Vector512<float> a = default, b = default, c = default, d = default, e = default, f = default, g = default, h = default, i = default, j = default, k = default, l = default;
        for (int step = 0; step < Steps; step++)
        {
            a = Vector512.FusedMultiplyAdd(x, y, a);
            b = Vector512.FusedMultiplyAdd(x, y, b);
            c = Vector512.FusedMultiplyAdd(x, y, c);
            d = Vector512.FusedMultiplyAdd(x, y, d);
            e = Vector512.FusedMultiplyAdd(x, y, e);
            f = Vector512.FusedMultiplyAdd(x, y, f);
            g = Vector512.FusedMultiplyAdd(x, y, g);
            h = Vector512.FusedMultiplyAdd(x, y, h);
            i = Vector512.FusedMultiplyAdd(x, y, i);
            j = Vector512.FusedMultiplyAdd(x, y, j);
            k = Vector512.FusedMultiplyAdd(x, y, k);
            l = Vector512.FusedMultiplyAdd(x, y, l);
        }

        floatSink = a + b + c + d + e + f + g + h + i + j + k + l;
    }

    /// <summary>Products of bytes summed in int16: four at a time, then their sums, which is how Zen 4 does most.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void MultiplyBytes()
    {
        Vector512<byte> x = Vector512.Create((byte)3);
        Vector512<short> a = default, b = default, c = default, d = default;
        for (int step = 0; step < 3 * Steps; step++)
        {
            x += Vector512<byte>.One;
            Vector512<short> p = Product(x, 1), q = Product(x, 2), r = Product(x, 3), s = Product(x, 4);
            a += p;
            b += q;
            c += r;
            d += s;
        }

        byteSink = a + b + c + d;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector512<short> Product(Vector512<byte> x, sbyte y) => Avx512BW.IsSupported
            ? Avx512BW.MultiplyAddAdjacent(x, Vector512.Create(y))
            : Avx2.MultiplyAddAdjacent(x.GetLower(), Vector256.Create(y)).ToVector512Unsafe();
    }
}
