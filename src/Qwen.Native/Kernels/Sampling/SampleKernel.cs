using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>
/// The second half of drawing a token, where some may be out: the tokens of the few bins that the choice can fall into are listed, sorted, and chosen
/// from one by one. Where they are too many, all of the row is searched digit by digit of the tokens' keys, as radix selection does.
/// </summary>
/// <remarks>Several blocks share a row: each lists what it finds in its part, and the last to be done chooses, and puts the sums and counts back to zero.</remarks>
internal sealed class SampleKernel(KernelCache cache, int vocabulary, int? stride) : Kernel(cache, Build(cache.Target, vocabulary, stride))
{
    private const int BlockThreads = 512, Bins = SamplingScratch.Bins, Room = SamplingScratch.Room;
    private const int Digits = 6, KeyBits = Digits * MassHistogram.Bits; // of keys of 64

    public static PtxKernel Build(PtxTarget target, int vocabulary, int? stride)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(vocabulary - 1), (1u << 22) - 1, nameof(vocabulary));
        var k = new PtxBuilder(target, $"sample_{vocabulary}_{stride ?? vocabulary}", BlockThreads);
        new Emitter(k, vocabulary, stride).Emit();
        return k.Build();
    }

    public void Launch(IDeviceStream stream, Dim3 grid, DevicePointer logits, DevicePointer parameters, DevicePointer tokens, DevicePointer scratch) =>
        Launch(stream, grid, [Argument.Of(logits), Argument.Of(parameters), Argument.Of(tokens), Argument.Of(scratch)], overlapPrevious: true);

    /// <summary>The kernel's parts, on what they share.</summary>
    private sealed class Emitter
    {
        private readonly PtxBuilder _k;
        private readonly DrawnRow _drawn;
        private readonly MassHistogram _histogram;
        private readonly Shared _scratch, _found, _keys, _before, _firstOfBin;

        public Emitter(PtxBuilder k, int vocabulary, int? stride)
        {
            _k = k;
            _drawn = new DrawnRow(k, vocabulary, stride);
            _scratch = k.AllocateShared(k.Warps * sizeof(ulong));
            _found = k.AllocateShared(2 * sizeof(ulong));
            _keys = k.AllocateShared(Room * sizeof(ulong));
            _before = k.AllocateShared(Room * sizeof(ulong));
            _firstOfBin = k.AllocateShared(Bins * sizeof(uint));
            _histogram = new MassHistogram(k);
        }

        public void Emit()
        {
            _k.ReturnIf(!_drawn.IsFiltered);
            Gather();
            _drawn.OnlyLastBlock(_found);
            U32 listed = _k.Load<U32>(_drawn.Scratch.Listed, CacheHint.L2Only), token = _k.Variable<U32>(0);
            U64 total = _k.Load<U64>(_drawn.Scratch.Total);
            U32 rank = _k.Load<U32>(_drawn.Scratch.Rank);
            _k.If(listed <= Room, () => _k.Set(token, ChooseFromList(listed, total, rank)), () => _k.Set(token, ChooseFromRow(total, rank)));
            _k.Store(_drawn.Token, token, _k.Thread.Is(0));
            Clear();
        }

        /// <summary>Lists the tokens within the bounds, as far as there is room, and counts them.</summary>
        private void Gather()
        {
            SamplingScratch row = _drawn.Scratch;
            U32[] bounds = [.. _k.LoadVector<U32>(row.Bounds, 4), .. _k.LoadVector<U32>(row.Bounds + 16, 2)];
            U32[] widths = [bounds[1] - bounds[0], bounds[3] - bounds[2], bounds[5] - bounds[4]];
            _drawn.Row.Scan(
                (logit, token) =>
                {
                    (_, U32 bin, Pred passes) = _drawn.Place(logit);
                    Pred isWanted = passes & (((bin - bounds[0]) <= widths[0]) | ((bin - bounds[2]) <= widths[1]) | ((bin - bounds[4]) <= widths[2]));
                    U32 votes = _k.Ballot(isWanted);
                    using (_k.If(votes.IsNot(0), uniform: true))
                    {
                        U32 place = _k.Variable<U32>(0);
                        using (_k.If(_k.Lane.Is(0)))
                            _k.Set(place, _k.AtomicAdd(row.Listed, _k.PopulationCount(votes)));
                        place = _k.ShuffleFrom(place, 0) + _k.PopulationCount(votes & _k.LanesBefore);
                        _k.Store(row.List.At(place, sizeof(ulong)), OrderOf(logit, token), isWanted & (place < Room));
                    }
                },
                part: (_k.BlockY, _k.GridY));
        }

        private U32 ChooseFromList(U32 listed, U64 total, U32 rank)
        {
            U32 size = _k.Variable<U32>(1);
            using (_k.While(() => size < listed))
                _k.Set(size, size << 1);
            using (_k.For(_k.Thread, size, _k.Threads, out U32 i))
                _k.Store(_keys.At(i, sizeof(ulong)), _k.Load<U64>(_drawn.Scratch.List.At(i, sizeof(ulong)), CacheHint.L2Only, i < listed));
            Sort(size);
            SumBefore(listed, size);

            U64 mass = _k.Variable(total);
            using (_k.If(_drawn.HasTopK))
                _k.Set(mass, Find(listed, token => token.Rank.Is(rank)).Through);
            using (_k.If(_drawn.HasTopP))
            {
                U64 nucleus = _drawn.Nucleus(mass);
                _k.Set(mass, Find(listed, token => (token.Before <= nucleus) & (nucleus < token.Through)).Through); // with all of the last one's
            }

            U64 threshold = _k.MultiplyHigh(mass, _drawn.Uniform);
            return _drawn.Row.TokenOf(Find(listed, token => (token.Before <= threshold) & (threshold < token.Through)).Key);
        }

        /// <summary>Sorts the keys, the largest first: a bitonic network (Batcher, 1968).</summary>
        /// <param name="size">A power of two.</param>
        private void Sort(U32 size)
        {
            U32 width = _k.Variable<U32>(2);
            using (_k.While(() => width <= size))
            {
                U32 stride = _k.Variable(width >> 1);
                using (_k.While(() => stride > 0))
                {
                    _k.Barrier();
                    using (_k.For(_k.Thread, size >> 1, _k.Threads, out U32 pair))
                    {
                        U32 place = (pair << 1) - (pair & (stride - 1));
                        Shared first = _keys.At(place, sizeof(ulong)), second = _keys.At(place + stride, sizeof(ulong));
                        (U64 a, U64 b) = (_k.Load<U64>(first), _k.Load<U64>(second));
                        using (_k.If((a < b) ^ (place & width).IsNot(0)))
                        {
                            _k.Store(first, b);
                            _k.Store(second, a);
                        }
                    }

                    _k.Set(stride, stride >> 1);
                }

                _k.Set(width, width << 1);
            }

            _k.Barrier();
        }

        /// <summary>For each key of the sorted list the sum of the masses before it in the list, and where each bin begins in it. A thread has neighbouring keys.</summary>
        private void SumBefore(U32 listed, U32 size)
        {
            U32 perThread = (size + (BlockThreads - 1)) / BlockThreads, first = _k.Thread * perThread, end = _k.Min(first + perThread, listed);
            U64 sum = _k.Variable<U64>(0ul);
            using (_k.For(first, end, out U32 i))
                _k.AddInto(sum, Place(_k.Load<U64>(_keys.At(i, sizeof(ulong)))).Mass);
            U64 before = _k.Variable(_k.SumBefore(sum, _scratch).Before);
            using (_k.For(first, end, out U32 i))
            {
                (U64 mass, U32 bin) = Place(_k.Load<U64>(_keys.At(i, sizeof(ulong))));
                U32 previous = Place(_k.Load<U64>(_keys.At(_k.Max(i, 1) - 1, sizeof(ulong)))).Bin;
                _k.Store(_firstOfBin.At(bin, sizeof(uint)), i, i.Is(0) | bin.IsNot(previous));
                _k.Store(_before.At(i, sizeof(ulong)), before);
                _k.AddInto(before, mass);
            }
        }

        /// <summary>The one listed token that a condition holds for, and the mass up to it and with it, over the whole row.</summary>
        private (U64 Key, U64 Through) Find(U32 listed, Func<(U64 Before, U64 Through, U32 Rank), Pred> condition)
        {
            _k.Barrier();
            using (_k.For(_k.Thread, listed, _k.Threads, out U32 i))
            {
                U64 key = _k.Load<U64>(_keys.At(i, sizeof(ulong)));
                (U64 mass, U32 bin) = Place(key);
                U32 first = _k.Load<U32>(_firstOfBin.At(bin, sizeof(uint)));
                // All bins before, then what comes before it in its own.
                U64 inBin = _k.Load<U64>(_before.At(i, sizeof(ulong))) - _k.Load<U64>(_before.At(first, sizeof(ulong)));
                U64 before = _k.Load<U64>(_drawn.Scratch.Masses.At(bin, sizeof(ulong))) + inBin, through = before + mass;
                U32 rank = _k.Load<U32>(_drawn.Scratch.Counts.At(bin, sizeof(uint))) + (i - first);
                _k.StoreVector<U64>(_found, [key, through], condition((before, through, rank)));
            }

            _k.Barrier();
            U64[] found = _k.LoadVector<U64>(_found, 2);
            return (found[0], found[1]);
        }

        private U32 ChooseFromRow(U64 total, U32 rank)
        {
            U64 mass = _k.Variable(total);
            using (_k.If(_drawn.HasTopK))
            {
                U64 last = Descend(_k.Widen(rank), (bin, _) => _k.AtomicAdd(bin, 1)).Key, kept = _k.Variable<U64>(0ul);
                ForEachToken(key => _k.AddInto(kept, _k.Select(key <= last, Place(~key).Mass, 0ul)));
                _k.Barrier();
                _k.Set(mass, _k.ReduceBlock(kept, _scratch, (a, b) => a + b, 0ul));
            }

            using (_k.If(_drawn.HasTopP))
            {
                U64 nucleus = _drawn.Nucleus(mass);
                (U64 last, U64 rest) = Descend(nucleus, (bin, key) => _k.AtomicAdd(bin, Place(~key).Mass));
                _k.Set(mass, (nucleus - rest) + Place(~last).Mass);
            }

            U64 drawn = Descend(_k.MultiplyHigh(mass, _drawn.Uniform), (bin, key) => _k.AtomicAdd(bin, Place(~key).Mass)).Key;
            return _drawn.Row.TokenOf(~drawn);
        }

        /// <summary>The key at which the running sum, by rising key, comes to exceed a threshold, and what of the threshold was left there. Keys are complements here: the likeliest is the least.</summary>
        /// <param name="threshold">Less than the sum of all.</param>
        /// <param name="add">Adds what a key counts to a bin.</param>
        private (U64 Key, U64 Left) Descend(U64 threshold, Action<Shared, U64> add)
        {
            U64 prefix = _k.Variable<U64>(0ul), rest = _k.Variable(threshold);
            using (_k.For(0, Digits, out U32 digit))
            {
                U32 shift = (KeyBits - MassHistogram.Bits) - (digit * MassHistogram.Bits);
                _histogram.Clear();
                ForEachToken(key =>
                {
                    U64 digits = key >> shift;
                    using (_k.If((digits >> MassHistogram.Bits).Is(prefix)))
                        add(_histogram[_k.Narrow(digits) % MassHistogram.Bins], key);
                });
                (U32 bin, U64 left) = _histogram.Crossing(rest);
                _k.Set(prefix, (prefix << MassHistogram.Bits) | _k.Widen(bin));
                _k.Set(rest, left);
            }

            return (prefix, rest);
        }

        private void ForEachToken(Action<U64> visit) => _drawn.Row.Scan((logit, token) =>
        {
            using (_k.If(_drawn.Place(logit).Passes))
                visit(~OrderOf(logit, token));
        });

        private (U64 Mass, U32 Bin) Place(U64 key)
        {
            (U64 mass, U32 bin, _) = _drawn.Place(_drawn.Row.LogitOf(key));
            return (mass, bin);
        }

        private void Clear()
        {
            _k.Barrier(); // all have read what there was
            U32 zero = _k.Variable<U32>(0);
            U64 none = _k.Variable<U64>(0ul);
            using (_k.For(_k.Thread, Bins, _k.Threads, out U32 bin))
            {
                _k.Store(_drawn.Scratch.Masses.At(bin, sizeof(ulong)), none);
                _k.Store(_drawn.Scratch.Counts.At(bin, sizeof(uint)), zero);
            }

            _k.Store(_drawn.Scratch.Listed, zero, _k.Thread.Is(0));
        }

        // By weight, then by id: 0 and -0 weigh the same.
        private U64 OrderOf(F32 logit, U32 token) => _drawn.Row.KeyOf(logit + 0f, token);
    }
}
