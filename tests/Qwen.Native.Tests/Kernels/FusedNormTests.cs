using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Products that do half of an RMS norm on the side, against the sums of the same products without one.</summary>
public sealed class FusedNormTests
{
    public enum Form
    {
        Packed,
        BF16,
        E4M3,
    }

    [Theory]
    [InlineData(Form.Packed)]
    [InlineData(Form.BF16)]
    [InlineData(Form.E4M3)]
    public void OfInput_DividesSumsByTheRootMeanSquare(Form form)
    {
        using var machine = new KernelMachine(multiprocessors: 2);
        foreach (bool gated in (bool[])[false, true])
        {
            using var product = new Product(machine, form, outputs: 32 * machine.Random.Next(1, 6), inputs: 128 * machine.Random.Next(1, 40), tokens: machine.Random.Next(1, 9));
            float[] sums = product.Run(false, FusedNorm.None, default, new float[product.Tokens * product.Outputs]);
            int parts = product.Inputs / FusedNormArguments.PartColumns;
            float[] squares = [.. machine.Values(ElementType.F32, product.Tokens * parts).Select(MathF.Abs)];
            using DeviceBuffer squaresBuffer = machine.Buffer(ElementType.F32, squares);
            float[] y = product.Run(gated, FusedNorm.OfInput, new FusedNormArguments(FusedNorm.OfInput, squaresBuffer.Pointer, 1e-3f), null);
            int results = gated ? product.Outputs / 2 : product.Outputs;
            for (int token = 0; token < product.Tokens; token++)
            {
                double inverse = 1 / Math.Sqrt((squares.AsSpan(token * parts, parts).ToArray().Sum(value => (double)value) / product.Inputs) + 1e-3);
                for (int o = 0; o < results; o++)
                {
                    double Value(int row) => (sums[(token * product.Outputs) + row] * inverse) + product.Bias[row];
                    double expected = gated ? Value(o) / (1 + Math.Exp(-Value(o))) * Value(o + results) : Value(o);
                    double got = y[(token * results) + o];
                    Assert.True(Math.Abs(got - expected) <= 1e-5 * (1 + Math.Abs(expected)) * (1 + Math.Abs(gated ? Value(o + results) : 0)), $"seed {machine.Seed}, {form}, {gated}: y[{token}, {o}] is {got}, not {expected}");
                }
            }
        }
    }

    [Theory]
    [InlineData(Form.Packed)]
    [InlineData(Form.BF16)]
    [InlineData(Form.E4M3)]
    public void OfResult_WritesWhatTheNextProductTakes(Form form)
    {
        using var machine = new KernelMachine(multiprocessors: 2);
        using var product = new Product(machine, form, outputs: 8 * machine.Random.Next(1, 24), inputs: 128 * machine.Random.Next(1, 5), tokens: 8);
        float[] sums = product.Run(false, FusedNorm.None, default, new float[product.Tokens * product.Outputs]);
        float[] before = machine.Values(ElementType.F32, product.Tokens * product.Outputs), weight = machine.Values(ElementType.F32, product.Outputs);
        const int OfPart = FusedNormArguments.PartColumns;
        int parts = (product.Outputs + OfPart - 1) / OfPart;
        using DeviceBuffer weights = machine.Buffer(ElementType.F32, weight), squares = machine.Empty(ElementType.F32, 8 * parts), scaled = machine.Empty(ElementType.BF16, 8 * product.Outputs);
        using DeviceBuffer squaresOfOne = machine.Empty(ElementType.F32, parts), scaledOfOne = machine.Empty(ElementType.BF16, product.Outputs);
        float[] y = product.Run(false, FusedNorm.OfResult, new FusedNormArguments(FusedNorm.OfResult, squares.Pointer, Weight: weights.Pointer, Scaled: scaled.Pointer), before, biased: false);
        machine.AssertEqual<float>([.. before.Zip(sums, (a, b) => b + a)], y, $"{form}: y");
        machine.AssertEqual<float>([.. y.Select((value, i) => TypedValues.Round(ElementType.BF16, value * weight[i % product.Outputs]))], machine.Read(ElementType.BF16, scaled), $"{form}: scaled");
        float[] parted = machine.Read(ElementType.F32, squares);
        for (int token = 0; token < 8; token++)
        {
            for (int part = 0; part < parts; part++)
            {
                double expected = y.Skip((token * product.Outputs) + (part * OfPart)).Take(Math.Min(OfPart, product.Outputs - (part * OfPart))).Sum(value => (double)value * value);
                Assert.True(Math.Abs(parted[(token * parts) + part] - expected) <= 1e-5 * expected, $"seed {machine.Seed}, {form}: squares[{token}, {part}] are {parted[(token * parts) + part]}, not {expected}");
            }
        }

        // A token alone.
        int alone = machine.Random.Next(8);
        float[] one = product.Run(
            false, FusedNorm.OfResult, new FusedNormArguments(FusedNorm.OfResult, squaresOfOne.Pointer, Weight: weights.Pointer, Scaled: scaledOfOne.Pointer), before.AsSpan(alone * product.Outputs, product.Outputs).ToArray(), biased: false, token: alone);
        machine.AssertEqual<float>(y.AsSpan(alone * product.Outputs, product.Outputs), one, "y of one");
        machine.AssertEqual<float>(parted.AsSpan(alone * parts, parts), machine.Read(ElementType.F32, squaresOfOne), "squares of one");
        machine.AssertEqual<float>(machine.Read(ElementType.BF16, scaled).AsSpan(alone * product.Outputs, product.Outputs), machine.Read(ElementType.BF16, scaledOfOne), "scaled of one");
    }

    [Fact]
    public void WhatTheyCantCompute_IsRefused()
    {
        using var machine = new KernelMachine();
        using DeviceBuffer memory = machine.Buffer<byte>(new byte[4096]);
        var product = new DenseProduct(ElementType.BF16, ElementType.BF16, ElementType.F32, Norm: FusedNorm.OfInput);
        var kernel = new DenseGemvKernel(machine.Cache, product, new GemvTiling(1, 4, 3, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(machine.Stream, memory.Pointer, default, memory.Pointer, default, memory.Pointer, 16, 16, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(machine.Stream, memory.Pointer, default, memory.Pointer, default, memory.Pointer, 16, 16, 1, new FusedNormArguments(FusedNorm.OfResult, memory.Pointer)));
        Assert.Throws<ArgumentOutOfRangeException>(() => (product with { Norm = FusedNorm.OfResult, Result = ElementType.BF16 }).Check());
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedProduct(new PackedFormat(4, 32, PackedOffset.None), ElementType.BF16, ElementType.BF16, Norm: FusedNorm.OfResult).Check());
    }

    /// <summary>Random weights of a form, x and biases.</summary>
    private sealed class Product : IDisposable
    {
        private readonly KernelMachine _machine;
        private readonly Form _form;
        private readonly PackedMatrix _matrix;
        private readonly DeviceBuffer _weights, _scales, _x, _bias;

        public Product(KernelMachine machine, Form form, int outputs, int inputs, int tokens)
        {
            (_machine, _form, Outputs, Inputs, Tokens) = (machine, form, outputs, inputs, tokens);
            Tiling = new GemvTiling(machine.Random.Next(1, 3), 4 << machine.Random.Next(2), form == Form.Packed || machine.Random.Next(2) == 0 ? 3 : 0, 1); // 0: no ring, as the engine has dense weights
            _matrix = new PackedMatrix(outputs, inputs, new PackedFormat(4, 128, PackedOffset.ZeroPoint));
            _weights = form == Form.Packed ? machine.Buffer<byte>(_matrix.Pack(new PackedWeights(_matrix, machine.Random))) : machine.Buffer(Stored, machine.Values(Stored, outputs * inputs));
            _scales = machine.Buffer(ElementType.F32, machine.Values(ElementType.F32, outputs));
            _x = machine.Buffer(ElementType.BF16, machine.Values(ElementType.BF16, tokens * inputs, 1 / Math.Sqrt(inputs)));
            Bias = machine.Values(ElementType.F32, outputs);
            _bias = machine.Buffer(ElementType.F32, Bias);
        }

        public int Outputs { get; }

        public int Inputs { get; }

        public int Tokens { get; }

        public float[] Bias { get; }

        public GemvTiling Tiling { get; }

        private ElementType Stored => _form == Form.BF16 ? ElementType.BF16 : ElementType.E4M3;

        /// <summary>y in F32. With sums before it adds to them; with biases where there are none.</summary>
        public float[] Run(bool gated, FusedNorm norm, FusedNormArguments arguments, float[]? before, bool biased = true, int? token = null)
        {
            int results = gated ? Outputs / 2 : Outputs, tokens = token is null ? Tokens : 1;
            bool bias = biased && before is null;
            GemvTiling tiling = gated ? Tiling with { RowTiles = 2 } : Tiling;
            using DeviceBuffer y = before is null ? _machine.Empty(ElementType.F32, tokens * results) : _machine.Buffer(ElementType.F32, before);
            DevicePointer x = _x.Pointer + ((token ?? 0) * Inputs * 2);
            if (_form == Form.Packed)
            {
                new PackedGemvKernel(_machine.Cache, new PackedProduct(_matrix.Format, ElementType.BF16, ElementType.F32, before is not null, bias, gated, norm), tiling)
                    .Launch(_machine.Stream, _matrix, _weights.Pointer, x, _bias.Pointer, y.Pointer, tokens, arguments);
            }
            else
            {
                MatmulScale scale = _form == Form.E4M3 ? MatmulScale.Row : MatmulScale.None;
                new DenseGemvKernel(_machine.Cache, new DenseProduct(Stored, ElementType.BF16, ElementType.F32, scale, before is not null, bias, gated, norm), tiling)
                    .Launch(_machine.Stream, _weights.Pointer, _scales.Pointer, x, _bias.Pointer, y.Pointer, Outputs, Inputs, tokens, arguments);
            }

            return _machine.Read(ElementType.F32, y);
        }

        public void Dispose()
        {
            foreach (DeviceBuffer buffer in (DeviceBuffer[])[_weights, _scales, _x, _bias])
                buffer.Dispose();
        }
    }
}
