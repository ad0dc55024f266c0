using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>Counts or probability masses of 2048 bins in shared memory, and where their running sum passes a threshold.</summary>
/// <remarks>All sums are of integers, so that they are the same in whatever order threads add.</remarks>
internal sealed class MassHistogram
{
    /// <summary>Bins, as a power of two.</summary>
    public const int Bits = 11;

    /// <summary>Bins.</summary>
    public const int Bins = 1 << Bits;

    private readonly PtxBuilder _k;
    private readonly Shared _bins, _warps, _found;
    private readonly int _perThread;

    public MassHistogram(PtxBuilder k)
    {
        _k = k;
        _bins = k.AllocateShared(Bins * sizeof(ulong));
        _warps = k.AllocateShared(k.Warps * sizeof(ulong));
        _found = k.AllocateShared(2 * sizeof(ulong));
        _perThread = Bins / k.Threads;
    }

    /// <summary>Where a bin is.</summary>
    public Shared this[U32 bin] => _bins.At(bin, sizeof(ulong));

    /// <summary>All bins are zero, for all threads.</summary>
    public void Clear()
    {
        U64 zero = _k.Variable<U64>(0ul);
        for (int i = 0; i < _perThread; i += 2)
            _k.StoreVector<U64>(Mine + (i * sizeof(ulong)), [zero, zero]);
        _k.Barrier();
    }

    /// <summary>The bin in which the running sum comes to exceed a threshold, which is less than the total, and what of the threshold was left there.</summary>
    public (U32 Bin, U64 Left) Crossing(U64 threshold)
    {
        _k.Barrier();
        U64[] bins = Load();
        (U64 start, _) = _k.SumBefore(bins.Aggregate((a, b) => a + b), _warps);
        for (int i = 0; i < _perThread; i++)
        {
            U64 end = start + bins[i];
            Pred crosses = (start <= threshold) & (threshold < end);
            _k.StoreVector<U64>(_found, [_k.Widen((_k.Thread * _perThread) + i), threshold - start], crosses);
            start = end;
        }

        _k.Barrier();
        U64[] found = _k.LoadVector<U64>(_found, 2);
        return (_k.Narrow(found[0]), found[1]);
    }

    private Shared Mine => this[_k.Thread * _perThread];

    private U64[] Load() => [.. Enumerable.Range(0, _perThread / 2).SelectMany(i => _k.LoadVector<U64>(Mine + (i * 2 * sizeof(ulong)), 2))];
}
