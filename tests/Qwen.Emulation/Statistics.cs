namespace Qwen.Emulation;

/// <summary>What kernels did, summed over launches.</summary>
public sealed class Statistics
{
    private long _instructions, _loaded, _stored, _sharedAccesses, _sharedConflicts, _launches;

    /// <summary>Kernels launched.</summary>
    public long Launches => _launches;

    /// <summary>Instructions that warps executed.</summary>
    public long WarpInstructions => _instructions;

    /// <summary>Bytes that lanes loaded from global memory.</summary>
    public long GlobalBytesLoaded => _loaded;

    /// <summary>Bytes that lanes stored to global memory.</summary>
    public long GlobalBytesStored => _stored;

    /// <summary>Accesses of shared memory, in passes over its 32 banks (wavefronts) that they take without conflicts.</summary>
    public long SharedWavefronts => _sharedAccesses;

    /// <summary>Passes beyond <see cref="SharedWavefronts"/>, because lanes wanted different words of one bank.</summary>
    public long SharedBankConflicts => _sharedConflicts;

    internal void Add(long launches, long instructions, long loaded, long stored, long sharedAccesses, long sharedConflicts)
    {
        Interlocked.Add(ref _launches, launches);
        Interlocked.Add(ref _instructions, instructions);
        Interlocked.Add(ref _loaded, loaded);
        Interlocked.Add(ref _stored, stored);
        Interlocked.Add(ref _sharedAccesses, sharedAccesses);
        Interlocked.Add(ref _sharedConflicts, sharedConflicts);
    }

    internal void Add(Statistics other) =>
        Add(other._launches, other._instructions, other._loaded, other._stored, other._sharedAccesses, other._sharedConflicts);
}
