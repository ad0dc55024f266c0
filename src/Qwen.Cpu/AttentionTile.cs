using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Consecutive tokens of one sequence against one key-value head: the unit of attention that one thread computes.</summary>
/// <remarks>
/// Its rows are [token][query head of the group]: all of them share each load of a key and a value. Canonical order for a row at position
/// p, whatever the tile, the thread or the size of a block. Positions are cut into chunks of <see cref="Chunk"/>, aligned to 0, and of a
/// chunk those count that causality and the window leave: scores are dot products (order of <see cref="FloatRows"/>) times the scale;
/// m is the largest; weights are e^(score - m); lane l of sixteen adds the weights at l, l + 16, .. of the chunk, and the lanes fold;
/// each output element adds weight * value in fused steps over rising positions, from 0. The chunks of a span of <see cref="Span"/>
/// positions merge in rising order, and so do the spans (<see cref="SoftmaxState.Merge"/>).
/// In a quantized cache the score is dot * scale of the key, or fma(dot, scale, bias score) where there is a <see cref="KeyBias"/>; and a
/// weight is multiplied by the value's scale once the weights are summed.
/// </remarks>
internal readonly unsafe struct AttentionTile(
    KvLayer layer, AttentionSequence sequence, int token, int tokens, int kvHead, AttentionShape shape)
{
    /// <summary>Positions whose scores are held at once: 128 floats a row.</summary>
    public const int Chunk = 128;

    /// <summary>Positions that different threads may work on apart; what they saw is then merged in order.</summary>
    public const int Span = 512;

    /// <summary>Rows of q that a tile holds, unless one token's group is larger: enough to pay for converting keys and values once per tile.</summary>
    private const int TargetRows = 96;

    /// <summary>
    /// Up to this many rows (decode) are bound by reading the cache: keys and values are asked for ahead, and positions are taken
    /// <see cref="Stretch"/> at a time, converted once for all rows, to L1.
    /// </summary>
    private const int FewRows = 16;

    /// <summary>Up to this many rows are one tile, which converts what it reads.</summary>
    private const int DirectRows = 4;

    /// <summary>Positions that are converted at once for few rows: 32 x 64 F32 are 8 KB.</summary>
    private const int Stretch = 32;

    private int Rows => tokens * shape.Group;

    private int FirstPosition => sequence.FirstPosition + token;

    private int Width => shape.Width;

    private int HeadDim => layer.HeadDim;

    /// <summary>The positions that any row wants.</summary>
    private PositionRange Positions => new(shape.WindowStart(FirstPosition), FirstPosition + tokens);

    /// <summary>Tokens of a tile.</summary>
    public static int Tokens(int group) => Math.Max(1, TargetRows / group);

    /// <summary>Rows of a full tile.</summary>
    public static int MaxRows(int group) => Tokens(group) * group;

    /// <summary>Floats of a worker's scratch: q, scores, values of a chunk, three states, and what FloatRows needs.</summary>
    public static long ScratchLength(int group, int headDim, int width)
    {
        int rows = MaxRows(group);
        return (((long)rows * headDim + 15) / 16 * 16) + ((long)rows * Chunk) + ((long)Chunk * width)
            + (3 * SoftmaxState.Length(rows, width)) + ((rows * 2 + 15) / 16 * 16) + (FloatRows.ScratchBytes(headDim) / sizeof(float))
            + (2 * Chunk) + ((long)rows * Chunk) + (((2 * (long)rows * headDim) + 15) / 16 * 16);
    }

    /// <summary>Attends to all positions and writes the rows' outputs.</summary>
    public void Run<TLanes, TElement>(float* q, long qStride, float* output, long outputStride, float* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        Memory memory = new(this, scratch);
        GatherQueries<TLanes>(q, qStride, memory);
        SoftmaxState total = memory.Total;
        total.Reset();
        PositionRange positions = Positions;
        for (int span = positions.From / Span; span * Span < positions.To; span++)
        {
            RunSpan<TLanes, TElement>(span, memory, memory.Span);
            total.Merge<TLanes>(memory.Span);
        }

        Write<TLanes>(total, output, outputStride);
    }

    /// <summary>Attends to one span's positions only and leaves what it saw in a state of this tile's rows.</summary>
    public void RunSpan<TLanes, TElement>(int span, float* q, long qStride, in SoftmaxState result, float* scratch)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        Memory memory = new(this, scratch);
        GatherQueries<TLanes>(q, qStride, memory);
        RunSpan<TLanes, TElement>(span, memory, result);
    }

    /// <summary>Writes the rows' outputs, [headDim] each.</summary>
    public void Write<TLanes>(in SoftmaxState total, float* output, long outputStride)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        for (int r = 0; r < Rows; r++)
        {
            (int t, int h) = Math.DivRem(r, shape.Group);
            float* head = output + ((sequence.FirstToken + token + t) * outputStride) + ((((long)kvHead * shape.Group) + h) * layer.HeadDim);
            total.Normalize<TLanes>(r, head, layer.HeadDim);
        }
    }

    private void GatherQueries<TLanes>(float* q, long qStride, in Memory memory)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        long group = (long)shape.Group * layer.HeadDim;
        for (int t = 0; t < tokens; t++)
        {
            float* source = q + ((sequence.FirstToken + token + t) * qStride) + (kvHead * group);
            Buffer.MemoryCopy(source, memory.Queries + (t * group), group * sizeof(float), group * sizeof(float));
        }

        if (shape.KeyBias.Exists)
            shape.KeyBias.Project<TLanes>(memory.Queries, Rows, kvHead, HeadDim, memory.Projected);
    }

    private void RunSpan<TLanes, TElement>(int span, in Memory memory, in SoftmaxState result)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        result.Reset();
        PositionRange positions = Positions;
        int end = Math.Min((span + 1) * Span, positions.To);
        for (int chunk = span * Span; chunk < end; chunk += Chunk)
        {
            int from = Math.Max(chunk, positions.From), to = Math.Min(chunk + Chunk, end);
            if (from >= to)
                continue;
            Score<TLanes, TElement>(chunk, from, to, memory);
            if (TElement.Limit != 0)
                ScaleScores<TLanes>(chunk, from, to, memory);
            memory.Chunk.Reset();
            for (int r = 0; r < Rows; r++)
            {
                int position = FirstPosition + (r / shape.Group);
                PositionRange range = new(Math.Max(shape.WindowStart(position), from) - chunk, Math.Min(position + 1, to) - chunk);
                memory.Ranges[r] = range;
                if (range.From >= range.To)
                    continue;
                float* row = memory.Scores + ((long)r * Chunk);
                Exponentiate<TLanes>(row, range, shape.Scale, out memory.Chunk.Max[r], out memory.Chunk.Sum[r]);
                if (TElement.Limit != 0)
                    Multiply<TLanes>(row, memory.ValueScales, range.From & ~15, range.To);
            }

            Accumulate<TLanes, TElement>(chunk, from, to, memory);
            result.Merge<TLanes>(memory.Chunk);
        }
    }

    /// <summary>scores[row, position - chunk] = dot(q[row], key[position]) for positions [from, to).</summary>
    private void Score<TLanes, TElement>(int chunk, int from, int to, in Memory memory)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        long keyBytes = (long)layer.HeadDim * TElement.Bytes;
        FloatVectors queries = new(memory.Queries, layer.HeadDim, Rows);
        bool few = Rows <= FewRows && Width == layer.HeadDim;
        while (from < to)
        {
            long index = Locate(from, few ? Math.Min(to, from + Stretch) : to, out int count);
            FloatWeights keys = new(layer.Keys + (index * keyBytes), keyBytes, count);
            FloatOutput scores = new(memory.Scores + (from - chunk), Chunk, accumulate: false);
            if (!few)
            {
                FloatRows.Multiply<TLanes, TElement>(keys, queries, layer.HeadDim, scores, memory.FloatRows);
            }
            else
            {
                PrefetchAhead(layer.Keys, keyBytes, from, count);
                if (Rows <= DirectRows)
                {
                    KeyScores.Compute<TLanes, TElement>(keys, queries, Width, scores);
                }
                else
                {
                    FloatElements.Widen<TLanes, TElement>(keys.Data, memory.Values, count * Width);
                    KeyScores.Compute<TLanes, PanelElement>(new((byte*)memory.Values, Width * sizeof(float), count), queries, Width, scores);
                }
            }

            if (TElement.Limit != 0)
            {
                Copy(layer.KeyScales + index, memory.KeyScales + (from - chunk), count);
                Copy(layer.ValueScales + index, memory.ValueScales + (from - chunk), count);
            }

            from += count;
        }
    }

    /// <summary>Dot products with codes become scores: the scales of the keys, and what the keys lack of their bias.</summary>
    private void ScaleScores<TLanes>(int chunk, int from, int to, in Memory memory)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        int first = (from - chunk) & ~15, last = to - chunk;
        if (!shape.KeyBias.Exists)
        {
            for (int r = 0; r < Rows; r++)
                Multiply<TLanes>(memory.Scores + ((long)r * Chunk), memory.KeyScales, first, last);
            return;
        }

        shape.KeyBias.Rotate<TLanes>(memory.Projected, Rows, chunk, HeadDim, memory.Rotated);
        FloatWeights within = new((byte*)(shape.KeyBias.Within + ((from - chunk) * (long)HeadDim)), HeadDim * sizeof(float), to - from);
        FloatOutput output = new(memory.BiasScores + (from - chunk), Chunk, accumulate: false);
        FloatRows.Multiply<TLanes, PanelElement>(within, new(memory.Rotated, HeadDim, Rows), HeadDim, output, memory.FloatRows);
        for (int r = 0; r < Rows; r++)
        {
            float* scores = memory.Scores + ((long)r * Chunk), bias = memory.BiasScores + ((long)r * Chunk);
            for (int i = first; i < last; i += 16)
                TLanes.Store(TLanes.MultiplyAdd(TLanes.Load(scores + i), TLanes.Load(memory.KeyScales + i), TLanes.Load(bias + i)), scores + i);
        }
    }

    /// <summary>x[i] *= y[i] for whole vectors from first on.</summary>
    private static void Multiply<TLanes>(float* x, float* y, int first, int last)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        for (int i = first; i < last; i += 16)
            TLanes.Store(TLanes.Load(x + i) * TLanes.Load(y + i), x + i);
    }

    private static void Copy(float* source, float* target, int count) => Buffer.MemoryCopy(source, target, count * sizeof(float), count * sizeof(float));

    /// <summary>Scores of a row become weights e^(score * scale - max), with their maximum and sum.</summary>
    private static void Exponentiate<TLanes>(float* scores, PositionRange range, float scale, out float max, out float sum)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        // Whole vectors: what lies outside the range becomes -infinity, whose weight is 0 and adds nothing.
        int from = range.From & ~15, to = (range.To + 15) & ~15;
        new Span<float>(scores + from, range.From - from).Fill(float.NegativeInfinity);
        new Span<float>(scores + range.To, to - range.To).Fill(float.NegativeInfinity);

        float* stage = stackalloc float[16];
        TLanes scales = TLanes.Broadcast(scale), most = TLanes.Broadcast(float.NegativeInfinity);
        for (int i = from; i < to; i += 16)
        {
            TLanes score = TLanes.Load(scores + i) * scales;
            TLanes.Store(score, scores + i);
            most = TLanes.SelectLess(most, score, score, most);
        }

        TLanes.Store(most, stage);
        float largest = stage[0];
        for (int i = 1; i < 16; i++)
            largest = largest < stage[i] ? stage[i] : largest;

        max = largest;
        sum = Softmax.Weights<TLanes>(scores + from, to - from, largest, scores + from);
    }

    /// <summary>chunk output[row] = sum of weight * value over the row's positions.</summary>
    private void Accumulate<TLanes, TElement>(int chunk, int from, int to, in Memory memory)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        // F32 copies, unless one tile of rows reads the cache directly: many positions at once for many rows, few that stay in L1 for few.
        bool few = Rows <= FewRows && Width == layer.HeadDim, direct = few && Rows <= DirectRows;
        long valueBytes = (long)layer.HeadDim * TElement.Bytes;
        int first = from; // position of the first value that is copied and not yet added
        for (int position = from; position < to;)
        {
            byte* values = layer.Values + (Locate(position, few ? Math.Min(to, first + Stretch) : to, out int count) * valueBytes);
            if (few)
                PrefetchAhead(layer.Values, valueBytes, position, count);
            if (direct)
            {
                WeightedValues.Accumulate<TLanes, TElement>(
                    memory.Scores, Chunk, memory.Ranges, Rows, values, valueBytes, position - chunk, position - chunk + count, memory.Chunk.Output, Width);
                first = position += count;
                continue;
            }

            for (int i = 0; i < count; i++)
                FloatElements.Widen<TLanes, TElement>(values + (i * valueBytes), memory.Values + ((position - first + i) * Width), layer.HeadDim);
            position += count;
            if (position == to || (few && position == first + Stretch))
            {
                WeightedValues.Accumulate<TLanes, PanelElement>(
                    memory.Scores, Chunk, memory.Ranges, Rows, (byte*)memory.Values, Width * sizeof(float), first - chunk, position - chunk, memory.Chunk.Output, Width);
                first = position;
            }
        }
    }

    /// <summary>Asks L2 for keys, or values, as many as there are from a position on, in the block after its own: blocks lie anywhere, so the processor does not look ahead by itself.</summary>
    private void PrefetchAhead(byte* vectors, long vectorBytes, int position, int count)
    {
        int ahead = position + layer.BlockSize;
        if (!Sse.IsSupported || ahead >= Positions.To)
            return;
        byte* next = vectors + (Locate(ahead, ahead + count, out _) * vectorBytes);
        for (long i = 0; i < count * vectorBytes; i += 64)
            Sse.Prefetch1(next + i);
    }

    /// <summary>The number of a position's key, and value; and how many positions follow in its block, up to a limit.</summary>
    private long Locate(int position, int limit, out int count)
    {
        (int block, int offset) = Math.DivRem(position, layer.BlockSize);
        count = Math.Min(layer.BlockSize - offset, limit - position);
        return layer.Index(sequence.Blocks[block], kvHead, offset);
    }

    /// <summary>A worker's scratch, cut up for a tile.</summary>
    private readonly struct Memory
    {
        public readonly float* Queries;
        public readonly float* Scores;
        public readonly float* Values;
        public readonly SoftmaxState Chunk;
        public readonly SoftmaxState Span;
        public readonly SoftmaxState Total;
        public readonly PositionRange* Ranges;
        public readonly float* KeyScales;
        public readonly float* ValueScales;
        public readonly float* BiasScores;
        public readonly float* Projected;
        public readonly float* Rotated;
        public readonly byte* FloatRows;

        public Memory(in AttentionTile tile, float* scratch)
        {
            int rows = tile.Rows, width = tile.Width;
            long state = SoftmaxState.Length(rows, width);
            Scores = scratch;
            Values = Scores + ((long)rows * AttentionTile.Chunk);
            Chunk = new(Values + ((long)AttentionTile.Chunk * width), rows, width);
            Span = new(Chunk.Output + state, rows, width);
            Total = new(Span.Output + state, rows, width);
            Ranges = (PositionRange*)(Total.Output + state);
            Queries = (float*)Ranges + ((((rows * 2) + 15) / 16) * 16);
            KeyScales = Queries + ((((long)rows * tile.HeadDim) + 15) / 16 * 16);
            ValueScales = KeyScales + AttentionTile.Chunk;
            BiasScores = ValueScales + AttentionTile.Chunk;
            Projected = BiasScores + ((long)rows * AttentionTile.Chunk);
            Rotated = Projected + ((long)rows * tile.HeadDim);
            FloatRows = (byte*)(Projected + (((2 * (long)rows * tile.HeadDim) + 15) / 16 * 16));
        }
    }
}

/// <summary>What all tiles of a step share.</summary>
internal readonly struct AttentionShape(int group, int width, float scale, int slidingWindow, KeyBias keyBias)
{
    /// <summary>What the keys of a quantized cache were stored without.</summary>
    public readonly KeyBias KeyBias = keyBias;

    /// <summary>Query heads per key-value head.</summary>
    public readonly int Group = group;

    /// <summary>The head dimension rounded up to sixteen lanes.</summary>
    public readonly int Width = width;

    /// <summary>Factor on the scores.</summary>
    public readonly float Scale = scale;

    private readonly int _slidingWindow = slidingWindow;

    /// <summary>The first position that a token at this position sees.</summary>
    public int WindowStart(int position) => _slidingWindow == 0 ? 0 : Math.Max(0, position - _slidingWindow + 1);
}
