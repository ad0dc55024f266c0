namespace Qwen.Cpu;

/// <summary>How the elements of the key-value cache are stored.</summary>
public enum KvType : byte
{
    /// <summary>IEEE binary16.</summary>
    F16,

    /// <summary>The upper half of a binary32.</summary>
    BF16,

    /// <summary>IEEE binary32.</summary>
    F32,
}

/// <summary>The paged keys and values of one layer: for each of both, [block][kvHead][position in block][headDim].</summary>
/// <remarks>So the keys of a block and head are a small row-major matrix, which the float kernels read as it lies.</remarks>
/// <param name="keys">First byte of block 0's keys.</param>
/// <param name="values">First byte of block 0's values.</param>
/// <param name="type">Storage of the elements.</param>
/// <param name="blockSize">Positions of a block.</param>
/// <param name="heads">Key-value heads.</param>
/// <param name="headDim">Elements of a head: a multiple of 8, at most 256.</param>
public readonly unsafe struct KvLayer(byte* keys, byte* values, KvType type, int blockSize, int heads, int headDim)
{
    /// <summary>First byte of block 0's keys.</summary>
    public readonly byte* Keys = keys;

    /// <summary>First byte of block 0's values.</summary>
    public readonly byte* Values = values;

    /// <summary>Storage of the elements.</summary>
    public readonly KvType Type = type;

    /// <summary>Positions of a block.</summary>
    public readonly int BlockSize = blockSize;

    /// <summary>Key-value heads.</summary>
    public readonly int Heads = heads;

    /// <summary>Elements of a head.</summary>
    public readonly int HeadDim = headDim;

    /// <summary>Bytes of the keys, and again of the values, of one block of such a layer.</summary>
    public static long BlockBytes(KvType type, int blockSize, int heads, int headDim) =>
        (long)blockSize * heads * headDim * (type == KvType.F32 ? sizeof(float) : sizeof(short));

    /// <summary>Elements from the start of the keys (or values) to those of a head at a position of a block.</summary>
    internal long Offset(int block, int head, int position) => (((((long)block * Heads) + head) * BlockSize) + position) * HeadDim;
}
