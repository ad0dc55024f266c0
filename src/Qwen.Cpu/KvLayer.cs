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

/// <summary>The paged keys and values of one layer: for each of both, [block][head][slot in block][headDim].</summary>
/// <remarks>So the keys of a block and head are a small row-major matrix, which the float kernels read as it lies.</remarks>
public readonly unsafe struct KvLayer
{
    /// <summary>First byte of block 0's keys.</summary>
    public byte* Keys { get; init; }

    /// <summary>First byte of block 0's values.</summary>
    public byte* Values { get; init; }

    /// <summary>Storage of the elements.</summary>
    public KvType Type { get; init; }

    /// <summary>Positions of a block.</summary>
    public int BlockSize { get; init; }

    /// <summary>Key-value heads.</summary>
    public int Heads { get; init; }

    /// <summary>Elements of a head: a multiple of 8, at most 256.</summary>
    public int HeadDim { get; init; }

    /// <summary>Bytes of an element.</summary>
    public static int ElementBytes(KvType type) => type == KvType.F32 ? sizeof(float) : sizeof(short);

    /// <summary>Stores a token's keys and values, rounded to the cache's type.</summary>
    /// <param name="keys">[heads, headDim].</param>
    /// <param name="values">[heads, headDim].</param>
    /// <param name="slot">block * BlockSize + slot in the block.</param>
    public void Write(float* keys, float* values, int slot)
    {
        if (Lanes512.IsSupported)
            Write<Lanes512>(keys, values, slot);
        else if (Lanes256.IsSupported)
            Write<Lanes256>(keys, values, slot);
        else
            Write<Lanes128>(keys, values, slot);
    }

    internal void Write<TLanes>(float* keys, float* values, int slot)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        (int block, int position) = Math.DivRem(slot, BlockSize);
        for (int h = 0; h < Heads; h++)
        {
            long offset = Offset(block, h, position);
            Narrow<TLanes>(keys + (h * HeadDim), Keys + offset);
            Narrow<TLanes>(values + (h * HeadDim), Values + offset);
        }
    }

    /// <summary>Bytes from the first key (or value) to that of a head at a slot of a block.</summary>
    internal long Offset(int block, int head, int slot) => (((((long)block * Heads) + head) * BlockSize) + slot) * HeadDim * ElementBytes(Type);

    private void Narrow<TLanes>(float* row, byte* target)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        switch (Type)
        {
            case KvType.F16:
                FloatElements.Narrow<TLanes, F16Element>(row, target, HeadDim);
                break;
            case KvType.BF16:
                FloatElements.Narrow<TLanes, BF16Element>(row, target, HeadDim);
                break;
            default:
                FloatElements.Narrow<TLanes, F32Element>(row, target, HeadDim);
                break;
        }
    }
}
