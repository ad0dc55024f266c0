using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>A row of a matrix as chunks of 16 sub-blocks, the unit that kernels read.</summary>
/// <remarks>
/// The last chunk may go past the row: what follows is read as codes, but its scales are given as zero, as are the activations' there, and
/// it adds nothing. Where a whole chunk would leave the matrix, the row's last blocks are copied out and read from the copy.
/// </remarks>
internal readonly unsafe struct RowBlocks<TFormat>
    where TFormat : struct, IQuantizedFormat
{
    /// <summary>Bytes that the copy of a last chunk needs: 512 columns take at most 2 * 292 (Q8_K).</summary>
    public const int TailBytes = 1024;

    private readonly byte* _blocks;
    private readonly byte* _last;
    private readonly int _whole;

    /// <summary>The row of <paramref name="columns"/> columns at <paramref name="blocks"/>, in a matrix that ends at <paramref name="end"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public RowBlocks(byte* blocks, byte* end, int columns, byte* tail)
    {
        SubBlocks = columns / TFormat.SubBlock;
        _blocks = blocks;
        _whole = SubBlocks / Lanes.Count * Lanes.Count;
        _last = blocks + ((long)_whole / Lanes.Count * ChunkBytes);
        if (_whole < SubBlocks && end - _last < ChunkBytes)
        {
            Unsafe.CopyBlockUnaligned(tail, _last, (uint)(end - _last));
            _last = tail;
        }
    }

    /// <summary>Columns of a chunk: 256 or 512.</summary>
    public static int ChunkColumns
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => Lanes.Count * TFormat.SubBlock;
    }

    /// <summary>Bytes of a chunk.</summary>
    public static int ChunkBytes
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => ChunkColumns / TFormat.BlockColumns * TFormat.BlockBytes;
    }

    /// <summary>Sub-blocks of the row.</summary>
    public int SubBlocks { get; }

    /// <summary>The blocks of the chunk that begins with sub-block <paramref name="first"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public byte* Chunk(int first) => first < _whole ? _blocks + ((long)((uint)first / Lanes.Count) * ChunkBytes) : _last;

    /// <summary>The scales and biases of <paramref name="chunk"/>, which begins with sub-block <paramref name="first"/>; zero past the row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Scales(byte* chunk, int first, out Vector512<float> scales, out Vector512<float> biases)
    {
        TFormat.Scales(chunk, out scales, out biases);
        Vector512<float> valid = Vector512.LessThan(Vector512<int>.Indices, Vector512.Create(SubBlocks - first)).AsSingle();
        scales &= valid;
        biases &= valid;
    }
}
