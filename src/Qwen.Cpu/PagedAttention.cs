using System.Diagnostics;

namespace Qwen.Cpu;

/// <summary>The tokens that a sequence has in a step: rows [FirstToken, FirstToken + Tokens) of q, at consecutive positions.</summary>
public readonly unsafe struct AttentionSequence
{
    /// <summary>Row of q, and of the output, of its first token.</summary>
    public int FirstToken { get; init; }

    /// <summary>Tokens in this step: 1 when decoding, a chunk of the prompt in prefill.</summary>
    public int Tokens { get; init; }

    /// <summary>Position of its first token. The cache already holds keys and values up to the last token's position.</summary>
    public int FirstPosition { get; init; }

    /// <summary>Block table: the block of positions [i * BlockSize, (i + 1) * BlockSize).</summary>
    public int* Blocks { get; init; }
}

/// <summary>Causal grouped-query attention over the paged cache, for decode and prefill in one batch.</summary>
/// <remarks>
/// A token's output has the same bits in any batch, chunking, block size and thread count: <see cref="AttentionTile"/> states the order.
/// Work is handed out in tiles (some tokens of a sequence, one key-value head). Where there are too few tiles to keep the threads busy,
/// tiles are split over spans of the context; the parts go to scratch and are merged in order in a second, short job.
/// </remarks>
public static unsafe class PagedAttention
{
    /// <summary>With this many tiles per thread, the last to finish keeps nobody waiting for long, and no tile is split.</summary>
    private const int TilesPerThread = 4;

    /// <summary>Scratch that split tiles share: 64 heads of 128 elements at a context of 240,000. Without room a tile is not split.</summary>
    private const long PartialBytes = 16 << 20;

    /// <summary>Bytes of scratch for <see cref="Run"/>, 64-byte aligned.</summary>
    /// <param name="threads">Threads of the pool.</param>
    /// <param name="sequences">Most sequences of a step.</param>
    /// <param name="queryHeads">Query heads.</param>
    /// <param name="kvHeads">Key-value heads.</param>
    /// <param name="headDim">Elements of a head.</param>
    public static long ScratchBytes(int threads, int sequences, int queryHeads, int kvHeads, int headDim)
    {
        int group = queryHeads / kvHeads;
        return PartialBytes + (threads * AttentionTile.ScratchLength(group, headDim, Width(headDim)) * sizeof(float)) + ((long)sequences * sizeof(AttentionPlan));
    }

    /// <summary>output[token, head] = softmax(scale * q[token, head] . K) V over the positions that causality and the window leave.</summary>
    /// <param name="pool">The threads.</param>
    /// <param name="layer">The cache of this layer.</param>
    /// <param name="sequences">The sequences of the step.</param>
    /// <param name="q">[tokens, queryHeads, headDim], qStride elements from a token to the next.</param>
    /// <param name="qStride">Elements from a token of q to the next.</param>
    /// <param name="queryHeads">A multiple of the layer's key-value heads; neighbours share one.</param>
    /// <param name="scale">Factor on the scores, usually 1 / sqrt(headDim).</param>
    /// <param name="slidingWindow">A token sees this many positions, itself included; 0 for all.</param>
    /// <param name="output">[tokens, queryHeads, headDim], outputStride elements from a token to the next.</param>
    /// <param name="outputStride">Elements from a token of the output to the next.</param>
    /// <param name="scratch"><see cref="ScratchBytes"/>, 64-byte aligned.</param>
    /// <param name="keyBias">What the keys of a quantized cache were stored without; other types hold it, and it is ignored.</param>
    /// <exception cref="ArgumentException">The heads do not divide, or the head dimension is no multiple of 8 up to 256.</exception>
    public static void Run(
        WorkerPool pool, in KvLayer layer, ReadOnlySpan<AttentionSequence> sequences, float* q, long qStride, int queryHeads, float scale,
        int slidingWindow, float* output, long outputStride, byte* scratch, KeyBias keyBias = default)
    {
        if (Lanes512.IsSupported)
            Run<Lanes512>(pool, layer, sequences, q, qStride, queryHeads, scale, slidingWindow, output, outputStride, scratch, PartialBytes, keyBias);
        else if (Lanes256.IsSupported)
            Run<Lanes256>(pool, layer, sequences, q, qStride, queryHeads, scale, slidingWindow, output, outputStride, scratch, PartialBytes, keyBias);
        else
            Run<Lanes128>(pool, layer, sequences, q, qStride, queryHeads, scale, slidingWindow, output, outputStride, scratch, PartialBytes, keyBias);
    }

    /// <summary>The same at one instruction-set level, with so much of the scratch for split tiles.</summary>
    internal static void Run<TLanes>(
        WorkerPool pool, in KvLayer layer, ReadOnlySpan<AttentionSequence> sequences, float* q, long qStride, int queryHeads, float scale,
        int slidingWindow, float* output, long outputStride, byte* scratch, long partialBytes, KeyBias keyBias = default)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        ArgumentNullException.ThrowIfNull(pool);
        if (layer.Heads <= 0 || queryHeads <= 0 || queryHeads % layer.Heads != 0)
            throw new ArgumentException($"{queryHeads} query heads do not divide into {layer.Heads} key-value heads.", nameof(queryHeads));
        if (layer.HeadDim is <= 0 or > 256 || layer.HeadDim % 8 != 0)
            throw new ArgumentException($"A head dimension of {layer.HeadDim} is not a multiple of 8 up to 256.", nameof(layer));

        AttentionShape shape = new(queryHeads / layer.Heads, Width(layer.HeadDim), scale, slidingWindow, layer.Type.IsQuantized ? keyBias : default);
        long workerLength = AttentionTile.ScratchLength(shape.Group, layer.HeadDim, shape.Width);
        float* partials = (float*)scratch, workers = (float*)(scratch + PartialBytes);
        AttentionPlan* plans = (AttentionPlan*)(workers + (pool.Threads * workerLength));
        fixed (AttentionSequence* first = sequences)
        {
            AttentionStep step = new(layer, first, sequences.Length, shape, q, qStride, output, outputStride, plans, workers, workerLength, partials);
            int items = step.Plan(pool.Threads == 1 ? 0 : TilesPerThread * pool.Threads, partialBytes / sizeof(float), out bool anySplit);
            switch (layer.Type)
            {
                case KvType.F16:
                    Run<TLanes, F16Element>(pool, step, items, anySplit);
                    break;
                case KvType.BF16:
                    Run<TLanes, BF16Element>(pool, step, items, anySplit);
                    break;
                case KvType.F32:
                    Run<TLanes, F32Element>(pool, step, items, anySplit);
                    break;
                case KvType.Int8:
                    Run<TLanes, Int8Element>(pool, step, items, anySplit);
                    break;
                case KvType.F8_E4M3:
                    Run<TLanes, Float8Element<E4M3>>(pool, step, items, anySplit);
                    break;
                case KvType.F8_E5M2:
                    Run<TLanes, Float8Element<E5M2>>(pool, step, items, anySplit);
                    break;
                default:
                    throw new UnreachableException($"{layer.Type} is no cache type.");
            }
        }
    }

    private static int Width(int headDim) => (headDim + 15) & ~15;

    private static void Run<TLanes, TElement>(WorkerPool pool, in AttentionStep step, int items, bool anySplit)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        AttendJob<TLanes, TElement> attend = new(step);
        pool.Run(ref attend, items);
        if (anySplit)
        {
            MergeJob<TLanes> merge = new(step);
            pool.Run(ref merge, step.Sequences * step.KvHeads);
        }
    }

    private readonly struct AttendJob<TLanes, TElement>(AttentionStep step) : IJob
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        public void Execute(int from, int to, int worker)
        {
            for (int item = from; item < to; item++)
                step.Attend<TLanes, TElement>(item, worker);
        }
    }

    private readonly struct MergeJob<TLanes>(AttentionStep step) : IJob
        where TLanes : unmanaged, ILanes<TLanes>
    {
        public void Execute(int from, int to, int worker)
        {
            for (int item = from; item < to; item++)
                step.Merge<TLanes>(item, worker);
        }
    }
}
