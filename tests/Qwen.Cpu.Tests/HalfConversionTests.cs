namespace Qwen.Cpu.Tests;

public sealed unsafe class HalfConversionTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Widen_IsExact_ForEveryPattern(Isa isa)
    {
        isa.SkipUnlessSupported();
        short[] patterns = [.. Enumerable.Range(0, 65536).Select(i => (short)i)];
        float[] f16 = new float[65536], bf16 = new float[65536];
        fixed (short* source = patterns)
        fixed (float* half = f16, brain = bf16)
        {
            Widen(isa, WeightType.F16, source, half, 65536);
            Widen(isa, WeightType.BF16, source, brain, 65536);
        }

        for (int i = 0; i < 65536; i++)
        {
            Half value = BitConverter.UInt16BitsToHalf((ushort)i);
            uint expected = Half.IsNaN(value)
                ? ((uint)(i & 0x8000) << 16) | 0x7F800000 | ((uint)(i & 0x3FF) << 13)
                : BitConverter.SingleToUInt32Bits((float)value);
            Assert.Equal(expected, BitConverter.SingleToUInt32Bits(f16[i]));
            Assert.Equal((uint)i << 16, BitConverter.SingleToUInt32Bits(bf16[i]));
        }
    }

    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Narrow_RoundsToNearestEven_AtEveryHalfAndItsMidpoints(Isa isa)
    {
        isa.SkipUnlessSupported();
        List<float> values = [];
        for (int i = 0; i < 65536; i++)
        {
            // Every F16 value, its upper midpoint, and one float to either side; the same for BF16.
            foreach (uint bits in (ReadOnlySpan<uint>)[BitConverter.SingleToUInt32Bits((float)BitConverter.UInt16BitsToHalf((ushort)i)), (uint)i << 16])
            {
                foreach (uint step in (ReadOnlySpan<uint>)[0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001])
                    values.Add(BitConverter.UInt32BitsToSingle(bits + step));
            }
        }

        AssertNarrows(isa, [.. values], 0);
    }

    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Narrow_EqualsTheRuntime_ForRandomPatternsOfAnyLength(Isa isa)
    {
        isa.SkipUnlessSupported();
        int seed = Environment.TickCount;
        Random random = new(seed);
        for (int length = 0; length < 70; length++)
            AssertNarrows(isa, [.. Enumerable.Range(0, length).Select(_ => BitConverter.Int32BitsToSingle(random.Next(int.MinValue, int.MaxValue)))], seed);
        float[] subnormals = [.. Enumerable.Range(0, 20000).Select(_ => (random.NextSingle() - 0.5f) * 2e-4f)];
        AssertNarrows(isa, subnormals, seed);
    }

    private static void AssertNarrows(Isa isa, float[] values, int seed)
    {
        using GuardedMemory<float> source = new(values.Length);
        using GuardedMemory<ushort> f16 = new(values.Length), bf16 = new(values.Length);
        values.CopyTo(source.Span);
        Narrow(isa, WeightType.F16, source.Pointer, f16.Pointer, values.Length);
        Narrow(isa, WeightType.BF16, source.Pointer, bf16.Pointer, values.Length);
        for (int i = 0; i < values.Length; i++)
        {
            uint bits = BitConverter.SingleToUInt32Bits(values[i]);
            uint brain = float.IsNaN(values[i]) ? (bits >> 16) | 0x40 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
            Assert.True(BitConverter.HalfToUInt16Bits((Half)values[i]) == f16.Span[i], $"F16 of {bits:X8} is {f16.Span[i]:X4} (seed {seed})");
            Assert.True(brain == bf16.Span[i], $"BF16 of {bits:X8} is {bf16.Span[i]:X4} (seed {seed})");
        }
    }

    private static void Widen(Isa isa, WeightType type, void* source, float* target, int count)
    {
        WeightMatrix row = new(type, 1, count, (byte*)source, count * sizeof(short));
        switch (isa)
        {
            case Isa.Avx512:
                FloatRows.DequantizeRow<Lanes512>(row, 0, target);
                break;
            case Isa.Avx2:
                FloatRows.DequantizeRow<Lanes256>(row, 0, target);
                break;
            default:
                FloatRows.DequantizeRow<Lanes128>(row, 0, target);
                break;
        }
    }

    private static void Narrow(Isa isa, WeightType type, float* source, void* target, int count)
    {
        switch (isa, type)
        {
            case (Isa.Avx512, WeightType.F16):
                FloatElements.Narrow<Lanes512, F16Element>(source, (byte*)target, count);
                break;
            case (Isa.Avx512, _):
                FloatElements.Narrow<Lanes512, BF16Element>(source, (byte*)target, count);
                break;
            case (Isa.Avx2, WeightType.F16):
                FloatElements.Narrow<Lanes256, F16Element>(source, (byte*)target, count);
                break;
            case (Isa.Avx2, _):
                FloatElements.Narrow<Lanes256, BF16Element>(source, (byte*)target, count);
                break;
            case (_, WeightType.F16):
                FloatElements.Narrow<Lanes128, F16Element>(source, (byte*)target, count);
                break;
            default:
                FloatElements.Narrow<Lanes128, BF16Element>(source, (byte*)target, count);
                break;
        }
    }
}
