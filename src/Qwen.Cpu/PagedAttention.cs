using System.Diagnostics;

namespace Qwen.Cpu;

/// <summary>The tokens that a sequence has in a step: rows [FirstToken, FirstToken + Tokens) of q, at consecutive positions.</summary>
/// <param name="firstToken">Row of q and of the output of its first token.</param>
/// <param name="tokens">Tokens: 1 when decoding, a chunk of the prompt in prefill.</param>
/// <param name="firstPosition">Position of its first token. The cache already holds keys and values up to the last token's position.</param>
/// <param name="blocks">The sequence's block table: block number of positions [i * BlockSize, (i + 1) * BlockSize).</param>
public readonly unsafe struct AttentionSequence(int firstToken, int tokens, int firstPosition, int* blocks)
{
    /// <summary>Row of its first token.</summary>
    public readonly int FirstToken = firstToken;

    /// <summary>Tokens in this step.</summary>
    public readonly int Tokens = tokens;

    /// <summary>Position of its first token.</summary>
    public readonly int FirstPosition = firstPosition;

    /// <summary>Block table.</summary>
    public readonly int* Blocks = blocks;
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

    /// <summary>The most scratch that split tiles are granted; without room, a tile is simply not split.</summary>
    private const long MaxPartialBytes = 64 << 20;

    /// <summary>Bytes of scratch for <see cref="Run"/>, 64-byte aligned.</summary>
    /// <param name="threads">Threads of the pool.</param>
    /// <param name="sequences">Most sequences of a step.</param>
    /// <param name="queryHeads">Query heads.</param>
    /// <param name="kvHeads">Key-value heads.</param>
    /// <param name="headDim">Elements of a head.</param>
    /// <param name="positions">Longest context.</param>
    public static long ScratchBytes(int threads, int sequences, int queryHeads, int kvHeads, int headDim, int positions)
    {
        int group = queryHeads / kvHeads, width = (headDim + 15) & ~15;
        long spans = (positions / AttentionTile.Span) + 1;
        long partials = spans * kvHeads * SoftmaxState.Length(group, width) * sizeof(float);
        long split = Math.Min(sequences, ((long)TilesPerThread * threads / kvHeads) + 1);
        return PlanBytes(sequences)
            + (threads * AttentionTile.ScratchLength(group, headDim, width) * sizeof(float))
            + Math.Min(MaxPartialBytes, checked(partials * split));
    }

    /// <summary>output[token, head] = softmax(scale * q[token, head] . K) V over the positions that causality and the window leave.</summary>
    /// <param name="pool">The threads.</param>
    /// <param name="layer">The cache of this layer.</param>
    /// <param name="sequences">[count].</param>
    /// <param name="count">Sequences.</param>
    /// <param name="q">[tokens, queryHeads, headDim], qStride elements from a token to the next.</param>
    /// <param name="qStride">Elements from a token of q to the next.</param>
    /// <param name="queryHeads">A multiple of the layer's key-value heads; neighbours share one.</param>
    /// <param name="scale">Factor on the scores, usually 1 / sqrt(headDim).</param>
    /// <param name="slidingWindow">A token sees this many positions, itself included; 0 for all.</param>
    /// <param name="output">[tokens, queryHeads, headDim], outputStride elements from a token to the next.</param>
    /// <param name="outputStride">Elements from a token of the output to the next.</param>
    /// <param name="scratch">64-byte aligned.</param>
    /// <param name="scratchBytes">At least <see cref="ScratchBytes"/> for these sizes (with a context of 0 it runs too, but does not split).</param>
    /// <exception cref="ArgumentException">The heads do not divide, the head dimension is no multiple of 8 up to 256, or scratch is too small.</exception>
    public static void Run(
        WorkerPool pool, in KvLayer layer, AttentionSequence* sequences, int count, float* q, long qStride, int queryHeads, float scale,
        int slidingWindow, float* output, long outputStride, byte* scratch, long scratchBytes)
    {
        if (Lanes512.IsSupported)
            Run<Lanes512>(pool, layer, sequences, count, q, qStride, queryHeads, scale, slidingWindow, output, outputStride, scratch, scratchBytes);
        else if (Lanes256.IsSupported)
            Run<Lanes256>(pool, layer, sequences, count, q, qStride, queryHeads, scale, slidingWindow, output, outputStride, scratch, scratchBytes);
        else
            Run<Lanes128>(pool, layer, sequences, count, q, qStride, queryHeads, scale, slidingWindow, output, outputStride, scratch, scratchBytes);
    }

    internal static void Run<TLanes>(
        WorkerPool pool, in KvLayer layer, AttentionSequence* sequences, int count, float* q, long qStride, int queryHeads, float scale,
        int slidingWindow, float* output, long outputStride, byte* scratch, long scratchBytes)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        ArgumentNullException.ThrowIfNull(pool);
        if (layer.Heads <= 0 || queryHeads <= 0 || queryHeads % layer.Heads != 0)
            throw new ArgumentException($"{queryHeads} query heads do not divide into {layer.Heads} key-value heads.", nameof(queryHeads));
        if (layer.HeadDim is <= 0 or > 256 || layer.HeadDim % 8 != 0)
            throw new ArgumentException($"A head dimension of {layer.HeadDim} is not a multiple of 8 up to 256.", nameof(layer));

        int group = queryHeads / layer.Heads, width = (layer.HeadDim + 15) & ~15;
        long workerLength = AttentionTile.ScratchLength(group, layer.HeadDim, width);
        byte* workers = scratch + PlanBytes(count);
        byte* partials = workers + (pool.Threads * workerLength * sizeof(float));
        long partialBytes = scratchBytes - (partials - scratch);
        if (partialBytes < 0)
            throw new ArgumentException($"{scratchBytes} bytes of scratch are {-partialBytes} too few.", nameof(scratchBytes));

        AttentionStep step = new(
            layer, sequences, count, new(group, width, scale, slidingWindow), q, qStride, output, outputStride,
            (AttentionPlan*)scratch, (float*)workers, workerLength, (float*)partials);
        int items = step.Plan(TilesPerThread * pool.Threads, partialBytes / sizeof(float), out bool anySplit);
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
            default:
                throw new UnreachableException($"{layer.Type} is no cache type.");
        }
    }

    private static long PlanBytes(int sequences) => (((long)sequences * sizeof(AttentionPlan)) + 63) & ~63L;

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
