using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Products of many tokens with weights as they are stored, against plain sums.</summary>
public sealed class DenseGemmKernelTests
{
    public static TheoryData<ElementType, ElementType, MatmulScale> Weights => DenseGemvKernelTests.Weights;

    [Theory]
    [MemberData(nameof(Weights))]
    public void Product_IsThatOfPlainSums(ElementType weights, ElementType activations, MatmulScale scale)
    {
        using var machine = new KernelMachine(Random.Shared.Next(2) == 0 ? 80 : 90);
        foreach ((ElementType result, bool accumulate) in ((ElementType, bool)[])[(activations, false), (ElementType.F32, false), (ElementType.F32, true)])
        {
            var product = new DenseProduct(weights, activations, result, scale, accumulate, Bias: machine.Random.Next(2) == 0);
            int tokens = machine.Random.Next(1, machine.Random.Next(2, 200)), outputs = machine.Random.Next(1, 50) * 8, inputs = machine.Random.Next(1, 60) * 16;
            GemmTiling tiling = GemmTiling.For(machine.Cache.Target, machine.Random.Next(2) << 20, machine.Random.Next(1, 100), 132);
            Check(machine, product, tiling, outputs, inputs, tokens);
        }
    }

    [Theory]
    [MemberData(nameof(Weights))]
    public void Gated_IsSwiGluOfBothHalves(ElementType weights, ElementType activations, MatmulScale scale)
    {
        using var machine = new KernelMachine(Random.Shared.Next(2) == 0 ? 80 : 90);
        var product = new DenseProduct(weights, activations, activations, scale, Bias: machine.Random.Next(2) == 0, Gated: true);
        GemmTiling tiling = GemmTiling.For(machine.Cache.Target, machine.Random.Next(2) << 20, machine.Random.Next(1, 100), 132);
        Check(machine, product, tiling, machine.Random.Next(1, 20) * 16, machine.Random.Next(1, 60) * 16, machine.Random.Next(1, 80));
    }

    [Theory]
    [InlineData(8, 8, 1)] // less than a stage, less than a tile
    [InlineData(272, 1024, 65)] // tiles and runs end anywhere
    [InlineData(24, 5000, 16)] // many blocks share a tile
    [InlineData(136, 2056, 130)] // 8 inputs over
    public void Edges_AreRight(int outputs, int inputs, int tokens)
    {
        foreach (int sm in (int[])[80, 90])
        {
            using var machine = new KernelMachine(sm);
            Check(machine, new DenseProduct(ElementType.BF16, ElementType.BF16, ElementType.F32), GemmTiling.For(machine.Cache.Target, machine.Random.Next(2) << 20, tokens, 132), outputs, inputs, tokens);
        }
    }

    [Fact]
    public void Results_AreTheSameEachTime()
    {
        using var machine = new KernelMachine();
        var kernel = new DenseGemmKernel(machine.Cache, new DenseProduct(ElementType.BF16, ElementType.BF16, ElementType.F32), new GemmTiling(8, 16, 2, 2));
        using DeviceBuffer w = machine.Buffer(ElementType.BF16, machine.Values(ElementType.BF16, 136 * 2048)), x = machine.Buffer(ElementType.BF16, machine.Values(ElementType.BF16, 9 * 2048));
        using DeviceBuffer workspace = Workspace(machine, kernel, 136, 2048, 9), y = machine.Empty(ElementType.F32, 9 * 136);
        float[][] results = new float[2][];
        for (int i = 0; i < 2; i++)
        {
            kernel.Launch(machine.Stream, w.Pointer, default, x.Pointer, default, y.Pointer, 136, 2048, 9, workspace.Pointer);
            results[i] = machine.Read(ElementType.F32, y);
        }

        machine.AssertEqual<float>(results[0], results[1]);
    }

    [Fact]
    public void WhatItCantCompute_IsRefused()
    {
        using var machine = new KernelMachine();
        using DeviceBuffer memory = machine.Buffer<byte>(new byte[4096]);
        var product = new DenseProduct(ElementType.E4M3, ElementType.BF16, ElementType.BF16);
        var kernel = new DenseGemmKernel(machine.Cache, product, new GemmTiling(8, 16));
        void Launch(int outputs, int inputs, int tokens) => kernel.Launch(machine.Stream, memory.Pointer, default, memory.Pointer, default, memory.Pointer, outputs, inputs, tokens, memory.Pointer);

        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 24, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 0, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(0, 16, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => Launch(16, 16, 0));
        var gated = new DenseGemmKernel(machine.Cache, product with { Gated = true, Scale = MatmulScale.Block128 }, new GemmTiling(8, 16));
        Assert.Throws<ArgumentOutOfRangeException>(() => gated.Launch(machine.Stream, memory.Pointer, default, memory.Pointer, default, memory.Pointer, 24, 16, 1, memory.Pointer));
        Assert.Throws<ArgumentOutOfRangeException>(() => DenseGemmKernel.Build(machine.Cache.Target, product, new GemmTiling(16, 128)));
        Assert.Throws<ArgumentOutOfRangeException>(() => DenseGemmKernel.Build(machine.Cache.Target, product, new GemmTiling(8, 24)));
        Assert.Throws<ArgumentOutOfRangeException>(() => DenseGemmKernel.Build(new(80, 70), product, new GemmTiling(8, 128)));
    }

    private static DeviceBuffer Workspace(KernelMachine machine, DenseGemmKernel kernel, int outputs, int inputs, int tokens) =>
        machine.Buffer<byte>(new byte[Math.Max(16, kernel.WorkspaceBytes(outputs, inputs, tokens))]);

    private static void Check(KernelMachine machine, DenseProduct product, GemmTiling tiling, int outputs, int inputs, int tokens)
    {
        using var data = new DenseProductCase(machine, product, outputs, inputs, tokens);
        var kernel = new DenseGemmKernel(machine.Cache, product, tiling);
        using DeviceBuffer workspace = Workspace(machine, kernel, outputs, inputs, tokens);
        kernel.Launch(machine.Stream, data.Weights, data.Scales, data.X, data.Bias, data.Y, outputs, inputs, tokens, workspace.Pointer);
        data.Check(tiling);
    }
}
