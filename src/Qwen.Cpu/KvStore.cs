namespace Qwen.Cpu;

/// <summary>Writes new keys and values into the paged cache.</summary>
public static unsafe class KvStore
{
    /// <summary>Stores the keys and values of tokens [fromToken, toToken), rounded to the cache's type.</summary>
    /// <param name="layer">The cache.</param>
    /// <param name="keys">[tokens, heads, headDim], keyStride elements from a token to the next.</param>
    /// <param name="keyStride">Elements from a token's keys to the next token's.</param>
    /// <param name="values">[tokens, heads, headDim], valueStride elements from a token to the next.</param>
    /// <param name="valueStride">Elements from a token's values to the next token's.</param>
    /// <param name="fromToken">First token.</param>
    /// <param name="toToken">One past the last token.</param>
    /// <param name="slots">[tokens]: block * BlockSize + position in the block.</param>
    public static void Write(
        in KvLayer layer, float* keys, long keyStride, float* values, long valueStride, int fromToken, int toToken, int* slots)
    {
        if (Lanes512.IsSupported)
            Write<Lanes512>(layer, keys, keyStride, values, valueStride, fromToken, toToken, slots);
        else if (Lanes256.IsSupported)
            Write<Lanes256>(layer, keys, keyStride, values, valueStride, fromToken, toToken, slots);
        else
            Write<Lanes128>(layer, keys, keyStride, values, valueStride, fromToken, toToken, slots);
    }

    internal static void Write<TLanes>(
        in KvLayer layer, float* keys, long keyStride, float* values, long valueStride, int fromToken, int toToken, int* slots)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        for (int t = fromToken; t < toToken; t++)
        {
            Write<TLanes>(layer, layer.Keys, keys + (t * keyStride), slots[t]);
            Write<TLanes>(layer, layer.Values, values + (t * valueStride), slots[t]);
        }
    }

    private static void Write<TLanes>(in KvLayer layer, byte* cache, float* source, int slot)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        (int block, int position) = Math.DivRem(slot, layer.BlockSize);
        for (int h = 0; h < layer.Heads; h++, source += layer.HeadDim)
        {
            long offset = layer.Offset(block, h, position);
            switch (layer.Type)
            {
                case KvType.F16:
                    FloatElements.Narrow<TLanes, F16Element>(source, cache + (offset * F16Element.Bytes), layer.HeadDim);
                    break;
                case KvType.BF16:
                    FloatElements.Narrow<TLanes, BF16Element>(source, cache + (offset * BF16Element.Bytes), layer.HeadDim);
                    break;
                default:
                    FloatElements.Narrow<TLanes, F32Element>(source, cache + (offset * F32Element.Bytes), layer.HeadDim);
                    break;
            }
        }
    }
}
