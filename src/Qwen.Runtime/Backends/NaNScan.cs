using Qwen.Cpu;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends;

/// <summary>Looks for NaN among E4M3 codes, on all threads: the kernels have no NaN, and a weight that is none is damage in any case.</summary>
internal struct NaNScan(Tensor codes) : IJob
{
    private const int ChunkBytes = 1 << 20;

    private long _found = -1;

    /// <summary>Pieces of work.</summary>
    public readonly int Chunks => checked((int)((codes.ByteCount + ChunkBytes - 1) / ChunkBytes));

    /// <inheritdoc/>
    public unsafe void Execute(int from, int to, int worker)
    {
        for (int chunk = from; chunk < to; chunk++)
        {
            long first = (long)chunk * ChunkBytes;
            int index = new ReadOnlySpan<byte>(codes.Data + first, (int)Math.Min(ChunkBytes, codes.ByteCount - first)).IndexOfAny((byte)0x7F, (byte)0xFF);
            if (index >= 0)
                Volatile.Write(ref _found, first + index);
        }
    }

    /// <exception cref="ModelFormatException">A code is NaN.</exception>
    public readonly void ThrowIfFound()
    {
        if (_found >= 0)
            throw new ModelFormatException(codes.File, $"tensor '{codes.Name}': element {_found} is NaN");
    }
}
