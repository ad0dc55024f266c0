namespace Qwen.Cpu;

/// <summary>The last, incomplete sixteen of a row.</summary>
internal static unsafe class Tail
{
    /// <summary>Sixteen lanes of which the first <paramref name="count"/> come from memory and the others are <paramref name="fill"/>.</summary>
    /// <remarks>
    /// Never reads past the elements. In a dot product one side is filled with +0 and the other with -0: the product -0 leaves any sum
    /// as it is, a sum of -0 included, so a missing lane truly gets no term.
    /// </remarks>
    /// <param name="source">Elements.</param>
    /// <param name="count">0 .. 15.</param>
    /// <param name="fill">What the other lanes hold.</param>
    /// <param name="stage">64 bytes to work in.</param>
    public static TLanes Load<TLanes, TElement>(byte* source, int count, float fill, byte* stage)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IWritableElement
    {
        TElement.Store(TLanes.Broadcast(fill), stage);
        Buffer.MemoryCopy(source, stage, 64, count * TElement.Bytes);
        return TElement.Load<TLanes>(stage);
    }
}
