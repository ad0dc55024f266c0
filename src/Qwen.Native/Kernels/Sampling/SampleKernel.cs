using System.Runtime.InteropServices;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>How a row's token is drawn, as <see cref="SampleKernel"/> reads it.</summary>
[StructLayout(LayoutKind.Sequential, Size = Bytes)]
public readonly record struct SamplingRow
{
    /// <summary>Its size in device memory.</summary>
    public const int Bytes = 32;

    private readonly float _temperature, _minP;
    private readonly int _topK, _unused;
    private readonly ulong _topP, _uniform; // times 2^64

    /// <summary>Takes the values.</summary>
    /// <param name="temperature">0 takes the likeliest token.</param>
    /// <param name="topK">Only the k likeliest; 0 for all.</param>
    /// <param name="topP">Only the likeliest whose probabilities reach this sum; 1 for all.</param>
    /// <param name="minP">Only tokens at least this fraction as likely as the likeliest; 0 for all.</param>
    /// <param name="uniform">A random number in [0, 1).</param>
    public SamplingRow(float temperature, int topK, float topP, float minP, double uniform)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(topK);
        (_temperature, _topK, _minP) = (temperature, topK, minP);
        _topP = topP >= 1 ? ulong.MaxValue : Scaled(topP);
        _uniform = Scaled(uniform);
    }

    // Fractions of 53 bits at most, so that the product is exact.
    private static ulong Scaled(double fraction) => (ulong)Math.ScaleB(fraction, 64);
}

/// <summary>
/// tokens[r] = a token drawn from logits[r, :] with a given random number, after temperature, min-p, top-k and top-p in this order (vLLM's); where a logit is
/// NaN or infinite, the complement of its token. The same choice as the sampler on the host, up to the rounding of e^x.
/// </summary>
/// <remarks>
/// A block a row. No sort: what sorting would answer, the token at which a running sum of counts or masses passes a threshold, is found digit by digit of
/// the tokens' keys, with a histogram for each digit (as radix selection does for ranks). A key is what weights order by, 0x3f800000 - the bits of a weight
/// in (0, 1], over the token's id. Masses are weights times 2^40 as integers: their sums do not depend on the order, so the same logits give the same token.
/// The tokens that can pass the filters are first gathered in shared memory; only if there are too many do the digits go over the whole row.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="vocabulary">Logits of a row, less than 2^22.</param>
/// <param name="stride">Values from one row to the next; null for no more than the vocabulary.</param>
public sealed class SampleKernel(KernelCache cache, int vocabulary, int? stride = null) : Kernel(cache, Build(cache.Target, vocabulary, stride))
{
    private const int BlockThreads = 512, Digits = 5, TokenBits = 25, KeyBits = Digits * MassHistogram.Bits, Room = 2048;
    private const int BinShift = 30 - MassHistogram.Bits; // of a weight's 30 bits
    private const uint One = 0x3f800000; // the bits of 1f
    private const int MassBits = 40;

    /// <summary>The kernel for a vocabulary.</summary>
    public static PtxKernel Build(PtxTarget target, int vocabulary, int? stride = null)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(vocabulary - 1), (1u << (2 * MassHistogram.Bits)) - 1, nameof(vocabulary));
        var k = new PtxBuilder(target, $"sample_{vocabulary}_{stride ?? vocabulary}", BlockThreads);
        new Emitter(k, vocabulary, stride).Emit();
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="logits">F32 [rows, stride].</param>
    /// <param name="parameters"><see cref="SamplingRow"/> [rows].</param>
    /// <param name="tokens">S32 [rows].</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer logits, DevicePointer parameters, DevicePointer tokens, int rows) =>
        Launch(stream, rows, [Argument.Of(logits), Argument.Of(parameters), Argument.Of(tokens)], overlapPrevious: true);

    /// <summary>The kernel's parts, on what they share.</summary>
    private sealed class Emitter
    {
        private readonly PtxBuilder _k;
        private readonly int _vocabulary;
        private readonly LogitRow _row;
        private readonly Global _parameters, _token;
        private readonly MassHistogram _histogram;
        private readonly Shared _scratch, _list, _listed;
        private readonly U32 _bound; // no candidate's weight has a larger key
        private F32 _scale, _max;
        private U32 _candidates;
        private U64 _uniform, _topP;

        public Emitter(PtxBuilder k, int vocabulary, int? stride)
        {
            (_k, _vocabulary) = (k, vocabulary);
            Global logits = k.Pointer("logits");
            _parameters = k.Pointer("parameters").At(k.BlockX, SamplingRow.Bytes);
            _token = k.Pointer("tokens").At(k.BlockX, sizeof(int));
            _row = new LogitRow(k, logits, vocabulary, stride);
            _histogram = new MassHistogram(k);
            _scratch = k.AllocateShared(k.Warps * sizeof(ulong));
            _list = k.AllocateShared(Room * sizeof(ulong));
            _listed = k.AllocateShared(sizeof(uint));
            _bound = k.Variable<U32>(One - 1); // a weight of zero is no candidate
        }

        public void Emit()
        {
            _k.WaitForPreviousKernel();
            U32[] words = _k.LoadVector<U32>(_parameters, 4);
            (F32 temperature, F32 minP, U32 topK) = (_k.AsFloat(words[0]), _k.AsFloat(words[1]), words[2]);
            U64[] fractions = _k.LoadVector<U64>(_parameters + 16, 2);
            (_topP, _uniform) = (fractions[0], fractions[1]);

            U64 best = _row.BestOfBlock(_row.Best(), _scratch);
            Pred isFirst = _k.Thread.Is(0), isDecided = temperature.Is(0f) | _row.IsNotFinite(best);
            _k.Store(_token, _row.Report(best), isFirst & isDecided);
            _k.ReturnIf(isDecided);

            _max = _row.LogitOf(best);
            _scale = _k.Min(_k.Divide(MathF.Log2(MathF.E), temperature), 1e30f);
            _k.Set(topK, _k.Select(topK < _vocabulary, topK, 0));
            Pred isFiltered = topK.IsNot(0) | (minP > 0f) | (_topP < ulong.MaxValue);
            U32 token = _k.Variable<U32>(0);
            _k.If(isFiltered, () => _k.Set(token, DrawFiltered(topK, minP)), () => _k.Set(token, DrawFromAll()));
            _k.Store(_token, token, isFirst);
        }

        /// <summary>By rising id: first the segment in which the sum passes the threshold, then the token in it.</summary>
        private U32 DrawFromAll()
        {
            int segment = ((_vocabulary - 1) / (MassHistogram.Bins * 128) * 128) + 128;
            _histogram.Clear();
            using (_k.For(_k.Warp, (_vocabulary + segment - 1) / segment, _k.Warps, out U32 i))
            {
                U64 sum = _k.Variable<U64>(0ul);
                using (_k.For((i * segment) + (_k.Lane * 4), (i * segment) + segment, 128, out U32 first))
                {
                    foreach (F32 logit in _row.Load(first, 4))
                        _k.AddInto(sum, Mass(Weight(logit)));
                }

                _k.Store(_histogram[i], _k.ReduceLanes(sum, 32, (a, b) => a + b), _k.Lane.Is(0));
            }

            (U32 chosen, U64 rest) = _histogram.Crossing(_k.MultiplyHigh(_histogram.Total(), _uniform));
            _histogram.Clear();
            using (_k.For(_k.Thread, segment, _k.Threads, out U32 i))
                _k.Store(_histogram[i], Mass(Weight(_row.Load((chosen * segment) + i, 1)[0])));
            return (chosen * segment) + _histogram.Crossing(rest).Bin;
        }

        private U32 DrawFiltered(U32 topK, F32 minP)
        {
            Pred hasTopK = topK.IsNot(0), hasTopP = _topP < ulong.MaxValue;
            _k.Set(_bound, _k.Min(_bound, One - minP.AsU32));
            U64 mass = _k.Variable<U64>(0ul);
            U32 rank = _k.Variable<U32>(0);
            _histogram.Clear();
            _row.Scan((logit, _) =>
            {
                F32 weight = Weight(logit);
                U32 key = One - weight.AsU32;
                Pred passes = key <= _bound;
                _k.AddInto(mass, _k.Select(passes, Mass(weight), 0ul));
                _k.AtomicAdd(_histogram[key >> BinShift], 1, passes & hasTopK);
            });
            _k.Set(mass, _k.ReduceBlock(mass, _scratch, (a, b) => a + b, 0ul));
            _k.If(
                hasTopK,
                () =>
                {
                    _k.Set(rank, _k.Min(topK, _k.Narrow(_histogram.Total())) - 1);
                    U32 bin = _histogram.Crossing(_k.Widen(rank)).Bin;
                    _k.Set(_bound, _k.Min(_bound, ((bin + 1) << BinShift) - 1));
                },
                () =>
                {
                    // All that is under (1 - p) / n of the mass cannot add up to 1 - p; a little less, as this is rounded.
                    U64 rest = _k.MultiplyHigh(mass, ulong.MaxValue - _topP);
                    F32 least = _k.ToFloat(rest) * MathF.ScaleB(0.999f / _vocabulary, -MassBits);
                    _k.Set(_bound, _k.Min(_bound, One - least.AsU32));
                });

            Gather();
            using (_k.If(hasTopK))
            {
                U64 last = Descend(_k.Widen(rank), (bin, _) => _k.AtomicAdd(bin, 1)).Key;
                U64 kept = _k.Variable<U64>(0ul);
                ForEachCandidate(key => _k.AddInto(kept, _k.Select(key <= last, MassOf(key), 0ul)));
                _k.Barrier();
                _k.Set(mass, _k.ReduceBlock(kept, _scratch, (a, b) => a + b, 0ul));
            }

            using (_k.If(hasTopP))
            {
                U64 nucleus = _k.Max(_k.MultiplyHigh(mass, _topP), 1ul) - 1ul;
                (U64 last, U64 rest) = Descend(nucleus, (bin, key) => _k.AtomicAdd(bin, MassOf(key)));
                _k.Set(mass, (nucleus - rest) + MassOf(last)); // with all of the last one's
            }

            U64 drawn = Descend(_k.MultiplyHigh(mass, _uniform), (bin, key) => _k.AtomicAdd(bin, MassOf(key))).Key;
            return _k.Narrow(drawn) & ((1u << TokenBits) - 1);
        }

        /// <summary>Puts the keys of the tokens within the bound into shared memory, as far as there is room, and counts them.</summary>
        private void Gather()
        {
            _k.Store<U32>(_listed, _k.Variable<U32>(0), _k.Thread.Is(0));
            _k.Barrier();
            _row.Scan((logit, token) =>
            {
                U32 weight = One - Weight(logit).AsU32;
                Pred passes = weight <= _bound;
                U32 votes = _k.Ballot(passes);
                using (_k.If(votes.IsNot(0), uniform: true))
                {
                    U32 place = _k.Variable<U32>(0);
                    using (_k.If(_k.Lane.Is(0)))
                        _k.Set(place, _k.AtomicAdd(_listed, _k.PopulationCount(votes)));
                    place = _k.ShuffleFrom(place, 0) + _k.PopulationCount(votes & _k.LanesBefore);
                    _k.Store(_list.At(place, sizeof(ulong)), KeyOf(weight, token), passes & (place < Room));
                }
            });
            _k.Barrier();
            _candidates = _k.Load<U32>(_listed);
        }

        /// <summary>The key at which the running sum, by rising key, comes to exceed a threshold, and what of the threshold was left there.</summary>
        /// <param name="threshold">Less than the sum of all candidates.</param>
        /// <param name="add">Adds what a key counts to a bin.</param>
        private (U64 Key, U64 Left) Descend(U64 threshold, Action<Shared, U64> add)
        {
            U64 prefix = _k.Variable<U64>(0ul), rest = _k.Variable(threshold);
            using (_k.For(0, Digits, out U32 digit))
            {
                U32 shift = (KeyBits - MassHistogram.Bits) - (digit * MassHistogram.Bits);
                _histogram.Clear();
                ForEachCandidate(key =>
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

        private void ForEachCandidate(Action<U64> visit) => _k.If(
            _candidates <= Room,
            () =>
            {
                using (_k.For(_k.Thread, _candidates, _k.Threads, out U32 i))
                    visit(_k.Load<U64>(_list.At(i, sizeof(ulong))));
            },
            () => _row.Scan((logit, token) =>
            {
                U32 weight = One - Weight(logit).AsU32;
                using (_k.If(weight <= _bound))
                    visit(KeyOf(weight, token));
            }));

        /// <summary>e^((logit - max) / temperature), in [0, 1].</summary>
        private F32 Weight(F32 logit) => _k.Exp2((logit - _max) * _scale);

        private U64 KeyOf(U32 weight, U32 token) => (_k.Widen(weight) << TokenBits) | _k.Widen(token);

        private U64 MassOf(U64 key) => Mass(_k.AsFloat(One - _k.Narrow(key >> TokenBits)));

        private U64 Mass(F32 weight) => _k.TruncateToU64(weight * MathF.ScaleB(1, MassBits));
    }
}
