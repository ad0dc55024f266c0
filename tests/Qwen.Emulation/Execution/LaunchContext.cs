using Qwen.Emulation.Memory;
using Qwen.Native.Device;

namespace Qwen.Emulation.Execution;

/// <summary>A running grid: what all its blocks share.</summary>
internal sealed class LaunchContext(GlobalMemory memory, Dim3 grid, Dim3 block, byte[] parameters, int dynamicSharedBytes, int multiprocessors, long serial, long? firstUnfinished, long budget)
{
    private long _executed;

    public GlobalMemory Memory { get; } = memory;

    public Dim3 GridSize { get; } = grid;

    public Dim3 BlockSize { get; } = block;

    public byte[] Parameters { get; } = parameters;

    public int DynamicSharedBytes { get; } = dynamicSharedBytes;

    public int Multiprocessors { get; } = multiprocessors;

    /// <summary>The number of the launch on its device, from 1.</summary>
    public long Serial { get; } = serial;

    /// <summary>Whether it was launched to overlap the one before it, so that it has to wait for that one itself.</summary>
    public bool Overlaps => firstUnfinished is not null;

    /// <summary>The first launch that it may run beside: the one before may itself have started before the end of another.</summary>
    public long FirstUnfinished { get; } = firstUnfinished ?? serial;

    public Statistics Statistics { get; } = new();

    /// <summary>Counts warp instructions against the budget; false once it is spent.</summary>
    public bool Spend(long instructions) => Interlocked.Add(ref _executed, instructions) <= budget;
}
