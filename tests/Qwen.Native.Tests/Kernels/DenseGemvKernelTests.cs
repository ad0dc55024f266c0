using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

public sealed class DenseGemvKernelTests
{
    private static readonly ElementType[] _types = [ElementType.BF16, ElementType.F16];

    public static TheoryData<ElementType, ElementType, MatmulScale> Weights => new()
    {
        { ElementType.BF16, ElementType.BF16, MatmulScale.None },
        { ElementType.F16, ElementType.F16, MatmulScale.None },
        { ElementType.E4M3, ElementType.BF16, MatmulScale.Tensor },
        { ElementType.E4M3, ElementType.BF16, MatmulScale.Row },
        { ElementType.E4M3, ElementType.BF16, MatmulScale.Block128 },
        { ElementType.E4M3, ElementType.F16, MatmulScale.None },
        { ElementType.E4M3, ElementType.F16, MatmulScale.Row },
        { ElementType.E4M3, ElementType.F16, MatmulScale.Block128 },
    };

    [Theory]
    [MemberData(nameof(Weights))]
    public void Product_IsThatOfPlainSums(ElementType weights, ElementType activations, MatmulScale scale)
    {
        using var machine = new KernelMachine(multiprocessors: 2); // so that blocks have several rows in turn
        foreach ((ElementType result, bool accumulate) in ((ElementType, bool)[])[(activations, false), (ElementType.F32, false), (ElementType.F32, true)])
        {
            var product = new DenseProduct(weights, activations, result, scale, accumulate, Bias: machine.Random.Next(2) == 0);
            foreach (GemvTiling tiling in (GemvTiling[])[.. Tilings(machine.Random, 1), .. Tilings(machine.Random, 2)])
                Check(machine, product, tiling, machine.Random.Next(1, 13) * 8, machine.Random.Next(1, 90) * 16, machine.Random.Next(1, 9));
        }
    }

    [Theory]
    [MemberData(nameof(Weights))]
    public void Gated_IsSwiGluOfBothHalves(ElementType weights, ElementType activations, MatmulScale scale)
    {
        using var machine = new KernelMachine(multiprocessors: 2);
        int multiple = scale == MatmulScale.Block128 ? 128 : 8;
        var product = new DenseProduct(weights, activations, activations, scale, Bias: machine.Random.Next(2) == 0, Gated: true);
        foreach (GemvTiling tiling in Tilings(machine.Random, 2))
            Check(machine, product, tiling, 2 * multiple * machine.Random.Next(1, 128 / multiple + 1), machine.Random.Next(1, 40) * 16, machine.Random.Next(1, 9));
    }

    [Theory]
    [InlineData(8, 8, 1)] // less than a step, less than a tile
    [InlineData(16, 64, 8)] // half a step
    [InlineData(40, 2048, 8)] // all warps, all steps ahead
    [InlineData(24, 4168, 2)] // 8 inputs over
    public void Edges_AreRight(int outputs, int inputs, int tokens)
    {
        using var machine = new KernelMachine();
        foreach (int rowTiles in (int[])[1, 2])
        {
            Check(machine, new DenseProduct(ElementType.BF16, ElementType.BF16, ElementType.F32), new GemvTiling(rowTiles, 4, 3, 1), outputs, inputs, tokens);
            Check(machine, new DenseProduct(ElementType.BF16, ElementType.BF16, ElementType.F32), new GemvTiling(rowTiles, 4, 0, 4), outputs, inputs, tokens);
        }
    }

    [Theory]
    [InlineData(80)]
    [InlineData(89)]
    public void OlderDevices_ComputeTheSame(int computeCapability)
    {
        using var machine = new KernelMachine(computeCapability);
        foreach (ElementType type in _types)
        {
            foreach (int slots in (int[])[3, 0])
            {
                Check(machine, new DenseProduct(type, type, type, Bias: true), new GemvTiling(1, 8, slots, 1), 32, 288, 3);
                Check(machine, new DenseProduct(ElementType.E4M3, type, ElementType.F32, MatmulScale.Row, Accumulate: true), new GemvTiling(2, 4, slots, 1), 48, 272, 3);
            }
        }
    }

    [Theory]
    [InlineData(3)]
    [InlineData(0)]
    public void Codes_AreExact(int slots)
    {
        using var machine = new KernelMachine();
        foreach (ElementType type in _types)
        {
            // Each row of W is all codes times ones of x at one place: the result is the code's value.
            var kernel = new DenseGemvKernel(machine.Cache, new DenseProduct(ElementType.E4M3, type, ElementType.F32), new GemvTiling(1, 4, slots, 1));
            byte[] codes = [.. Enumerable.Range(0, 256).SelectMany(code => Enumerable.Repeat((byte)((code & 0x7f) == 0x7f ? 0 : code), 16))];
            float[] x = [.. Enumerable.Range(0, 16).Select(i => i == 13 ? 1f : 0)];
            using DeviceBuffer w = machine.Buffer<byte>(codes), ones = machine.Buffer(type, x), y = machine.Empty(ElementType.F32, 256);
            kernel.Launch(machine.Stream, w.Pointer, default, ones.Pointer, default, y.Pointer, 256, 16, 1);
            machine.AssertEqual<float>([.. Enumerable.Range(0, 256).Select(code => TypedValues.Decode(ElementType.E4M3, codes[code * 16]))], machine.Read(ElementType.F32, y));
        }
    }

    [Theory]
    [InlineData(3)]
    [InlineData(0)]
    public void AToken_HasTheSameBitsAloneAsAmongEight(int slots)
    {
        using var machine = new KernelMachine();
        const int Outputs = 48, Inputs = 1424;
        var kernel = new DenseGemvKernel(machine.Cache, new DenseProduct(ElementType.BF16, ElementType.BF16, ElementType.F32), new GemvTiling(1, 4, slots, 1));
        using DeviceBuffer w = machine.Buffer(ElementType.BF16, machine.Values(ElementType.BF16, Outputs * Inputs)), x = machine.Buffer(ElementType.BF16, machine.Values(ElementType.BF16, 8 * Inputs));
        using DeviceBuffer all = machine.Empty(ElementType.F32, 8 * Outputs), one = machine.Empty(ElementType.F32, Outputs);
        kernel.Launch(machine.Stream, w.Pointer, default, x.Pointer, default, all.Pointer, Outputs, Inputs, 8);
        kernel.Launch(machine.Stream, w.Pointer, default, x.Pointer + (5 * Inputs * 2), default, one.Pointer, Outputs, Inputs, 1);
        machine.AssertEqual<float>(machine.Read(ElementType.F32, all).AsSpan(5 * Outputs, Outputs), machine.Read(ElementType.F32, one));
    }

    [Fact]
    public void WhatItCantCompute_IsRefused()
    {
        using var machine = new KernelMachine();
        using DeviceBuffer memory = machine.Buffer<byte>(new byte[4096]);
        var product = new DenseProduct(ElementType.E4M3, ElementType.BF16, ElementType.BF16);
        var kernel = new DenseGemvKernel(machine.Cache, product, new GemvTiling(1, 4, 3, 1));
        void Launch(int outputs, int inputs, int tokens) => kernel.Launch(machine.Stream, memory.Pointer, default, memory.Pointer, default, memory.Pointer, outputs, inputs, tokens);

        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 24, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 0, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(0, 16, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 16, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 16, 9));
        Assert.Throws<ArgumentOutOfRangeException>(() => (product with { Weights = ElementType.F16 }).Check());
        Assert.Throws<ArgumentOutOfRangeException>(() => (product with { Accumulate = true }).Check());
        Assert.Throws<ArgumentOutOfRangeException>(() => (product with { Scale = MatmulScale.RowGroup128 }).Check());
    }

    /// <summary>Weights by way of a ring in shared memory, and, as the engine has it, straight to registers.</summary>
    private static GemvTiling[] Tilings(Random random, int rowTiles)
    {
        int warps = 4 << random.Next(3);
        return
        [
            new(rowTiles, warps, random.Next(2, Math.Max(3, Math.Min(7, 48 / warps / rowTiles))), random.Next(1, 3), random.Next(1, 4), random.Next(1, 4)), // 2 KB a unit and row tile, up to 128 KB
            new(rowTiles, warps, 0, 16 / warps),
        ];
    }

    private static void Check(KernelMachine machine, DenseProduct product, GemvTiling tiling, int outputs, int inputs, int tokens)
    {
        using var data = new DenseProductCase(machine, product, outputs, inputs, tokens);
        new DenseGemvKernel(machine.Cache, product, tiling).Launch(machine.Stream, data.Weights, data.Scales, data.X, data.Bias, data.Y, outputs, inputs, tokens);
        data.Check(tiling);
    }
}
