using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Kernels that move values or change their type.</summary>
public sealed class CopyKernelTests
{
    public static TheoryData<ElementType, ElementType> Casts
    {
        get
        {
            var data = new TheoryData<ElementType, ElementType>();
            ElementType[] types = [ElementType.F32, ElementType.F16, ElementType.BF16];
            foreach (ElementType from in types)
            {
                foreach (ElementType to in types)
                    data.Add(from, to);
            }

            return data;
        }
    }

    [Theory]
    [InlineData(4)]
    [InlineData(8)]
    [InlineData(48)]
    [InlineData(2052)]
    [InlineData(14336)]
    public void GatherRows_CopiesRows(int rowBytes)
    {
        using var machine = new KernelMachine();
        byte[] x = new byte[5 * rowBytes];
        machine.Random.NextBytes(x);
        int[] rows = [4, 0, 2, 2];
        DeviceBuffer y = machine.Empty(ElementType.S8, rows.Length * rowBytes);

        new GatherRowsKernel(machine.Cache, rowBytes).Launch(machine.Stream, machine.Buffer<byte>(x).Pointer, machine.Buffer<int>(rows).Pointer, y.Pointer, rows.Length);

        machine.AssertEqual<byte>([.. rows.SelectMany(row => x[(row * rowBytes)..((row + 1) * rowBytes)])], machine.Read<byte>(y));
    }

    [Theory]
    [MemberData(nameof(Casts))]
    public void Cast_RoundsToNearest(ElementType from, ElementType to)
    {
        using var machine = new KernelMachine();
        foreach (int count in (int[])[1, 2, 3, 4, 5, 127, 1023, 1025])
        {
            float[] x = machine.Values(from, count, 100);
            x[0] = TypedValues.Round(from, -1e6f); // more than an F16 holds
            DeviceBuffer y = machine.Empty(to, count);

            new CastKernel(machine.Cache, from, to).Launch(machine.Stream, machine.Buffer(from, x).Pointer, y.Pointer, count);

            machine.AssertEqual<float>([.. x.Select(value => TypedValues.Round(to, value))], machine.Read(to, y), $"y, {count} values");
        }
    }

    [Theory]
    [InlineData(8)]
    [InlineData(136)]
    [InlineData(4096)]
    [InlineData(29568)] // dynamic shared memory
    public void PermuteColumns_PicksByTheOrder(int columns)
    {
        using var machine = new KernelMachine();
        const int Rows = 2;
        ushort[] x = [.. Enumerable.Range(0, Rows * columns).Select(_ => (ushort)machine.Random.Next(65536))];
        int[] order = [.. Enumerable.Range(0, columns)];
        machine.Random.Shuffle(order);
        DeviceBuffer y = machine.Empty(ElementType.F16, Rows * columns);

        new PermuteColumnsKernel(machine.Cache, columns).Launch(machine.Stream, machine.Buffer<ushort>(x).Pointer, machine.Buffer<int>(order).Pointer, y.Pointer, Rows);

        machine.AssertEqual<ushort>([.. Enumerable.Range(0, x.Length).Select(i => x[(i / columns * columns) + order[i % columns]])], machine.Read<ushort>(y));
    }

    [Fact]
    public void SizesThatAreNoVectors_AreRefused()
    {
        var target = new PtxTarget(90, 84);
        Assert.Throws<ArgumentOutOfRangeException>(() => GatherRowsKernel.Build(target, 6));
        Assert.Throws<ArgumentOutOfRangeException>(() => PermuteColumnsKernel.Build(target, 12));
    }
}
