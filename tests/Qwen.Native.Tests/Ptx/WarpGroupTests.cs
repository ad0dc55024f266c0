using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Interop;
using Qwen.Native.Ptx;
using Qwen.Native.Tests.Interop;

namespace Qwen.Native.Tests.Ptx;

/// <summary>Products of warp groups: layouts and descriptors as the emitter makes them, read by the emulated device by the PTX ISA's definition.</summary>
public sealed class WarpGroupTests
{
    private static readonly PtxTarget _target = new(90, 84, ArchitectureSpecific: true);

    [Fact]
    public void EveryForm_IsTheProduct()
    {
        using var device = new EmulatedDevice(90);
        using IDeviceStream stream = device.CreateStream();

        foreach (WarpGroupForm form in WarpGroupForm.All)
            Assert.Null(form.Difference(device, stream, seed: 1));
    }

    [SkippableFact]
    public void EveryForm_Assembles()
    {
        Checkers.Need(NativeLibraries.PtxCompiler);
        foreach (WarpGroupForm form in WarpGroupForm.All)
        {
            AssembledKernel assembled = Assert.Single(PtxCompiler.Compile(form.Build(_target).Text, "sm_90a"));
            Assert.Equal(0, assembled.SpillStoreBytes + assembled.SpillLoadBytes);
        }
    }

    /// <summary>Offsets of single chunks, counted by hand.</summary>
    [Theory]
    [InlineData(MatrixSwizzle.Bytes128, 0, 3, 0x30)]
    [InlineData(MatrixSwizzle.Bytes128, 5, 3, (5 * 128) + 0x60)]
    [InlineData(MatrixSwizzle.Bytes128, 8, 15, (16 * 128) + (8 * 128) + 0x70)]
    [InlineData(MatrixSwizzle.Bytes64, 3, 2, (3 * 64) + 0x30)]
    [InlineData(MatrixSwizzle.Bytes64, 9, 5, (16 * 64) + (9 * 64) + 0x10)]
    [InlineData(MatrixSwizzle.Bytes32, 4, 1, 4 * 32)]
    [InlineData(MatrixSwizzle.None, 9, 2, (2 * 16 * 16) + (9 * 16))]
    public void AChunk_IsWhereThePatternPutsIt(MatrixSwizzle swizzle, int row, int chunk, int expected)
    {
        var layout = new MatrixLayout(16, 256, swizzle);
        var k = new PtxBuilder(_target, "k", 32);
        k.Store(k.Pointer("to"), layout.Offset(k.Number("row"), k.Number("chunk")));
        PtxKernel kernel = k.Build();
        using var device = new EmulatedDevice(90);
        using IDeviceStream stream = device.CreateStream();
        using DeviceBuffer to = device.Allocate(sizeof(int));
        using IDeviceModule module = device.LoadModule(kernel.Text);

        stream.Launch(module.Function(kernel.Name), 1, 1, [Argument.Of(to.Pointer), (ulong)row, (ulong)chunk]);

        Assert.Equal(expected, Read(stream, to));
    }

    [Fact]
    public void WhatProductsCant_IsRefused()
    {
        var k = new PtxBuilder(_target, "k", 128);
        MatrixLayout layout = new(64, 128);
        MatrixDescriptor rows = layout.Describe(k, layout.Allocate(k)), columns = layout.Describe(k, layout.Allocate(k), transposed: true);
        F32[] sums = [.. Enumerable.Range(0, 32).Select(_ => k.Variable<F32>())];

        Assert.Throws<ArgumentOutOfRangeException>(() => k.Product(ElementType.BF16, sums.AsSpan(0, 30), rows, rows));
        Assert.Throws<ArgumentOutOfRangeException>(() => k.Product(ElementType.E4M3, sums, rows, columns));
        Assert.Throws<ArgumentOutOfRangeException>(() => k.Product(ElementType.E4M3, sums, columns, rows));
        Assert.Throws<ArgumentOutOfRangeException>(() => k.WaitForProducts(8));
        Assert.Throws<ArgumentOutOfRangeException>(() => k.SetRegisters(100, more: true));
        Assert.Throws<InvalidOperationException>(() => new MatrixLayout(64, 96).Allocate(k));
        Assert.Throws<PtxTargetException>(() => new PtxBuilder(new PtxTarget(90, 84), "k", 128).FenceProducts());
    }

    private static unsafe int Read(IDeviceStream stream, DeviceBuffer buffer)
    {
        int value;
        stream.CopyToHost(&value, buffer.Pointer, sizeof(int));
        stream.Synchronize();
        return value;
    }
}
