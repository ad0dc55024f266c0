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
    private readonly Shared _bias;

    /// <summary>Takes shared memory for a head's bias, if keys lack it.</summary>
    public PrefillConversion(PtxBuilder k, AttentionShape shape, AttentionArguments arguments, bool areKeys)
    {
        (_k, _shape, _arguments, _addsBias) = (k, shape, arguments, areKeys && shape.HasKeyBias);
        if (_addsBias)
            _bias = k.AllocateShared(2 * shape.HeadDim * sizeof(float));
    }

    /// <summary>Eight words of operands of four words of bytes.</summary>
    /// <param name="words">The bytes.</param>
    /// <param name="scale">Of S8.</param>
    /// <param name="chunk">Which sixteen columns.</param>
    /// <param name="position">The key's.</param>
    public U32[] Operands(U32[] words, F32 scale, U32 chunk, U32 position)
    {
        Half2[] exact = [.. words.SelectMany(word =>
        {
            (Half2 low, Half2 high) = _k.BytesToHalf2(_shape.Cache, word);
            return (Half2[])[low, high];
        })];
        bool isScaled = _shape.Cache == ElementType.S8;
        if (!isScaled && !_addsBias)
            return [.. exact.Select(pair => pair.AsU32)];

        if (isScaled)
            scale = _k.Min(scale, Most / 128);
        var halves = new U32[8];
        U32 pair = (chunk * 16) % (_shape.HeadDim / 2); // sixteen columns are of one half of the head
        Global turns = _addsBias ? _arguments.Rotations.At(position, _shape.HeadDim * sizeof(float)).At(pair, 2 * sizeof(float)) : default;
        for (int word = 0; word < 4; word++)
        {
            (F32 first, F32 second) = _k.Unpack(exact[2 * word]);
            (F32 third, F32 fourth) = _k.Unpack(exact[(2 * word) + 1]);
            F32[] values = [first, second, third, fourth];
            if (isScaled)
                values = [.. values.Select(value => value * scale)];
            if (_addsBias)
            {
                Shared at = _bias.At(chunk, 16 * sizeof(float)) + (word * 4 * sizeof(float));
                F32[] own = _k.LoadVector<F32>(at, 4), other = _k.LoadVector<F32>(at + (_shape.HeadDim * sizeof(float)), 4);
                F32[] turn = [.. _k.LoadVector<F32>(turns + (word * 8 * sizeof(float)), 4, CacheHint.ReadOnly), .. _k.LoadVector<F32>(turns + (((word * 8) + 4) * sizeof(float)), 4, CacheHint.ReadOnly)];
                for (int c = 0; c < 4; c++)
                    values[c] = _k.Fma(other[c], turn[(2 * c) + 1], _k.Fma(own[c], turn[2 * c], values[c]));
            }

            halves[2 * word] = _k.Pack(ElementType.F16, values[0], values[1], saturate: false).AsU32;
            halves[(2 * word) + 1] = _k.Pack(ElementType.F16, values[2], values[3], saturate: false).AsU32;
        }

        return halves;
    }

    /// <summary>Loads a head's bias, if keys lack it, and behind it what each column takes times the sine: minus the upper half's, then the lower half's. A barrier must follow.</summary>
    public void LoadBias(U32 head, U32 thread, int threads)
    {
        if (!_addsBias)
            return;
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
}
