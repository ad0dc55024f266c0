namespace Qwen.Cpu;

/// <summary>How cached keys and values are stored.</summary>
public enum KvType : byte
{
    /// <summary>IEEE binary16.</summary>
    F16,

    /// <summary>bfloat16.</summary>
    BF16,

    /// <summary>IEEE binary32.</summary>
    F32,
}

/// <summary>The paged keys and values of one layer: each [block, head, slot in block, headDim], so that a head's keys of a block lie together.</summary>
public readonly unsafe struct KvLayer
{
    /// <summary>First key.</summary>
    public byte* Keys { get; init; }

    /// <summary>First value.</summary>
    public byte* Values { get; init; }

    /// <summary>Type of both.</summary>
    public KvType Type { get; init; }

    /// <summary>Tokens in a block.</summary>
    public int BlockSize { get; init; }

    /// <summary>Key and value heads.</summary>
    public int Heads { get; init; }

    /// <summary>Width of a head; a multiple of 8.</summary>
    public int HeadDim { get; init; }

    /// <summary>Bytes of an element.</summary>
    public static int ElementBytes(KvType type) => type == KvType.F32 ? 4 : 2;

    /// <summary>Writes a token's keys and values [Heads * HeadDim] to a slot (block * BlockSize + offset).</summary>
    public void Write(float* keys, float* values, int slot)
    {
        for (int head = 0; head < Heads; head++)
        {
            long at = Offset(slot / BlockSize, head, slot % BlockSize);
            Write(keys + (head * HeadDim), Keys + at);
            Write(values + (head * HeadDim), Values + at);
        }
    }

    /// <summary>Bytes from the first key to a slot of a head in a block.</summary>
    internal long Offset(int block, int head, int slot) => ((((((long)block * Heads) + head) * BlockSize) + slot) * HeadDim) * ElementBytes(Type);

    /// <summary>Widens rows of a head, slots [from, to) of a block, to F32.</summary>
    internal void Read(byte* rows, int block, int head, int from, int to, float* destination)
    {
        byte* source = rows + Offset(block, head, from);
        int count = (to - from) * HeadDim;
        switch (Type)
        {
            case KvType.F16:
                IFloatFormat.Widen<F16>(source, destination, count);
                break;
            case KvType.BF16:
                IFloatFormat.Widen<BF16>(source, destination, count);
                break;
            default:
                IFloatFormat.Widen<F32>(source, destination, count);
                break;
        }
    }

    private void Write(float* row, byte* destination)
    {
        switch (Type)
        {
            case KvType.F16:
                IFloatFormat.Narrow<F16>(row, destination, HeadDim);
                break;
            case KvType.BF16:
                IFloatFormat.Narrow<BF16>(row, destination, HeadDim);
                break;
            default:
                IFloatFormat.Narrow<F32>(row, destination, HeadDim);
                break;
        }
    }
}
