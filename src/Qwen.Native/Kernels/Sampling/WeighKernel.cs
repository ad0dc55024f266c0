using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>
/// The first half of drawing a token: what the tokens of a row weigh, as a histogram over their weights, and which of its bins the choice can fall
/// into. Where nothing is filtered, the sums of neighbouring tokens, and the token itself.
/// </summary>
/// <remarks>Several blocks share a row: each has a part of the tokens, and the last to be done looks at the sums.</remarks>
internal sealed class WeighKernel(KernelCache cache, int vocabulary, int? stride) : Kernel(cache, Build(cache.Target, vocabulary, stride))
{
    /// <summary>Tokens whose sum is one number where nothing is filtered.</summary>
    public const int ChunkTokens = BlockThreads * PerThread;

    private const int BlockThreads = 512, PerThread = 16, PerLoad = 4, Bins = SamplingScratch.Bins, BinsPerThread = Bins / BlockThreads;

    public static PtxKernel Build(PtxTarget target, int vocabulary, int? stride)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(vocabulary - 1), (1u << 22) - 1, nameof(vocabulary));
        var k = new PtxBuilder(target, $"weigh_{vocabulary}_{stride ?? vocabulary}", BlockThreads);
        new Emitter(k, vocabulary, stride).Emit();
        return k.Build();
    }

    public void Launch(IDeviceStream stream, Dim3 grid, DevicePointer logits, DevicePointer parameters, DevicePointer tokens, DevicePointer scratch) =>
        Launch(stream, grid, [Argument.Of(logits), Argument.Of(parameters), Argument.Of(tokens), Argument.Of(scratch)], overlapPrevious: true);

    /// <summary>The kernel's parts, on what they share.</summary>
    private sealed class Emitter
    {
        private readonly PtxBuilder _k;
        private readonly int _vocabulary;
        private readonly DrawnRow _drawn;
        private readonly Shared _scratch, _found, _low, _high, _counts;

        public Emitter(PtxBuilder k, int vocabulary, int? stride)
        {
            (_k, _vocabulary) = (k, vocabulary);
            _drawn = new DrawnRow(k, vocabulary, stride);
            _scratch = k.AllocateShared(k.Warps * sizeof(ulong));
            _found = k.AllocateShared(4 * sizeof(ulong));
            (_low, _high, _counts) = (Words(), Words(), Words());

            Shared Words() => k.AllocateShared(Bins * sizeof(uint));
        }

        public void Emit() => _k.If(_drawn.IsFiltered, WeighByWeight, DrawById);

        private void WeighByWeight()
        {
            U32 zero = _k.Variable<U32>(0);
            foreach (Shared words in (Shared[])[_low, _high, _counts])
                _k.StoreVector<U32>(words.At(_k.Thread, BinsPerThread * sizeof(uint)), [zero, zero, zero, zero]);
            _k.Barrier();

            // Nearly all tokens of a trained network weigh next to nothing: what is below all other bins is summed in registers.
            U64 rest = _k.Variable<U64>(0ul), restCount = _k.Variable<U64>(0ul);
            _drawn.Row.Scan(
                (logit, _) =>
                {
                    (U64 mass, U32 bin, Pred passes) = _drawn.Place(logit);
                    Pred isRest = passes & bin.Is(Bins - 1);
                    _k.AddInto(rest, _k.Select<U64>(isRest, mass, 0ul));
                    _k.AddInto(restCount, _k.Select<U64>(isRest, 1ul, 0ul));
                    using (_k.If(passes & (bin < Bins - 1)))
                        Count(bin, mass);
                },
                part: (_k.BlockY, _k.GridY));
            _k.Barrier();

            SamplingScratch sums = _drawn.Scratch;
            using (_k.For(_k.Thread, Bins, _k.Threads, out U32 bin))
            {
                U32 count = _k.Load<U32>(_counts.At(bin, sizeof(uint)));
                Pred hasAny = count.IsNot(0);
                _k.AtomicAdd(sums.Masses.At(bin, sizeof(ulong)), _k.Join(_k.Load<U32>(_low.At(bin, sizeof(uint))), _k.Load<U32>(_high.At(bin, sizeof(uint)))), hasAny);
                _k.AtomicAdd(sums.Counts.At(bin, sizeof(uint)), count, hasAny);
            }

            U64 rests = _k.ReduceBlock(rest, _scratch, (a, b) => a + b, 0ul);
            _k.Barrier();
            U64 restCounts = _k.ReduceBlock(restCount, _scratch, (a, b) => a + b, 0ul);
            Pred isFirst = _k.Thread.Is(0);
            _k.AtomicAdd(sums.Masses + ((Bins - 1) * sizeof(ulong)), rests, isFirst);
            _k.AtomicAdd(sums.Counts + ((Bins - 1) * sizeof(uint)), _k.Narrow(restCounts), isFirst);
            _drawn.OnlyLastBlock(_found);
            Bound();
        }

        /// <summary>Adds to a bin. The two halves of a mass are added on their own: shared memory adds words of 32 bits without a loop.</summary>
        private void Count(U32 bin, U64 mass)
        {
            (U32 low, U32 high) = _k.Split(mass);
            U32 before = _k.AtomicAdd(_low.At(bin, sizeof(uint)), low);
            U32 upper = high + _k.Select<U32>(before > ~low, 1, 0);
            _k.AtomicAdd(_high.At(bin, sizeof(uint)), upper, upper.IsNot(0));
            _k.AtomicAdd(_counts.At(bin, sizeof(uint)), 1, bin < Bins);
        }

        /// <summary>
        /// Which bins have the last of the k likeliest, the last of the nucleus, and the drawn token. The exact mass of what is kept before each hangs on
        /// where in its bin the choice before falls, but lies between that of the bins before and that with the whole bin.
        /// </summary>
        private void Bound()
        {
            SamplingScratch sums = _drawn.Scratch;
            Global masses = sums.Masses.At(_k.Thread, BinsPerThread * sizeof(ulong)), counts = sums.Counts.At(_k.Thread, BinsPerThread * sizeof(uint));
            U64[] mass = [.. _k.LoadVector<U64>(masses, 2, CacheHint.L2Only), .. _k.LoadVector<U64>(masses + 16, 2, CacheHint.L2Only)];
            U64[] count = [.. _k.LoadVector<U32>(counts, BinsPerThread, CacheHint.L2Only).Select(_k.Widen)];
            (U64[] massBefore, U64 total) = Running(mass);
            (U64[] countBefore, U64 all) = Running(count);
            _k.StoreVector<U64>(masses, massBefore.AsSpan(0, 2));
            _k.StoreVector<U64>(masses + 16, massBefore.AsSpan(2, 2));
            _k.StoreVector<U32>(counts, [.. countBefore[..BinsPerThread].Select(_k.Narrow)]);

            U32 rank = _k.Variable<U32>(0), lastLikely = _k.Variable<U32>(0), first = _k.Variable<U32>(0), last = _k.Variable<U32>(0);
            (U64 least, U64 most) = (_k.Variable(total), _k.Variable(total)); // of the mass of what is kept
            using (_k.If(_drawn.HasTopK))
            {
                _k.Set(rank, _k.Min(_drawn.TopK, _k.Narrow(all)) - 1);
                (U32 bin, U64 before, U64 through) = Crossing(countBefore, _k.Widen(rank), massBefore);
                _k.Set(lastLikely, bin);
                _k.Set(least, before);
                _k.Set(most, through);
            }

            _k.Set(first, lastLikely);
            _k.Set(last, lastLikely);
            using (_k.If(_drawn.HasTopP))
            {
                (U32 lowest, U64 before, _) = Crossing(massBefore, _drawn.Nucleus(least), massBefore);
                (U32 highest, _, U64 through) = Crossing(massBefore, _drawn.Nucleus(most), massBefore);
                _k.Set(first, lowest);
                _k.Set(last, highest);
                _k.Set(least, before);
                _k.Set(most, through);
            }

            (U32 from, _, _) = Crossing(massBefore, _k.MultiplyHigh(least, _drawn.Uniform), massBefore);
            (U32 to, _, _) = Crossing(massBefore, _k.MultiplyHigh(most, _drawn.Uniform), massBefore);
            Pred isFirst = _k.Thread.Is(0);
            _k.StoreVector<U32>(sums.Bounds, [from, to, first, last], isFirst);
            _k.StoreVector<U32>(sums.Bounds + 16, [lastLikely, lastLikely], isFirst);
            _k.Store(sums.Total, total, isFirst);
            _k.Store(sums.Rank, rank, isFirst);
        }

        /// <summary>By rising id: first the chunk in which the sum passes the threshold, then the token in it.</summary>
        private void DrawById()
        {
            int chunks = (_vocabulary + ChunkTokens - 1) / ChunkTokens, perThread = (chunks + BlockThreads - 1) / BlockThreads;
            Global sums = _drawn.Scratch.Masses;
            using (_k.For(_k.BlockY, chunks, _k.GridY, out U32 i))
            {
                U64 sum = _k.Variable<U64>(0ul);
                for (int load = 0; load < PerThread / PerLoad; load++)
                {
                    foreach (F32 logit in _drawn.Row.Load((i * ChunkTokens) + (load * BlockThreads * PerLoad) + (_k.Thread * PerLoad), PerLoad))
                        _k.AddInto(sum, _drawn.Mass(logit));
                }

                U64 ofChunk = _k.ReduceBlock(sum, _scratch, (a, b) => a + b, 0ul);
                _k.Store(sums.At(i, sizeof(ulong)), ofChunk, _k.Thread.Is(0));
                _k.Barrier();
            }

            _drawn.OnlyLastBlock(_found);
            U64[] masses = [.. Enumerable.Range(0, perThread).Select(i => ChunkAt(i, (place, inside) => _k.Load<U64>(place, CacheHint.L2Only, inside)))];
            (U64[] before, U64 total) = Running(masses);
            (U32 chunk, U64 start, _) = Crossing(before, _k.MultiplyHigh(total, _drawn.Uniform), before);
            for (int i = 0; i < perThread; i++)
                ChunkAt(i, (place, inside) => Clear(place, inside));

            U32 first = (chunk * ChunkTokens) + (_k.Thread * PerThread);
            var tokens = new List<U64>();
            for (int load = 0; load < PerThread / PerLoad; load++)
                tokens.AddRange(_drawn.Row.Load(first + (load * PerLoad), PerLoad).Select(_drawn.Mass));
            (U64[] within, _) = Running([.. tokens]);
            (U32 token, _, _) = Crossing(within, _k.MultiplyHigh(total, _drawn.Uniform) - start, within);
            _k.Store(_drawn.Token, (chunk * ChunkTokens) + token, _k.Thread.Is(0));

            U64 ChunkAt(int i, Func<Global, Pred, U64> use)
            {
                U32 place = (_k.Thread * perThread) + i;
                return use(sums.At(place, sizeof(ulong)), place < chunks);
            }

            U64 Clear(Global place, Pred inside)
            {
                U64 zero = _k.Variable<U64>(0ul);
                _k.Store(place, zero, inside);
                return zero;
            }
        }

        /// <summary>The sums before each of a thread's values, and through the last, over all threads' values in order.</summary>
        private (U64[] Before, U64 All) Running(U64[] values)
        {
            _k.Barrier();
            (U64 start, U64 all) = _k.SumBefore(values.Aggregate((a, b) => a + b), _scratch);
            var before = new U64[values.Length + 1];
            before[0] = start;
            for (int i = 0; i < values.Length; i++)
                before[i + 1] = before[i] + values[i];
            return (before, all);
        }

        /// <summary>The place at which a running sum comes to exceed a threshold, which is less than all, and another sum before and through it.</summary>
        private (U32 Place, U64 Before, U64 Through) Crossing(U64[] running, U64 threshold, U64[] other)
        {
            _k.Barrier();
            int count = running.Length - 1;
            for (int i = 0; i < count; i++)
            {
                Pred crosses = (running[i] <= threshold) & (threshold < running[i + 1]);
                _k.StoreVector<U64>(_found, [_k.Widen((_k.Thread * count) + i), other[i]], crosses);
                _k.Store(_found + 16, other[i + 1], crosses);
            }

            _k.Barrier();
            U64[] found = _k.LoadVector<U64>(_found, 2);
            return (_k.Narrow(found[0]), found[1], _k.Load<U64>(_found + 16));
        }
    }
}
