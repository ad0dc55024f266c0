namespace Qwen.Cpu.Tests;

public sealed unsafe class Float8ConversionTests
{
    [SkippableTheory]
    [InlineData(Isa.Portable)]
    [InlineData(Isa.Avx2)]
    [InlineData(Isa.Avx512)]
    public void Widen_GivesEveryCodeItsValue_AtEveryLength(Isa isa)
    {
        isa.SkipUnlessSupported();
        for (int count = 0; count <= 200; count++)
        {
            for (int first = 0; first < 256; first += 61)
                Check(isa, first, count);
        }

        Check(isa, 0, 512);
    }

    private static void Check(Isa isa, int first, int count)
    {
        using GuardedMemory<byte> codes = new(count);
        using GuardedMemory<float> values = new(count);
        for (int i = 0; i < count; i++)
            codes.Span[i] = (byte)(first + i);
        switch (isa)
        {
            case Isa.Avx512:
                FloatElements.Widen<Lanes512, F8E4M3Element>(codes.Pointer, values.Pointer, count);
                break;
            case Isa.Avx2:
                FloatElements.Widen<Lanes256, F8E4M3Element>(codes.Pointer, values.Pointer, count);
                break;
            default:
                FloatElements.Widen<Lanes128, F8E4M3Element>(codes.Pointer, values.Pointer, count);
                break;
        }

        for (int i = 0; i < count; i++)
        {
            float expected = Canonical.E4M3((byte)(first + i)), actual = values.Span[i];
            Assert.True(
                float.IsNaN(expected) ? float.IsNaN(actual) : BitConverter.SingleToInt32Bits(expected) == BitConverter.SingleToInt32Bits(actual),
                $"code {(byte)(first + i):X2}, {i} of {count}: {actual:R} instead of {expected:R}");
        }
    }
}
