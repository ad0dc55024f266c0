using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>This block's row of F32 logits in global memory, as a block goes over it: 16 bytes a load where the vocabulary's size allows, four loads under way.</summary>
/// <remarks>
/// Logits order by keys of 64 bits, larger is likelier: the float, mapped to an unsigned number of the same order, above the complement of the
/// token's id, so that of equal logits the lowest id is the likeliest. NaN is above all.
/// </remarks>
internal sealed class LogitRow(PtxBuilder k, Global logits, int vocabulary, int? stride)
{
    private const int Loads = 4;
    private const uint OrderedInfinity = 0xff800000, OrderedMinusInfinity = 0x007fffff;

    private readonly int _width = (stride ?? vocabulary) % 4 == 0 ? 4 : 1;

    /// <summary>This block's row.</summary>
    public Global Start { get; } = logits.At(k.BlockX, AtLeast(vocabulary, stride) * sizeof(float));

    /// <summary>Calls for every logit and its token; all threads do so equally often, with minus infinity past the end.</summary>
    /// <param name="visit">Emits what is done with them.</param>
    /// <param name="part">Which part of the row, and of how many; null for all of it.</param>
    public void Scan(Action<F32, U32> visit, (U32 Index, U32 Count)? part = null)
    {
        int step = k.Threads * _width * Loads;
        using (k.For(part?.Index ?? 0, (vocabulary + step - 1) / step, part?.Count ?? 1, out U32 i))
        {
            U32 start = (i * step) + (k.Thread * _width);
            U32[] first = [.. Enumerable.Range(0, Loads).Select(load => start + (load * k.Threads * _width))];
            F32[][] values = [.. first.Select(token => Load(token, _width))];
            for (int load = 0; load < Loads; load++)
            {
                for (int lane = 0; lane < _width; lane++)
                    visit(values[load][lane], first[load] + lane);
            }
        }
    }

    /// <summary>The logits of some neighbouring tokens, one or four times a whole number; minus infinity past the end.</summary>
    public F32[] Load(U32 first, int count)
    {
        var values = new List<F32>(count);
        for (int i = 0; i < count; i += Math.Min(_width, count))
        {
            Pred inside = first + i < vocabulary;
            F32[] loaded = k.LoadVector<F32>(Start.At(first + i, sizeof(float)), Math.Min(_width, count), when: inside);
            for (int lane = 0; lane < loaded.Length; lane++)
                values.Add(k.Select(lane == 0 || vocabulary % _width == 0 ? inside : first + i + lane < vocabulary, loaded[lane], float.NegativeInfinity));
        }

        return [.. values];
    }

    /// <summary>The order of a token.</summary>
    public U64 KeyOf(F32 logit, U32 token)
    {
        U32 bits = logit.AsU32;
        U32 ordered = bits ^ ((bits.AsS32 >> 31).AsU32 | 0x80000000u);
        return k.Join(~token, k.Select<U32>(logit.IsNaN, 0xffffffffu, ordered));
    }

    /// <summary>The key of this thread's likeliest token, of those below a key where one is given.</summary>
    public U64 Best(U64? below = null, (U32 Index, U32 Count)? part = null)
    {
        U64 best = k.Variable<U64>(0ul);
        Scan(
            (logit, token) =>
            {
                U64 key = KeyOf(logit, token);
                k.Set(best, k.Max(best, below is { } bar ? k.Select<U64>(key < bar, key, 0ul) : key));
            },
            part);
        return best;
    }

    /// <summary>The likeliest key of the block, in every thread.</summary>
    /// <param name="key">Each thread's.</param>
    /// <param name="scratch">Shared memory for a key of each warp. Free again at the next barrier.</param>
    public U64 BestOfBlock(U64 key, Shared scratch) => k.ReduceBlock(key, scratch, k.Max, 0ul);

    /// <summary>A key's token.</summary>
    public U32 TokenOf(U64 key) => ~k.Split(key).Low;

    /// <summary>A key's logit.</summary>
    public F32 LogitOf(U64 key)
    {
        U32 ordered = k.Split(key).High;
        return k.AsFloat(ordered ^ (~(ordered.AsS32 >> 31).AsU32 | 0x80000000u));
    }

    /// <summary>Whether a key's logit is NaN or infinite.</summary>
    public Pred IsNotFinite(U64 key)
    {
        U32 ordered = k.Split(key).High;
        return (ordered >= OrderedInfinity) | (ordered <= OrderedMinusInfinity);
    }

    /// <summary>The rows' stride, which must hold the vocabulary.</summary>
    public static int AtLeast(int vocabulary, int? stride)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(stride ?? vocabulary, vocabulary, nameof(stride));
        return stride ?? vocabulary;
    }

    /// <summary>What a kernel reports for a row: the token, or the complement of one whose logit is not finite, which is negative.</summary>
    public U32 Report(U64 key) => k.Select(IsNotFinite(key), ~TokenOf(key), TokenOf(key));
}
