using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Tests.Kernels;

namespace Qwen.Native.Tests.Ptx;

/// <summary>8-bit floats, by arithmetic (sm_80) and by the instruction (sm_90): every code, and every value that an F16 or a BF16 has.</summary>
public sealed class Float8ConversionTests
{
    [Theory]
    [InlineData(ElementType.E4M3, 80)]
    [InlineData(ElementType.E4M3, 90)]
    [InlineData(ElementType.E5M2, 80)]
    [InlineData(ElementType.E5M2, 90)]
    public void EveryCode_HasItsValue(ElementType type, int device)
    {
        using var machine = new KernelMachine(device);
        byte[] codes = [.. Enumerable.Range(0, 256).Select(code => (byte)code)];
        DeviceBuffer values = machine.Empty(ElementType.F32, 256);

        new CastKernel(machine.Cache, type, ElementType.F32).Launch(machine.Stream, machine.Buffer<byte>(codes).Pointer, values.Pointer, 256);

        float[] expected = [.. codes.Select(code => TypedValues.Decode(type, code))];
        if (type == ElementType.E4M3 && device < 89)
            (expected[0x7f], expected[0xff]) = (480, -480); // by arithmetic, its NaN is the number after the last
        machine.AssertEqual<float>(expected, machine.Read<float>(values), "values");
    }

    [Theory]
    [InlineData(ElementType.E4M3, 80, ElementType.F16)]
    [InlineData(ElementType.E4M3, 90, ElementType.F16)]
    [InlineData(ElementType.E4M3, 80, ElementType.BF16)]
    [InlineData(ElementType.E4M3, 90, ElementType.BF16)]
    [InlineData(ElementType.E5M2, 80, ElementType.F16)]
    [InlineData(ElementType.E5M2, 90, ElementType.F16)]
    [InlineData(ElementType.E5M2, 80, ElementType.BF16)]
    [InlineData(ElementType.E5M2, 90, ElementType.BF16)]
    public void EveryValue_HasTheNearestCode(ElementType type, int device, ElementType from)
    {
        using var machine = new KernelMachine(device);
        ushort[] values = [.. Enumerable.Range(0, 1 << 16).Select(bits => (ushort)bits)];
        DeviceBuffer codes = machine.Empty(type, values.Length);

        new CastKernel(machine.Cache, from, type).Launch(machine.Stream, machine.Buffer<ushort>(values).Pointer, codes.Pointer, values.Length);

        byte[] actual = machine.Read<byte>(codes);
        for (int bits = 0; bits < values.Length; bits++)
        {
            float value = TypedValues.Decode(from, (uint)bits);
            if (float.IsNaN(value))
                Assert.Equal(0x7f, actual[bits] & 0x7f);
            else
                Assert.True(TypedValues.Encode(type, value) == actual[bits], $"{value:g9} becomes 0x{actual[bits]:x2}, not 0x{TypedValues.Encode(type, value):x2}.");
        }
    }
}
