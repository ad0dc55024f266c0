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
    private readonly Shared _ticket, _maxima, _weights; // the last two [part][query], of the parts that are merged

    /// <summary>Takes shared memory.</summary>
    public DecodeMerge(PtxBuilder builder, AttentionShape shape, Global workspace)
    {
        (k, _shape, _tickets, _parts) = (builder, shape, workspace, workspace + TicketBytes);
        _ticket = k.AllocateShared(sizeof(uint));
        _maxima = k.AllocateShared(PartsAtOnce * shape.Group * sizeof(float));
        _weights = k.AllocateShared(PartsAtOnce * shape.Group * sizeof(float));
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

    private U32 Slot(U32 block, Pred begins) => (block * 2) + k.Select<U32>(begins, 1, 0);

    private Global Part(U32 slot) => _parts.At(slot, PartBytes(_shape));

    // A thread has four columns of a query, or several times that, and many parts' under way. Blocks wrote them meanwhile: past L1.
    private void Sum(U32 first, U32 begin, U32 stride, U32 count, Pred isEnd, Global rows)
    {
        int vectors = Columns / Width, perThread = (vectors + k.Threads - 1) / k.Threads, ahead = perThread == 1 ? PartsAtOnce / 2 : Math.Max(1, 12 / perThread); // more take registers that blocks are then short of
        U32[] columns = [.. Enumerable.Range(0, perThread).Select(i => k.Min(k.Thread + (i * k.Threads), vectors - 1) * Width)]; // some have the last ones, too
        U32[] queries = [.. columns.Select(column => column / _shape.HeadDim)];
        using (k.For(k.Thread, count * _shape.Group, k.Threads, out U32 pair))
        {
            U32 nth = pair / _shape.Group, query = pair % _shape.Group;
            Global part = PartOf(nth);
            k.Store(_maxima.At(pair, sizeof(float)), k.Load<F32>(Maximum(part, query), CacheHint.L2Only));
            k.Store(_weights.At(pair, sizeof(float)), k.Load<F32>(Weight(part, query), CacheHint.L2Only));
        }

        F32[][] sums = [.. columns.Select(_ => Enumerable.Range(0, Width).Select(_ => k.Variable<F32>(0f)).ToArray())];
        F32[] weights = [.. columns.Select(_ => k.Variable<F32>(0f))], maxima = [.. columns.Select(_ => k.Variable<F32>(float.NegativeInfinity))];
        using (k.For(0, count, ahead, out U32 index))
        {
            var values = new F32[ahead][][];
            for (int a = 0; a < ahead; a++)
            {
                Global part = PartOf(k.Min(index + a, count - 1));
                values[a] = [.. columns.Select(column => k.LoadVector<F32>(part.At(column, sizeof(float)), Width, CacheHint.L2Only))];
            }

            using (k.If(index.Is(0), uniform: true))
            {
                k.Barrier(); // maxima and weights are there
                for (int i = 0; i < perThread; i++)
                {
                    using (k.For(0, count, out U32 nth))
                        k.Set(maxima[i], k.Max(maxima[i], k.Load<F32>(Of(_maxima, nth, queries[i]))));
                }
            }

            for (int a = 0; a < ahead; a++)
            {
                U32 nth = k.Min(index + a, count - 1);
                Pred exists = index + a < count;
                for (int i = 0; i < perThread; i++)
                {
                    F32 factor = k.Select<F32>(exists, k.Exp2(k.Load<F32>(Of(_maxima, nth, queries[i])) - maxima[i]), 0f);
                    for (int c = 0; c < Width; c++)
                        k.FmaInto(sums[i][c], values[a][i][c], factor);
                    k.FmaInto(weights[i], k.Load<F32>(Of(_weights, nth, queries[i])), factor);
                }
            }
        }

        k.Barrier(); // the first part has been read
        Global result = Part(Slot(first + begin, begin.Is(0)));
        for (int i = 0; i < perThread; i++)
        {
            Pred exists = k.Thread + (i * k.Threads) < vectors, isPart = exists & !isEnd, isFirst = isPart & (columns[i] % _shape.HeadDim).Is(0);
            F32 inverse = k.Reciprocal(weights[i]);
            k.StoreElements(_shape.Type, rows.At(columns[i], sizeof(ushort)), [.. sums[i].Select(sum => sum * inverse)], exists & isEnd);
            k.StoreVector<F32>(result.At(columns[i], sizeof(float)), sums[i], isPart);
            k.Store(Maximum(result, queries[i]), maxima[i], isFirst);
            k.Store(Weight(result, queries[i]), weights[i], isFirst);
        }

        Global PartOf(U32 nth)
        {
            U32 of = begin + (nth * stride);
            return Part(Slot(first + of, of.Is(0)));
        }

        Shared Of(Shared table, U32 nth, U32 query) => table.At((nth * _shape.Group) + query, sizeof(float));
    }
}
