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

    /// <summary>8-bit integers with an F32 scale per token and head: max|x| / 127.</summary>
    Int8,

    /// <summary>E4M3 with an F32 scale per token and head: max|x| / 448.</summary>
    F8_E4M3,

    /// <summary>E5M2 with an F32 scale per token and head: max|x| / 57,344.</summary>
    F8_E5M2,
}

/// <summary>Facts about <see cref="KvType"/>.</summary>
public static class KvTypes
{
    extension(KvType type)
    {
        /// <summary>Codes with a scale per token and head.</summary>
        public bool IsQuantized => type >= KvType.Int8;

        /// <summary>Bytes of an element.</summary>
        public int ElementBytes => type.IsQuantized ? 1 : type == KvType.F32 ? sizeof(float) : sizeof(short);

        /// <summary>Bytes of a head's key, or value, at one position, with its scale.</summary>
        public int VectorBytes(int headDim) => (headDim * type.ElementBytes) + (type.IsQuantized ? sizeof(float) : 0);
    }
}

/// <summary>The paged keys and values of one layer: for each of both, [block][head][slot in block][headDim].</summary>
/// <remarks>So the keys of a block and head are a small row-major matrix, which the float kernels read as it lies.</remarks>
public readonly unsafe struct KvLayer
{
    /// <summary>First byte of block 0's keys.</summary>
    public byte* Keys { get; init; }

    /// <summary>First byte of block 0's values.</summary>
    public byte* Values { get; init; }

    /// <summary>Scales of the keys, [block][head][slot in block]; null unless the type is quantized.</summary>
    public float* KeyScales { get; init; }

    /// <summary>Scales of the values, likewise.</summary>
    public float* ValueScales { get; init; }

    /// <summary>Storage of the elements.</summary>
    public KvType Type { get; init; }

    /// <summary>Positions of a block.</summary>
    public int BlockSize { get; init; }

    /// <summary>Key-value heads.</summary>
    public int Heads { get; init; }

    /// <summary>Elements of a head: a multiple of 8, at most 256.</summary>
    public int HeadDim { get; init; }

    /// <summary>Stores a token's keys and values, rounded to the cache's type.</summary>
    /// <remarks>
    /// Quantized types divide a head by its scale and round to nearest even. A head whose largest magnitude is below 1e-30 is stored as
    /// zeros; one that is not finite gets the scale NaN, which what attends to it then shows.
    /// </remarks>
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
        switch (Type)
        {
            case KvType.F16:
                Write<TLanes, F16Element>(keys, values, slot);
                break;
            case KvType.BF16:
                Write<TLanes, BF16Element>(keys, values, slot);
                break;
            case KvType.Int8:
                Write<TLanes, Int8Element>(keys, values, slot);
                break;
            case KvType.F8_E4M3:
                Write<TLanes, Float8Element<E4M3>>(keys, values, slot);
                break;
            case KvType.F8_E5M2:
                Write<TLanes, Float8Element<E5M2>>(keys, values, slot);
                break;
            default:
                Write<TLanes, F32Element>(keys, values, slot);
                break;
        }
    }

    /// <summary>The number of the vector of a head at a slot of a block.</summary>
    internal long Index(int block, int head, int slot) => ((((long)block * Heads) + head) * BlockSize) + slot;

    private void Write<TLanes, TElement>(float* keys, float* values, int slot)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IWritableElement
    {
        (int block, int position) = Math.DivRem(slot, BlockSize);
        for (int h = 0; h < Heads; h++)
        {
            long index = Index(block, h, position), offset = index * HeadDim * TElement.Bytes;
            if (TElement.Limit == 0)
            {
                FloatElements.Narrow<TLanes, TElement>(keys + (h * HeadDim), Keys + offset, HeadDim);
                FloatElements.Narrow<TLanes, TElement>(values + (h * HeadDim), Values + offset, HeadDim);
            }
            else
            {
                KeyScales[index] = Quantize<TLanes, TElement>(keys + (h * HeadDim), Keys + offset);
                ValueScales[index] = Quantize<TLanes, TElement>(values + (h * HeadDim), Values + offset);
            }
        }
    }

    /// <summary>Writes a head's codes and returns its scale.</summary>
    private float Quantize<TLanes, TElement>(float* vector, byte* codes)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IWritableElement
    {
        float max = 0;
        bool finite = true;
        for (int i = 0; i < HeadDim; i++)
        {
            max = Math.Max(max, Math.Abs(vector[i]));
            finite &= float.IsFinite(vector[i]);
        }

        if (!finite || max < 1e-30f)
        {
            new Span<byte>(codes, HeadDim).Clear();
            return finite ? 0 : float.NaN;
        }

        float* scaled = stackalloc float[HeadDim];
        TLanes inverse = TLanes.Broadcast(TElement.Limit / max);
        int whole = HeadDim & ~15;
        for (int i = 0; i < whole; i += 16)
            TLanes.Store(TLanes.Load(vector + i) * inverse, scaled + i);
        for (int i = whole; i < HeadDim; i++)
            scaled[i] = vector[i] * (TElement.Limit / max);
        FloatElements.Narrow<TLanes, TElement>(scaled, codes, HeadDim);
        return max / TElement.Limit;
    }
}
