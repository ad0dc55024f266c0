using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Makes 16-bit operands of cached bytes, sixteen neighbouring columns of a key or value at a time. Keys that are cached without their bias get it here,
/// rotated to their position, in F32 before they are rounded: they are then as exact as those of an F16 cache. Biases, and what S8 stands for, saturate at
/// 16384, so that no sum must be looked at.
/// </summary>
internal sealed class PrefillConversion
{
    private const float Most = 16384; // sqrt(2) times this for a bias, rotated and stretched by YaRN, and this for a key: F16 holds the sum

    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly AttentionArguments _arguments;
    private readonly bool _addsBias;
    private Shared _bias;

    /// <summary>Of keys, or values.</summary>
    public PrefillConversion(PtxBuilder k, AttentionShape shape, AttentionArguments arguments, bool areKeys) =>
        (_k, _shape, _arguments, _addsBias) = (k, shape, arguments, areKeys && shape.HasKeyBias);

    /// <summary>Eight words of operands of four words of bytes. Keys that lack their bias find it in shared memory.</summary>
    /// <param name="words">The bytes.</param>
    /// <param name="scale">Of S8.</param>
    /// <param name="chunk">Which sixteen columns.</param>
    /// <param name="position">The key's.</param>
    public U32[] Operands(U32[] words, F32 scale, U32 chunk, U32 position)
    {
        if (IsExact)
            return [.. words.SelectMany(Exact)];
        scale = Bounded(scale);
        var operands = new List<U32>(8);
        Global turns = _addsBias ? Turns(position, (chunk * 16) % (_shape.HeadDim / 2)) : default; // sixteen columns are of one half of the head
        for (int word = 0; word < 4; word++)
        {
            F32[] values = Values(words[word], scale);
            if (_addsBias)
            {
                Shared at = _bias.At(chunk, 16 * sizeof(float)) + (word * 4 * sizeof(float));
                F32[] own = _k.LoadVector<F32>(at, 4), other = _k.LoadVector<F32>(at + (_shape.HeadDim * sizeof(float)), 4), turn = FourTurns(turns, word);
                for (int c = 0; c < 4; c++)
                    values[c] = _k.Fma(other[c], turn[(2 * c) + 1], _k.Fma(own[c], turn[2 * c], values[c]));
            }

            operands.AddRange(Packed(values));
        }

        return [.. operands];
    }

    /// <summary>The same of sixteen columns in the lower half of the head and those in the upper half that rotate with them, whose bias, if there is one, is in registers.</summary>
    /// <param name="lower">Four words of bytes.</param>
    /// <param name="upper">Four words of bytes.</param>
    /// <param name="scale">Of S8.</param>
    /// <param name="bias">What <see cref="LoadBias(ReadOnlySpan{F32}, U32, U32)"/> loaded.</param>
    /// <param name="chunk">Which sixteen columns of the lower half.</param>
    /// <param name="position">The key's.</param>
    public (U32[] Lower, U32[] Upper) Operands(U32[] lower, U32[] upper, F32 scale, F32[] bias, U32 chunk, U32 position)
    {
        if (!_addsBias)
            return (Operands(lower, scale, chunk, position), Operands(upper, scale, chunk, position));
        scale = Bounded(scale);
        List<U32> lowers = [], uppers = [];
        Global turns = Turns(position, chunk * 16);
        for (int word = 0; word < 4; word++)
        {
            F32[] low = Values(lower[word], scale), high = Values(upper[word], scale), turn = FourTurns(turns, word);
            for (int c = 0; c < 4; c++)
            {
                (F32 ofLow, F32 ofHigh, F32 cos, F32 sin) = (bias[(4 * word) + c], bias[16 + (4 * word) + c], turn[2 * c], turn[(2 * c) + 1]);
                low[c] = _k.Fma(-ofHigh, sin, _k.Fma(ofLow, cos, low[c]));
                high[c] = _k.Fma(ofLow, sin, _k.Fma(ofHigh, cos, high[c]));
            }

            lowers.AddRange(Packed(low));
            uppers.AddRange(Packed(high));
        }

        return ([.. lowers], [.. uppers]);
    }

    /// <summary>Loads a head's bias of sixteen columns in the lower half, and of those that rotate with them, to 32 registers, if keys lack it.</summary>
    public void LoadBias(ReadOnlySpan<F32> bias, U32 head, U32 chunk)
    {
        if (!_addsBias)
            return;
        Global from = _arguments.KeyBias.At(head, _shape.HeadDim * sizeof(float)).At(chunk, 16 * sizeof(float));
        for (int i = 0; i < 32; i += 4)
            _k.LoadInto(bias.Slice(i, 4), from + (((i % 16) + (i / 16 * _shape.HeadDim / 2)) * sizeof(float)), CacheHint.ReadOnly);
        foreach (F32 value in bias)
            _k.Set(value, _k.Clamp(value, Most));
    }

    /// <summary>Loads a head's bias to shared memory, if keys lack it, and behind it what each column takes times the sine: minus the upper half's, then the lower half's. A barrier must follow.</summary>
    public void LoadBias(U32 head, U32 thread, int threads)
    {
        if (!_addsBias)
            return;
        _bias = _k.AllocateShared(2 * _shape.HeadDim * sizeof(float));
        int half = _shape.HeadDim / 2;
        Global bias = _arguments.KeyBias.At(head, _shape.HeadDim * sizeof(float));
        using (_k.For(thread, half, threads, out U32 i))
        {
            F32 lower = _k.Clamp(_k.Load<F32>(bias.At(i, sizeof(float)), CacheHint.ReadOnly), Most), upper = _k.Clamp(_k.Load<F32>(bias.At(i, sizeof(float)) + (half * sizeof(float)), CacheHint.ReadOnly), Most);
            Shared at = _bias.At(i, sizeof(float));
            _k.Store(at, lower);
            _k.Store(at + (half * sizeof(float)), upper);
            _k.Store(at + (2 * half * sizeof(float)), -upper);
            _k.Store(at + (3 * half * sizeof(float)), lower);
        }
    }

    private bool IsExact => _shape.Cache != ElementType.S8 && !_addsBias;

    private F32 Bounded(F32 scale) => _shape.Cache == ElementType.S8 ? _k.Min(scale, Most / 128) : scale;

    private U32[] Exact(U32 word)
    {
        (Half2 low, Half2 high) = _k.BytesToHalf2(_shape.Cache, word);
        return [low.AsU32, high.AsU32];
    }

    private F32[] Values(U32 word, F32 scale)
    {
        U32[] exact = Exact(word);
        ((F32 first, F32 second), (F32 third, F32 fourth)) = (_k.Unpack(exact[0].AsHalf2(ElementType.F16)), _k.Unpack(exact[1].AsHalf2(ElementType.F16)));
        F32[] values = [first, second, third, fourth];
        return _shape.Cache == ElementType.S8 ? [.. values.Select(value => value * scale)] : values;
    }

    private U32[] Packed(F32[] values) => [_k.Pack(ElementType.F16, values[0], values[1], saturate: false).AsU32, _k.Pack(ElementType.F16, values[2], values[3], saturate: false).AsU32];

    // Cosine and sine of pairs of columns from one on, at a position.
    private Global Turns(U32 position, U32 pair) => _arguments.Rotations.At(position, _shape.HeadDim * sizeof(float)).At(pair, 2 * sizeof(float));

    private F32[] FourTurns(Global turns, int word) =>
        [.. _k.LoadVector<F32>(turns + (word * 8 * sizeof(float)), 4, CacheHint.ReadOnly), .. _k.LoadVector<F32>(turns + (((word * 8) + 4) * sizeof(float)), 4, CacheHint.ReadOnly)];
}
