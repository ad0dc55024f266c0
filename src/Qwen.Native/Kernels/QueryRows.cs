using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Makes 16-bit operands of a shape of query values.</summary>
internal static class QueryRows
{
    /// <summary>Words of two query values as operands. BF16 ones become F16 saturated, exact between 2^-14 and 65504.</summary>
    public static U32[] Operands(PtxBuilder k, AttentionShape shape, U32[] words)
    {
        if (shape.Type == shape.Operands)
            return words;
        return [.. words.Select(word =>
        {
            (F32 low, F32 high) = k.Unpack(word.AsHalf2(shape.Type));
            return k.Pack(shape.Operands, low, high).AsU32;
        })];
    }
}
