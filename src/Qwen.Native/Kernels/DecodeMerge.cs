using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Merges what several blocks did of one head: whichever of them is done last does it, told by a ticket.</summary>
/// <remarks>
/// No block waits for another, and no kernel follows. Parts are merged in groups of <see cref="DecodeSchedule.PartsAtOnce"/>, and then the groups, so that one
/// block needn't read all parts of a long context. Who merges depends on who is late, in what order doesn't. Tickets count themselves
/// back (atom.inc), so that a launch finds them as the last one did: at zero.
/// A part is sums [group][headDim], then maxima [group] and weights [group], F32. A block has two slots for parts: of a head that it began, and of one
/// that others did; so a slot's number also tells groups apart that begin in the same block.
/// </remarks>
internal sealed class DecodeMerge
{
    /// <summary>Most blocks that tickets are there for.</summary>
    public const int MostBlocks = 4096;

    /// <summary>Bytes of the tickets, at the start of the workspace and as many for all shapes, so that these can share it: one for each slot, and one for groups.</summary>
    public const int TicketBytes = 2 * LevelBytes;

    private const int LevelBytes = MostBlocks * 2 * sizeof(uint);
    private const int PartsAtOnce = DecodeSchedule.PartsAtOnce, Width = 4;

    private readonly PtxBuilder k;
    private readonly AttentionShape _shape;
    private readonly Global _tickets, _parts;
    private readonly Shared _ticket, _maxima, _factors, _weights; // but for the ticket [part][query], of the parts that are merged

    /// <summary>Takes shared memory.</summary>
    public DecodeMerge(PtxBuilder builder, AttentionShape shape, Global workspace)
    {
        (k, _shape, _tickets, _parts) = (builder, shape, workspace, workspace + TicketBytes);
        _ticket = k.AllocateShared(sizeof(uint));
        _maxima = k.AllocateShared(Padded * shape.Group * sizeof(float));
        _factors = k.AllocateShared(Padded * shape.Group * sizeof(float));
        _weights = k.AllocateShared(Padded * shape.Group * sizeof(float));
    }

    // As many parts as PartsAtOnce in whole loads of as many as are under way.
    private int Padded
    {
        get
        {
            int ahead = Ahead(((Columns / Width) + k.Threads - 1) / k.Threads);
            return (PartsAtOnce + ahead - 1) / ahead * ahead;
        }
    }

    private int Columns => _shape.Group * _shape.HeadDim; // of all queries of a head

    /// <summary>Bytes of a slot, rounded up to 16.</summary>
    public static int PartBytes(AttentionShape shape) => ((shape.Group * (shape.HeadDim + 2) * sizeof(float)) + 15) / 16 * 16;

    /// <summary>The slot of this block's part.</summary>
    /// <param name="begins">Whether it is a head's first.</param>
    public Global Part(Pred begins) => Part(Slot(k.BlockX, begins));

    /// <summary>Of a query's part.</summary>
    public Global Maximum(Global part, U32 query) => part.At(query, sizeof(float)) + (Columns * sizeof(float));

    /// <summary>Of a query's part.</summary>
    public Global Weight(Global part, U32 query) => Maximum(part, query) + (_shape.Group * sizeof(float));

    /// <summary>Merges what can be merged, now that this block has written its part. All threads.</summary>
    /// <param name="first">The block that began the head.</param>
    /// <param name="parts">How many blocks did some of it, one behind the other.</param>
    /// <param name="rows">The result, [group][headDim].</param>
    public void Merge(U32 first, U32 parts, Global rows)
    {
        // Of the parts begin, begin + stride, ... so many are merged into the first of them.
        U32 begin = k.Variable((k.BlockX - first) / PartsAtOnce * PartsAtOnce), stride = k.Variable<U32>(1);
        U32 count = k.Variable(k.Min(parts - begin, PartsAtOnce)), level = k.Variable<U32>(0);
        using (k.While(() => count > 0))
        {
            k.Barrier(); // what the block wrote comes before its ticket
            using (k.If(k.Thread.Is(0)))
            {
                k.FenceDevice();
                Global ticket = _tickets.At(level, LevelBytes).At(Slot(first + begin, begin.Is(0)), sizeof(uint));
                k.Store(_ticket, k.AtomicIncrement(ticket, count - 1));
                k.FenceDevice(); // and what others wrote before theirs is seen behind the barrier
            }

            k.Barrier();
            Pred isLast = k.Load<U32>(_ticket).Is(count - 1), isEnd = stride.Is(PartsAtOnce) | (parts <= PartsAtOnce);
            using (k.If(isLast, uniform: true))
                Sum(first, begin, stride, count, isEnd, rows);

            // On with the groups, if there are others.
            k.Set(count, k.Select<U32>(isLast & !isEnd, (parts + (PartsAtOnce - 1)) / PartsAtOnce, 0));
            k.Set(begin, 0);
            k.Set(stride, PartsAtOnce);
            k.Set(level, 1);
        }
    }

    // More take registers that blocks are then short of.
    private static int Ahead(int perThread) => Math.Max(1, 12 / perThread);

    private U32 Slot(U32 block, Pred begins) => (block * 2) + k.Select<U32>(begins, 1, 0);

    private Global Part(U32 slot) => _parts.At(slot, PartBytes(_shape));

    // A thread has four columns of a query, or several times that, and many parts' under way: all is asked for before anything is waited for. Blocks wrote the
    // parts meanwhile: past L1.
    private void Sum(U32 first, U32 begin, U32 stride, U32 count, Pred isEnd, Global rows)
    {
        int vectors = Columns / Width, perThread = (vectors + k.Threads - 1) / k.Threads, ahead = Ahead(perThread);
        U32[] columns = [.. Enumerable.Range(0, perThread).Select(i => k.Min(k.Thread + (i * k.Threads), vectors - 1) * Width)]; // some have the last ones, too
        U32[] queries = [.. columns.Select(column => column / _shape.HeadDim)];
        var pairs = new (U32 Pair, F32 Maximum, F32 Weight)[((Padded * _shape.Group) + k.Threads - 1) / k.Threads];
        for (int i = 0; i < pairs.Length; i++)
        {
            U32 pair = k.Thread + (i * k.Threads), query = pair % _shape.Group;
            Pred exists = pair < count * _shape.Group;
            Global part = PartOf(pair / _shape.Group);
            F32 maximum = k.Load<F32>(Maximum(part, query), CacheHint.L2Only, exists);
            pairs[i] = (pair, k.Select<F32>(exists, maximum, float.NegativeInfinity), k.Load<F32>(Weight(part, query), CacheHint.L2Only, exists));
        }

        F32[][][] values = [.. Enumerable.Range(0, ahead).Select(_ => columns.Select(_ => Enumerable.Range(0, Width).Select(_ => k.Variable<F32>()).ToArray()).ToArray())];
        LoadValues(0);
        foreach ((U32 pair, F32 maximum, F32 weight) in pairs)
            k.Store(_maxima.At(pair, sizeof(float)), maximum, pair < Padded * _shape.Group);
        k.Barrier();
        foreach ((U32 pair, F32 maximum, F32 weight) in pairs)
        {
            F32 factor = k.Exp2(maximum - MaximumOf(pair % _shape.Group));
            k.Store(_factors.At(pair, sizeof(float)), factor, pair < Padded * _shape.Group);
            k.Store(_weights.At(pair, sizeof(float)), weight * factor, pair < Padded * _shape.Group);
        }

        k.Barrier();
        F32[][] sums = [.. columns.Select(_ => Enumerable.Range(0, Width).Select(_ => k.Variable<F32>(0f)).ToArray())];
        using (k.For(0, count, ahead, out U32 index))
        {
            for (int a = 0; a < ahead; a++)
            {
                for (int i = 0; i < perThread; i++)
                {
                    F32 factor = k.Load<F32>(_factors.At((index * _shape.Group) + queries[i], sizeof(float)) + (a * _shape.Group * sizeof(float)));
                    for (int c = 0; c < Width; c++)
                        k.FmaInto(sums[i][c], values[a][i][c], factor);
                }
            }

            using (k.If(index + ahead < count, uniform: true))
                LoadValues(index + ahead);
        }

        k.Barrier(); // the first part has been read
        Global result = Part(Slot(first + begin, begin.Is(0)));
        for (int i = 0; i < perThread; i++)
        {
            Pred exists = k.Thread + (i * k.Threads) < vectors, isPart = exists & !isEnd, isFirst = isPart & (columns[i] % _shape.HeadDim).Is(0);
            F32 weight = Over(_weights, queries[i], (a, b) => a + b), inverse = k.Reciprocal(weight);
            k.StoreElements(_shape.Type, rows.At(columns[i], sizeof(ushort)), [.. sums[i].Select(sum => sum * inverse)], exists & isEnd);
            k.StoreVector<F32>(result.At(columns[i], sizeof(float)), sums[i], isPart);
            k.Store(Maximum(result, queries[i]), MaximumOf(queries[i]), isFirst);
            k.Store(Weight(result, queries[i]), weight, isFirst);
        }

        void LoadValues(U32 index)
        {
            for (int a = 0; a < ahead; a++)
            {
                Global part = PartOf(k.Min(index + a, count - 1)); // past the last, its values again, times zero
                for (int i = 0; i < perThread; i++)
                    k.LoadInto<F32>(values[a][i], part.At(columns[i], sizeof(float)), CacheHint.L2Only);
            }
        }

        F32 MaximumOf(U32 query) => Over(_maxima, query, k.Max);

        F32 Over(Shared table, U32 query, Func<F32, F32, F32> combine) => Enumerable.Range(0, PartsAtOnce)
            .Select(part => k.Load<F32>(table.At(query, sizeof(float)) + (part * _shape.Group * sizeof(float)))).Aggregate(combine);

        Global PartOf(U32 nth)
        {
            U32 of = begin + (nth * stride);
            return Part(Slot(first + of, of.Is(0)));
        }
    }
}
