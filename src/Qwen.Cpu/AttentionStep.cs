namespace Qwen.Cpu;

/// <summary>How one sequence's work is cut up.</summary>
internal struct AttentionPlan
{
    /// <summary>Number of its first item; the items of the sequences follow each other.</summary>
    public int FirstItem;

    /// <summary>Spans that its one tile is split over; 0 when its tiles are whole.</summary>
    public int SplitSpans;

    /// <summary>The first of those spans.</summary>
    public int FirstSpan;

    /// <summary>Floats from the start of the partial states to this sequence's: [kvHead][span].</summary>
    public long Partials;
}

/// <summary>One run of attention over a batch: its operands, and which item of work is which.</summary>
internal readonly unsafe struct AttentionStep(
    KvLayer layer, AttentionSequence* sequences, int count, AttentionShape shape, float* q, long qStride, float* output, long outputStride,
    AttentionPlan* plans, float* workers, long workerLength, float* partials)
{
    public int Sequences => count;

    public int KvHeads => layer.Heads;

    /// <summary>Cuts the sequences into items; returns how many there are.</summary>
    /// <param name="enough">Items at which nothing is split.</param>
    /// <param name="partialLength">Floats there are for partial states.</param>
    /// <param name="anySplit">Whether <see cref="Merge"/> has something to do.</param>
    public int Plan(int enough, long partialLength, out bool anySplit)
    {
        int tiles = 0;
        for (int s = 0; s < count; s++)
            tiles = checked(tiles + (Tiles(s) * layer.Heads));

        int items = 0;
        long used = 0;
        for (int s = 0; s < count; s++)
        {
            AttentionPlan plan = new() { FirstItem = items, Partials = used };
            int first = shape.WindowStart(sequences[s].FirstPosition) / AttentionTile.Span;
            int spans = ((sequences[s].FirstPosition + sequences[s].Tokens - 1) / AttentionTile.Span) + 1 - first;
            long length = (long)layer.Heads * spans * StateLength(s);
            if (tiles < enough && Tiles(s) == 1 && spans > 1 && length <= partialLength - used)
            {
                plan.SplitSpans = spans;
                plan.FirstSpan = first;
                used += length;
            }

            plans[s] = plan;
            items = checked(items + (layer.Heads * (plan.SplitSpans == 0 ? Tiles(s) : spans)));
        }

        anySplit = used != 0;
        return items;
    }

    /// <summary>A whole tile to its output, or a tile's span to its partial state.</summary>
    public void Attend<TLanes, TElement>(int item, int worker)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        int s = FindSequence(item);
        AttentionPlan plan = plans[s];
        (int part, int kvHead) = Math.DivRem(item - plan.FirstItem, layer.Heads);
        float* scratch = workers + (worker * workerLength);
        if (plan.SplitSpans != 0)
            Tile(s, 0, kvHead).RunSpan<TLanes, TElement>(plan.FirstSpan + part, q, qStride, Partial(s, kvHead, part), scratch);
        else // The last tiles see the longest context: they go first.
            Tile(s, Tiles(s) - 1 - part, kvHead).Run<TLanes, TElement>(q, qStride, output, outputStride, scratch);
    }

    /// <summary>The partial states of a split sequence and head, merged in order, to the output.</summary>
    /// <param name="item">sequence * heads + head.</param>
    /// <param name="worker">Whose scratch to use.</param>
    public void Merge<TLanes>(int item, int worker)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        (int s, int kvHead) = Math.DivRem(item, layer.Heads);
        if (plans[s].SplitSpans == 0)
            return;
        SoftmaxState total = new(workers + (worker * workerLength), sequences[s].Tokens * shape.Group, shape.Width);
        total.Reset();
        for (int span = 0; span < plans[s].SplitSpans; span++)
            total.Merge<TLanes>(Partial(s, kvHead, span));
        Tile(s, 0, kvHead).Write<TLanes>(total, output, outputStride);
    }

    private int Tiles(int s) => (sequences[s].Tokens + AttentionTile.Tokens(shape.Group) - 1) / AttentionTile.Tokens(shape.Group);

    private AttentionTile Tile(int s, int tile, int kvHead)
    {
        int token = tile * AttentionTile.Tokens(shape.Group);
        return new(layer, sequences[s], token, Math.Min(AttentionTile.Tokens(shape.Group), sequences[s].Tokens - token), kvHead, shape);
    }

    private long StateLength(int s) => SoftmaxState.Length(sequences[s].Tokens * shape.Group, shape.Width);

    private SoftmaxState Partial(int s, int kvHead, int span)
    {
        long index = ((long)kvHead * plans[s].SplitSpans) + span;
        return new(partials + plans[s].Partials + (index * StateLength(s)), sequences[s].Tokens * shape.Group, shape.Width);
    }

    /// <summary>The sequence whose items hold this one.</summary>
    private int FindSequence(int item)
    {
        int low = 0, high = count - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            if (plans[middle].FirstItem <= item)
                low = middle;
            else
                high = middle - 1;
        }

        return low;
    }
}
