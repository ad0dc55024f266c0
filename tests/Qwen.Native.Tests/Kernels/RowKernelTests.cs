using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Kernels that have a row of activations in a block, against plain loops.</summary>
public sealed class RowKernelTests
{
    // Vectors a thread: one that is not full, one, several, several and a part.
    private static readonly int[] _widths = [4, 20, 128, 132, 512, 516, 896, 2052];

    public static TheoryData<ElementType, MatmulScale> Tables => new()
    {
        { ElementType.F32, MatmulScale.None }, { ElementType.F16, MatmulScale.None }, { ElementType.BF16, MatmulScale.None },
        { ElementType.E4M3, MatmulScale.None }, { ElementType.E4M3, MatmulScale.Tensor }, { ElementType.E4M3, MatmulScale.Row },
    };

    public static TheoryData<int, ElementType, ElementType?> Norms
    {
        get
        {
            var data = new TheoryData<int, ElementType, ElementType?>();
            foreach (int device in (int[])[80, 90])
            {
                foreach (ElementType output in (ElementType[])[ElementType.F32, ElementType.F16, ElementType.BF16])
                {
                    foreach (ElementType? delta in (ElementType?[])[null, ElementType.F32, ElementType.F16, ElementType.BF16])
                        data.Add(device, output, delta);
                }
            }

            return data;
        }
    }

    public static TheoryData<int, ElementType, MatmulScale> Quantizations
    {
        get
        {
            var data = new TheoryData<int, ElementType, MatmulScale>();
            foreach (int device in (int[])[80, 89, 90])
            {
                foreach (ElementType from in (ElementType[])[ElementType.F32, ElementType.F16, ElementType.BF16])
                {
                    foreach (MatmulScale scale in (MatmulScale[])[MatmulScale.Tensor, MatmulScale.Row, MatmulScale.RowGroup128])
                        data.Add(device, from, scale);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Tables))]
    public void Embedding_CopiesTheRowsOfTheTokens(ElementType table, MatmulScale scale)
    {
        using var machine = new KernelMachine();
        foreach (int columns in _widths)
        {
            const int Vocabulary = 7;
            int[] tokens = [6, 0, 3, 3, 5, 1], ids = [6, 0, 3, 3, ~2, ~0], chosen = [~1, 4, 5]; // rows of the step before, one of which had no choice
            float[] rows = machine.Values(table, Vocabulary * columns), scales = machine.Values(ElementType.F32, Vocabulary);
            DeviceBuffer hidden = machine.Empty(ElementType.F32, tokens.Length * columns);

            new EmbeddingKernel(machine.Cache, table, columns, scale).Launch(
                machine.Stream, machine.Buffer<int>(ids).Pointer, machine.Buffer(table, rows).Pointer, hidden.Pointer, tokens.Length, machine.Buffer(ElementType.F32, scales).Pointer, machine.Buffer<int>(chosen).Pointer);

            float[] expected = [.. tokens.SelectMany(token => rows.AsSpan(token * columns, columns).ToArray().Select(value =>
                scale switch { MatmulScale.Row => value * scales[token], MatmulScale.Tensor => value * scales[0], _ => value }))];
            machine.AssertEqual<float>(expected, machine.Read<float>(hidden), $"hidden, {columns} columns");
        }
    }

    [Theory]
    [MemberData(nameof(Norms))]
    public void RmsNorm_AddsAndNorms(int device, ElementType output, ElementType? delta)
    {
        using var machine = new KernelMachine(device);
        const float Epsilon = 1e-6f;
        foreach (int columns in _widths)
        {
            const int Rows = 3;
            float[] x = machine.Values(ElementType.F32, Rows * columns, 3), weight = machine.Values(ElementType.F32, columns), added = machine.Values(delta ?? ElementType.F32, Rows * columns);
            x.AsSpan(columns, columns).Clear(); // without a delta, a row of zeros
            DeviceBuffer weights = machine.Buffer<float>(weight), xs = machine.Buffer<float>(x), y = machine.Empty(output, Rows * columns); // weights are loaded before the launch before is over

            new RmsNormKernel(machine.Cache, output, columns, delta).Launch(
                machine.Stream, xs.Pointer, weights.Pointer, Epsilon, y.Pointer, Rows, delta is { } type ? machine.Buffer(type, added).Pointer : default);

            if (delta is not null)
                x = [.. x.Zip(added, (a, b) => a + b)];
            machine.AssertEqual<float>(x, machine.Read<float>(xs), "x");
            machine.AssertClose(Normed(x, weight, Epsilon), machine.Read(output, y), TypedValues.Tolerance(output), what: $"y, {columns} columns");
        }
    }

    [Theory]
    [InlineData(80, MatmulScale.Row)]
    [InlineData(90, MatmulScale.Row)]
    [InlineData(80, MatmulScale.RowGroup128)]
    [InlineData(90, MatmulScale.RowGroup128)]
    public void RmsNorm_Quantizes(int device, MatmulScale scale)
    {
        using var machine = new KernelMachine(device);
        foreach (int columns in _widths)
        {
            const int Rows = 3;
            float[] x = machine.Values(ElementType.F32, Rows * columns, 3), weight = machine.Values(ElementType.F32, columns);
            x.AsSpan(columns, columns).Clear();
            int groups = scale == MatmulScale.Row ? 1 : (columns + 127) / 128, stride = scale == MatmulScale.Row ? Rows : 4;
            DeviceBuffer weights = machine.Buffer<float>(weight), codes = machine.Empty(ElementType.E4M3, Rows * columns), scales = machine.Buffer<float>(new float[groups * stride]);

            new RmsNormKernel(machine.Cache, ElementType.E4M3, columns, null, scale).Launch(
                machine.Stream, machine.Buffer<float>(x).Pointer, weights.Pointer, 1e-6f, codes.Pointer, Rows, scales: scales.Pointer);

            // What codes and scales mean is the norm to half a step: 1/16 of a code, or half the least step under a code's normal range.
            float[] y = Normed(x, weight, 1e-6f), read = machine.Read(ElementType.E4M3, codes), factors = machine.Read<float>(scales);
            for (int i = 0; i < y.Length; i++)
            {
                int row = i / columns, column = i % columns, group = scale == MatmulScale.Row ? 0 : column / 128;
                int width = scale == MatmulScale.Row ? columns : Math.Min(128, columns - (group * 128));
                float largest = y.AsSpan((row * columns) + (group * 128), width).ToArray().Max(Math.Abs), factor = factors[(group * stride) + row];
                Assert.True(Math.Abs(factor - (largest / 448)) <= largest / 448 * 1e-5f, $"seed {machine.Seed}: scale {factor}, not {largest / 448}");
                float error = Math.Abs((read[i] * factor) - y[i]);
                Assert.True(error <= Math.Max(Math.Abs(y[i]) / 16, factor / 1024) * 1.001f, $"seed {machine.Seed}: {read[i]} * {factor} is not {y[i]}, {columns} columns");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Quantizations))]
    public void Quantize_GivesTheNearestCodes(int device, ElementType from, MatmulScale scale)
    {
        using var machine = new KernelMachine(device);
        foreach (int columns in _widths)
        {
            const int Rows = 5;
            float[] x = machine.Values(from, Rows * columns, 10);
            x.AsSpan(columns, columns).Clear();
            x[0] = 1e30f;
            x[0] = TypedValues.Round(from, x[0]);
            int groups = scale == MatmulScale.RowGroup128 ? (columns + 127) / 128 : 1, stride = scale == MatmulScale.RowGroup128 ? 8 : Rows;
            DeviceBuffer input = machine.Buffer(from, x), codes = machine.Empty(ElementType.E4M3, Rows * columns), scales = machine.Buffer<float>(new float[groups * stride]);
            if (scale == MatmulScale.Tensor)
                new TensorScaleKernel(machine.Cache, from, columns).Launch(machine.Stream, input.Pointer, scales.Pointer, Rows);

            new QuantizeKernel(machine.Cache, from, columns, scale).Launch(machine.Stream, input.Pointer, codes.Pointer, scales.Pointer, Rows);

            var expectedScales = new float[groups * stride];
            var expected = new byte[x.Length];
            for (int row = 0; row < Rows; row++)
            {
                for (int group = 0; group < groups; group++)
                {
                    int start = row * columns, end = start + columns;
                    if (scale == MatmulScale.RowGroup128)
                        (start, end) = (start + (group * 128), Math.Min(start + (group * 128) + 128, end));
                    float largest = (scale == MatmulScale.Tensor ? x : x[start..end]).Max(Math.Abs), factor = largest / 448;
                    expectedScales[scale == MatmulScale.Tensor ? 0 : (group * stride) + row] = factor;
                    float inverse = scale == MatmulScale.Tensor ? 1 / factor : largest == 0 ? 0 : 448 / largest;
                    for (int i = start; i < end; i++)
                        expected[i] = (byte)TypedValues.Encode(ElementType.E4M3, x[i] * inverse);
                }
            }

            machine.AssertEqual<float>(expectedScales, machine.Read<float>(scales), "scales");
            machine.AssertEqual<byte>(expected, machine.Read<byte>(codes), $"codes, {columns} columns");
        }
    }

    [Fact]
    public void Quantize_LeavesNaNVisible()
    {
        using var machine = new KernelMachine();
        float[] x = machine.Values(ElementType.F32, 256);
        x[17] = float.NaN;
        x[200] = float.PositiveInfinity;
        DeviceBuffer codes = machine.Empty(ElementType.E4M3, 256), scales = machine.Buffer<float>(new float[8]);

        new QuantizeKernel(machine.Cache, ElementType.F32, 256, MatmulScale.RowGroup128).Launch(machine.Stream, machine.Buffer<float>(x).Pointer, codes.Pointer, scales.Pointer, 1);

        float[] read = machine.Read(ElementType.E4M3, codes);
        Assert.True(float.IsNaN(read[17]) && !float.IsNaN(read[16]) && float.IsNaN(read[200]));
        Assert.True(float.IsPositiveInfinity(machine.Read<float>(scales)[4]));
    }

    [Theory]
    [InlineData(ElementType.BF16)]
    [InlineData(ElementType.F16)]
    public void SwiGlu_GatesTheUpProjection(ElementType type)
    {
        using var machine = new KernelMachine();
        foreach (int columns in _widths)
        {
            const int Tokens = 3;
            float[] x = machine.Values(type, Tokens * 2 * columns, 4);
            x[0] = -100; // e^100 overflows; the result does not
            DeviceBuffer y = machine.Empty(type, Tokens * columns);

            new SwiGluKernel(machine.Cache, type).Launch(machine.Stream, machine.Buffer(type, x).Pointer, y.Pointer, Tokens, columns);

            machine.AssertClose(Gated(x, Tokens, columns), machine.Read(type, y), TypedValues.Tolerance(type), what: $"y, {columns} columns");
        }
    }

    [Theory]
    [InlineData(ElementType.BF16, MatmulScale.Row)]
    [InlineData(ElementType.F16, MatmulScale.Row)]
    [InlineData(ElementType.BF16, MatmulScale.RowGroup128)]
    [InlineData(ElementType.F16, MatmulScale.RowGroup128)]
    public void SwiGlu_Quantizes(ElementType type, MatmulScale scale)
    {
        using var machine = new KernelMachine();
        foreach (int columns in _widths)
        {
            const int Tokens = 3;
            float[] x = machine.Values(type, Tokens * 2 * columns, 4);
            int groups = scale == MatmulScale.Row ? 1 : (columns + 127) / 128, stride = scale == MatmulScale.Row ? Tokens : 4;
            DeviceBuffer codes = machine.Empty(ElementType.E4M3, Tokens * columns), scales = machine.Buffer<float>(new float[groups * stride]);

            new SwiGluQuantizeKernel(machine.Cache, type, columns, scale).Launch(machine.Stream, machine.Buffer(type, x).Pointer, codes.Pointer, scales.Pointer, Tokens);

            float[] y = Gated(x, Tokens, columns), read = machine.Read(ElementType.E4M3, codes), factors = machine.Read<float>(scales);
            for (int i = 0; i < y.Length; i++)
            {
                float factor = factors[(scale == MatmulScale.Row ? 0 : i % columns / 128 * stride) + (i / columns)];
                Assert.True(Math.Abs((read[i] * factor) - y[i]) <= Math.Max(Math.Abs(y[i]) / 16, factor / 1024) * 1.001f, $"seed {machine.Seed}: {read[i]} * {factor} is not {y[i]}, {columns} columns");
            }

            Assert.Equal(Tokens * groups, read.Select((value, i) => (value, i)).Where(c => Math.Abs(c.value) == 448).Select(c => (c.i / columns, scale == MatmulScale.Row ? 0 : c.i % columns / 128)).Distinct().Count());
        }
    }

    [Fact]
    public void WidthsThatAreNoVectors_AreRefused()
    {
        var target = new PtxTarget(90, 84);
        Assert.Throws<ArgumentOutOfRangeException>(() => RmsNormKernel.Build(target, ElementType.F16, 6));
        Assert.Throws<ArgumentOutOfRangeException>(() => EmbeddingKernel.Build(target, ElementType.F16, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => QuantizeKernel.Build(target, ElementType.F16, 8, MatmulScale.Block128));
        Assert.Throws<ArgumentOutOfRangeException>(() => RmsNormKernel.Build(target, ElementType.F16, 8, null, MatmulScale.Row));
        Assert.Throws<ArgumentOutOfRangeException>(() => RmsNormKernel.Build(target, ElementType.E4M3, 8));
    }

    private static float[] Normed(float[] x, float[] weight, float epsilon)
    {
        var y = new float[x.Length];
        for (int start = 0; start < x.Length; start += weight.Length)
        {
            double squares = x.AsSpan(start, weight.Length).ToArray().Sum(value => (double)value * value);
            for (int i = 0; i < weight.Length; i++)
                y[start + i] = (float)(x[start + i] / Math.Sqrt((squares / weight.Length) + epsilon) * weight[i]);
        }

        return y;
    }

    private static float[] Gated(float[] x, int tokens, int columns)
    {
        var y = new float[tokens * columns];
        for (int i = 0; i < y.Length; i++)
        {
            int at = (i / columns * 2 * columns) + (i % columns);
            y[i] = (float)(x[at] / (1 + Math.Exp(-x[at])) * x[at + columns]);
        }

        return y;
    }
}
