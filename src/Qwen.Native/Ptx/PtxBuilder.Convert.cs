using Qwen.Native.Device;

namespace Qwen.Native.Ptx;

/// <content>Values in memory types, as floats. Halves saturate; 8-bit floats too, and those that the target can't convert are converted by arithmetic.</content>
public sealed partial class PtxBuilder
{
    private const float MostHalf = 65504, MostE4M3 = 448, MostE5M2 = 57344;

    /// <summary>Two floats as two halves, rounded to nearest even, F16 saturated.</summary>
    /// <param name="kind">F16 or BF16.</param>
    /// <param name="low">The first.</param>
    /// <param name="high">The second.</param>
    /// <param name="saturate">False where F16 is known to hold them.</param>
    public Half2 Pack(ElementType kind, F32 low, F32 high, bool saturate = true)
    {
        if (kind == ElementType.F16 && saturate)
            (low, high) = (Clamp(low, MostHalf), Clamp(high, MostHalf));
        return new Half2(Instruction<U32>($"cvt.rn.{Name(kind)}x2.f32", high.Operand, low.Operand).Operand, kind);
    }

    /// <summary>Two halves as floats.</summary>
    public (F32 Low, F32 High) Unpack(Half2 pair)
    {
        if (pair.Kind == ElementType.BF16)
            return (AsFloat(pair.AsU32 << 16), AsFloat(pair.AsU32 & 0xffff0000u));
        (B16 low, B16 high) = Split(pair.AsU32);
        return (Instruction<F32>("cvt.f32.f16", low.Operand), Instruction<F32>("cvt.f32.f16", high.Operand));
    }

    /// <summary>The halves of a word.</summary>
    public (B16 Low, B16 High) Split(U32 word)
    {
        (B16 low, B16 high) = (Variable<B16>(), Variable<B16>());
        Line($"mov.b32 {{{low.Operand}, {high.Operand}}}, {word.Operand};");
        return (low, high);
    }

    /// <summary>A word of two halves.</summary>
    public U32 Join(B16 low, B16 high)
    {
        if (low.Operand.IsConstant)
            low = Variable(low);
        if (high.Operand.IsConstant)
            high = Variable(high);
        U32 word = Variable<U32>();
        Line($"mov.b32 {word.Operand}, {{{low.Operand}, {high.Operand}}};");
        return word;
    }

    /// <summary>A half as a float.</summary>
    public F32 ToFloat(ElementType kind, B16 value) =>
        kind == ElementType.F16 ? Instruction<F32>("cvt.f32.f16", value.Operand) : AsFloat(Join(0, value));

    /// <summary>A float as a half, rounded to nearest even, F16 saturated.</summary>
    public B16 ToHalf(ElementType kind, F32 value) =>
        kind == ElementType.F16 ? Instruction<B16>("cvt.rn.f16.f32", Clamp(value, MostHalf).Operand) : Instruction<B16>("cvt.rn.bf16.f32", value.Operand);

    /// <summary>Two 8-bit floats (the low half of a word) as two F16, which hold all their values.</summary>
    public Half2 Float8ToHalf2(ElementType kind, U32 codes)
    {
        if (Target.Has(PtxFeature.Float8Conversion))
        {
            Require(PtxFeature.Float8Conversion);
            return new Half2(Instruction<U32>($"cvt.rn.f16x2.{Name(kind)}x2", Split(codes).Low.Operand).Operand, ElementType.F16);
        }

        U32 spread = Permute(codes, 0, 0x1404); // each code to the upper byte of its half
        if (kind == ElementType.E5M2)
            return spread.AsHalf2(ElementType.F16); // F16 with two mantissa bits
        // The sign stays; exponent and mantissa move down by one bit, whose value is then 2^8 too small: exact, subnormals included. NaN becomes 480.
        U32 bits = (spread & 0x80008000u) | ((spread & 0x7f007f00u) >> 1);
        return bits.AsHalf2(ElementType.F16) * Constant(ElementType.F16, 256);
    }

    /// <summary>
    /// Two E4M3 codes of a word (bytes <paramref name="first"/> and the next) as BF16, which hold all their values. Exponent and mantissa keep their
    /// order in the wider format, whose exponents count from 127 instead of 7: as BF16 they are 2^120 too small, subnormals included. NaN becomes 480.
    /// </summary>
    public Half2 E4M3ToBFloat16(U32 codes, int first)
    {
        // Bytes from the top: the second code, the sign of the first eight times, the first, and what is masked out. Shifted by 4, both signs are where they belong.
        uint a = (uint)first, selector = ((a + 1) << 12) | ((a | 8) << 8) | (a << 4) | a;
        U32 bits = (new S32(Permute(codes, codes, selector).Operand) >> 4).AsU32 & 0x87f087f0u;
        return bits.AsHalf2(ElementType.BF16) * Constant(ElementType.BF16, MathF.ScaleB(1, 120));
    }

    /// <summary>The four values of a word of E4M3, E5M2 or S8 as F16, which hold them all.</summary>
    public (Half2 Low, Half2 High) BytesToHalf2(ElementType kind, U32 word)
    {
        if (kind != ElementType.S8)
            return (Float8ToHalf2(kind, word), Float8ToHalf2(kind, word >> 16));
        // 0x6400 is 1024, whose units are the last mantissa bits: a byte put there is 1024 + byte.
        U32 positive = word ^ 0x80808080u;
        Half2 offset = Constant(ElementType.F16, 1024 + 128);
        return (Permute(positive, 0x64646464u, 0x5150).AsHalf2(ElementType.F16) - offset, Permute(positive, 0x64646464u, 0x5352).AsHalf2(ElementType.F16) - offset);
    }

    /// <summary>Two floats as 8-bit floats in the low half of a word, rounded to nearest even and saturated; NaN stays NaN.</summary>
    public U32 PackFloat8(ElementType kind, F32 low, F32 high)
    {
        if (Target.Has(PtxFeature.Float8Conversion))
        {
            Require(PtxFeature.Float8Conversion);
            return Join(Instruction<B16>($"cvt.rn.satfinite.{Name(kind)}x2.f32", high.Operand, low.Operand), 0);
        }

        return EncodeFloat8(kind, low) | (EncodeFloat8(kind, high) << 8);
    }

    /// <summary>Loads <paramref name="count"/> consecutive values of a type as floats, in accesses of up to 16 bytes.</summary>
    /// <param name="type">F32, F16, BF16, E4M3, E5M2 or S8.</param>
    /// <param name="address">Aligned to the access: the smaller of 16 and count times the type's size.</param>
    /// <param name="count">A power of two.</param>
    /// <param name="hint">Caching.</param>
    /// <param name="when">Load only where this holds; else zeros.</param>
    public F32[] LoadElements(ElementType type, Global address, int count, CacheHint hint = CacheHint.None, Pred? when = null) =>
        Elements(
            type, count,
            offset => ToFloat(type, Load<B16>(address + offset, hint, when)),
            offset => LoadByte(address + offset, hint, when),
            (offset, words) => LoadVector<U32>(address + offset, words, hint, when));

    /// <summary>As from global memory.</summary>
    public F32[] LoadElements(ElementType type, Shared address, int count) =>
        Elements(
            type, count,
            offset => ToFloat(type, Load<B16>(address + offset)),
            offset => LoadByte(address + offset),
            (offset, words) => LoadVector<U32>(address + offset, words));

    /// <summary>Stores consecutive floats as a type, in accesses of up to 16 bytes. S8 rounds to nearest even and saturates at +-127.</summary>
    /// <param name="type">F32, F16, BF16, E4M3, E5M2 or S8.</param>
    /// <param name="address">Aligned to the access.</param>
    /// <param name="values">A power of two of them.</param>
    /// <param name="when">Store only where this holds.</param>
    public void StoreElements(ElementType type, Global address, ReadOnlySpan<F32> values, Pred? when = null)
    {
        if (type.Bytes() * values.Length < 4)
        {
            if (type.Bytes() == 2)
                Store(address, ToHalf(type, values[0]), when);
            else if (values.Length == 1)
                StoreByte(address, Encode(type, [values[0], values[0]])[0], when);
            else
                Store(address, Split(Encode(type, values)[0]).Low, when);
            return;
        }

        U32[] words = Encode(type, values);
        for (int i = 0; i < words.Length; i += 4)
            StoreVector<U32>(address + (i * 4), words.AsSpan(i, Math.Min(4, words.Length - i)), when);
    }

    /// <summary>Consecutive floats as words of a type: as many values to a word as it holds.</summary>
    public U32[] Encode(ElementType type, ReadOnlySpan<F32> values)
    {
        int perWord = 4 / type.Bytes();
        var words = new U32[(values.Length + perWord - 1) / perWord];
        for (int i = 0; i < words.Length; i++)
        {
            ReadOnlySpan<F32> part = values[(i * perWord)..Math.Min((i + 1) * perWord, values.Length)];
            words[i] = type switch
            {
                ElementType.F32 => part[0].AsU32,
                ElementType.F16 or ElementType.BF16 => Pack(type, part[0], part[1]).AsU32,
                ElementType.E4M3 or ElementType.E5M2 when part.Length <= 2 => PackFloat8(type, part[0], part[1]),
                ElementType.E4M3 or ElementType.E5M2 => Permute(PackFloat8(type, part[0], part[1]), PackFloat8(type, part[2], part[3]), 0x5410),
                ElementType.S8 => PackBytes(part),
                _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
            };
        }

        return words;
    }

    /// <summary>The values in words of a type.</summary>
    public F32[] Decode(ElementType type, ReadOnlySpan<U32> words)
    {
        var values = new List<F32>();
        foreach (U32 word in words)
        {
            switch (type)
            {
                case ElementType.F32:
                    values.Add(AsFloat(word));
                    break;
                case ElementType.F16 or ElementType.BF16:
                    Add(Unpack(word.AsHalf2(type)));
                    break;
                case ElementType.E4M3 or ElementType.E5M2:
                    Add(Unpack(Float8ToHalf2(type, word)));
                    Add(Unpack(Float8ToHalf2(type, word >> 16)));
                    break;
                case ElementType.S8:
                    for (int i = 0; i < 4; i++)
                        values.Add(ToFloat(SignedBitField(word, 8 * i, 8)));
                    break;
                default:
                    throw new ArgumentOutOfRangeException(nameof(type), type, null);
            }
        }

        return [.. values];

        void Add((F32 Low, F32 High) pair)
        {
            values.Add(pair.Low);
            values.Add(pair.High);
        }
    }

    /// <summary>value, held between -bound and bound; NaN becomes a number.</summary>
    public F32 Clamp(F32 value, float bound) => Max(Min(value, bound), -bound);

    private F32[] Elements(ElementType type, int count, Func<int, F32> loadHalf, Func<int, U32> loadByte, Func<int, int, U32[]> loadWords)
    {
        int bytes = type.Bytes() * count;
        if (bytes == 2 && type.Bytes() == 2)
            return [loadHalf(0)];
        if (bytes < 4)
            return [.. Enumerable.Range(0, count).Select(i => Decode(type, [loadByte(i)])[0])];
        var values = new List<F32>(count);
        for (int offset = 0; offset < bytes; offset += 16)
            values.AddRange(Decode(type, loadWords(offset, Math.Min(16, bytes - offset) / 4)));
        return [.. values];
    }

    private U32 PackBytes(ReadOnlySpan<F32> values)
    {
        U32 word = 0;
        for (int i = values.Length - 1; i >= 0; i--)
        {
            U32 code = RoundToInt(Clamp(values[i], 127)).AsU32 & 0xff;
            word = i == values.Length - 1 ? code : (word << 8) | code;
        }

        return word;
    }

    /// <summary>
    /// One float as an 8-bit one, by arithmetic. Normal values: the mantissa is rounded where it is cut, and the carry may run into the exponent.
    /// Subnormal ones are multiples of the smallest, which the float to integer conversion rounds.
    /// </summary>
    private U32 EncodeFloat8(ElementType kind, F32 value)
    {
        (int mantissa, int bias, float most, uint nan) = kind == ElementType.E4M3 ? (3, 7, MostE4M3, 0x7fu) : (2, 15, MostE5M2, 0x7fu);
        int cut = 23 - mantissa;
        U32 sign = (value.AsU32 >> 24) & 0x80;
        F32 size = Min(Abs(value), most);
        U32 bits = size.AsU32;
        U32 rounded = (bits + ((bits >> cut) & 1) + ((1u << (cut - 1)) - 1)) >> cut;
        U32 normal = rounded - (uint)((127 - bias) << mantissa);
        U32 subnormal = RoundToInt(size * MathF.ScaleB(1, bias - 1 + mantissa)).AsU32;
        U32 code = Select(size < MathF.ScaleB(1, 1 - bias), subnormal, normal);
        return sign | Select<U32>(value.IsNaN, nan, code);
    }
}
