using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Emits the reading of eight consecutive values of a block, from element <paramref name="element"/> on, a multiple of 8.</summary>
/// <param name="k">Where to.</param>
/// <param name="block">The block.</param>
/// <param name="element">The first value.</param>
internal sealed class BlockReader(PtxBuilder k, Global block, U32 element)
{
    private const int Values = 8;

    // The levels of IQ4_NL, a byte each, from the lowest (ggml-common.h, kvalues_iq4nl).
    private static readonly sbyte[] _levels = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

    /// <summary>The values.</summary>
    public F32[] Read(BlockFormat format)
    {
        U32 sub = element / 32, inSub = element % 32;
        switch (format)
        {
            case BlockFormat.Q4_0:
                return Scaled(Half(0), Codes(At(2, element % 16), element / 16 * 4, 4), -8);
            case BlockFormat.Q4_1:
                return WithMinimum(Half(0), Codes(At(4, element % 16), element / 16 * 4, 4), Half(2));
            case BlockFormat.Q5_0:
                return Scaled(Half(0), With(FifthBits(2), Codes(At(6, element % 16), element / 16 * 4, 4)), -16);
            case BlockFormat.Q5_1:
                return WithMinimum(Half(0), With(FifthBits(4), Codes(At(8, element % 16), element / 16 * 4, 4)), Half(2));
            case BlockFormat.Q8_0:
                return Signed(Half(0), Eight(At(2, element)));
            case BlockFormat.Q8_K:
                return Signed(k.AsFloat(k.Join(k.Load<B16>(block), k.Load<B16>(block + 2))), Eight(At(4, element)));
            case BlockFormat.IQ4_NL:
                return Levels(Half(0), Codes(At(2, element % 16), element / 16 * 4, 4));

            case BlockFormat.Q2_K:
            {
                U32 scale = k.LoadByte(At(0, element / 16));
                U32[] codes = Codes(At(16, (element / 128 * 32) + inSub), sub % 4 * 2, 2);
                return WithMinimum(Half(80) * k.ToFloat(scale & 15), codes, -(Half(82) * k.ToFloat(scale >> 4)));
            }

            case BlockFormat.Q3_K:
            {
                U32 s = element / 16;
                U32 low = (k.LoadByte(At(96, s % 8)) >> (s / 8 * 4)) & 15, high = (k.LoadByte(At(104, s % 4)) >> (s / 4 * 2)) & 3;
                F32 scale = Half(108) * (k.ToFloat(low | (high << 4)) - 32f);
                U32[] codes = With(Codes(At(0, inSub), sub, 1, shiftUp: 2), Codes(At(32, (element / 128 * 32) + inSub), sub % 4 * 2, 2));
                return Scaled(scale, codes, -4);
            }

            case BlockFormat.Q4_K:
                return WithPair(Codes(At(16, (element / 64 * 32) + inSub), sub % 2 * 4, 4));
            case BlockFormat.Q5_K:
                return WithPair(With(Codes(At(16, inSub), sub, 1, shiftUp: 4), Codes(At(48, (element / 64 * 32) + inSub), sub % 2 * 4, 4)));

            case BlockFormat.Q6_K:
            {
                F32 scale = Half(208) * k.ToFloat(k.SignedBitField(k.LoadByte(At(192, element / 16)), 0, 8));
                U32[] low = Codes(At(0, (element / 128 * 64) + (element % 64)), element % 128 / 64 * 4, 4);
                return Scaled(scale, With(Codes(At(128, (element / 128 * 32) + inSub), sub % 4 * 2, 2, shiftUp: 4), low), -32);
            }

            case BlockFormat.IQ4_XS:
            {
                U32 low = (k.LoadByte(At(4, sub / 2)) >> (sub % 2 * 4)) & 15, high = (k.Join(k.Load<B16>(block + 2), 0) >> (sub * 2)) & 3;
                F32 scale = Half(0) * (k.ToFloat(low | (high << 4)) - 32f);
                return Levels(scale, Codes(At(8, (sub * 16) + (element % 16)), inSub / 16 * 4, 4));
            }

            default:
                throw new ArgumentOutOfRangeException(nameof(format), format, null);
        }
    }

    private Global At(int offset, U32 index) => (block + offset).At(index, 1);

    private F32 Half(int offset) => k.ToFloat(ElementType.F16, k.Load<B16>(block + offset));

    /// <summary>Eight bytes, in two words.</summary>
    private U32[] Eight(Global at) => [k.Join(k.Load<B16>(at), k.Load<B16>(at + 2)), k.Join(k.Load<B16>(at + 4), k.Load<B16>(at + 6))];

    /// <summary>Some bits of each of eight bytes, moved up in their bytes.</summary>
    private U32[] Codes(Global at, U32 shift, int bits, int shiftUp = 0)
    {
        uint mask = ((1u << bits) - 1) * 0x01010101u;
        U32[] words = Eight(at);
        return [((words[0] >> shift) & mask) << shiftUp, ((words[1] >> shift) & mask) << shiftUp];
    }

    /// <summary>Bit i of a word to the fifth bit of code i, of 32.</summary>
    private U32[] FifthBits(int offset)
    {
        U32 bits = k.Join(k.Load<B16>(block + offset), k.Load<B16>(block + (offset + 2))) >> element;
        var words = new U32[2];
        for (int w = 0; w < 2; w++)
        {
            words[w] = (bits << 4) & 0x10;
            for (int i = 1; i < 4; i++)
                words[w] |= (bits << (4 + (7 * i))) & (0x10u << (8 * i));
            bits >>= 4;
        }

        return words;
    }

    private static U32[] With(U32[] high, U32[] low) => [high[0] | low[0], high[1] | low[1]];

    private F32[] Scaled(F32 scale, U32[] codes, int offset) => Each(codes, code => (k.ToFloat(code) + offset) * scale);

    private F32[] WithMinimum(F32 scale, U32[] codes, F32 minimum) => Each(codes, code => k.Fma(k.ToFloat(code), scale, minimum));

    private F32[] Signed(F32 scale, U32[] codes)
    {
        var values = new F32[Values];
        for (int i = 0; i < Values; i++)
            values[i] = k.ToFloat(k.SignedBitField(codes[i / 4], i % 4 * 8, 8)) * scale;
        return values;
    }

    /// <summary>Of a table of 16 bytes in four words, prmt finds one of eight.</summary>
    private F32[] Levels(F32 scale, U32[] codes)
    {
        var words = new U32[4];
        for (int i = 0; i < 4; i++)
            words[i] = k.Variable<U32>(BitConverter.ToUInt32([(byte)_levels[4 * i], (byte)_levels[(4 * i) + 1], (byte)_levels[(4 * i) + 2], (byte)_levels[(4 * i) + 3]]));
        return Each(codes, code =>
        {
            U32 inHalf = code & 7;
            U32 level = k.Select(code < 8, k.Permute(words[0], words[1], inHalf), k.Permute(words[2], words[3], inHalf));
            return k.ToFloat(k.SignedBitField(level, 0, 8)) * scale;
        });
    }

    /// <summary>Scale and minimum of 6 bits, of Q4_K and Q5_K: sub-blocks 0 to 3 in the low bits of bytes, 4 to 7 in nibbles and the bits left over.</summary>
    private F32[] WithPair(U32[] codes)
    {
        U32 sub = element / 32;
        Pred first = sub < 4;
        U32 here = k.LoadByte(At(4, sub)), later = k.LoadByte(At(8, sub)), low = k.LoadByte(At(4, sub % 4));
        U32 scale = k.Select(first, here & 63, (later & 15) | (low >> 6 << 4)), minimum = k.Select(first, later & 63, (later >> 4) | (here >> 6 << 4));
        return WithMinimum(Half(0) * k.ToFloat(scale), codes, -(Half(2) * k.ToFloat(minimum)));
    }

    private F32[] Each(U32[] words, Func<U32, F32> value)
    {
        var values = new F32[Values];
        for (int i = 0; i < Values; i++)
            values[i] = value(k.BitField(words[i / 4], i % 4 * 8, 8));
        return values;
    }
}
