using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Kernels;

/// <summary>The kernels that multiply by packed weights, on the emulated device, against plain sums.</summary>
public sealed class PackedProductTests
{
    public static TheoryData<int, int, PackedOffset> Formats => PackedMatrixTests.Formats;

    [Theory]
    [MemberData(nameof(Formats))]
    public void Gemv_IsTheProduct(int bits, int groupSize, PackedOffset offset)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var format = new PackedFormat(bits, groupSize, offset);
        int sm = random.Next(2) == 0 ? 80 : 90;
        using var device = new EmulatedDevice(EmulatedDevice.Describe(sm) with { Multiprocessors = random.Next(1, 4) }); // few, so that blocks have several rows in turn
        using var cache = new KernelCache(device);
        foreach (PackedProduct product in (PackedProduct[])[.. PackedWeights.Products(format), .. PackedWeights.GatedProducts(format)])
        {
            var tiling = new GemvTiling(product.Gated ? 2 : random.Next(1, 3), 4 << random.Next(bits == 4 ? 3 : 2), 2, random.Next(1, 3), random.Next(1, 4), random.Next(1, 4));
            tiling = tiling with { Slots = random.Next(2, Math.Max(3, Math.Min(6, 100_000 / tiling.Warps / PackedGemvKernel.UnitBytes(format) / tiling.RowTiles))) };
            int rows = random.Next(1, PackedGemvKernel.MostRows + 1), unit = groupSize == PackedFormat.WholeRow ? format.TileInputs : groupSize;
            int inputs = unit * random.Next(1, Math.Max(2, (random.Next(4) == 0 ? 7000 : 700) / unit)); // now and then more than the ring holds
            var matrix = new PackedMatrix(product.Gated ? 32 * random.Next(1, 4) : random.Next(1, 100), inputs, format);
            var kernel = new PackedGemvKernel(cache, product, tiling);
            Check(device, product, matrix, rows, random, $"seed {seed}, sm_{sm}, {tiling}", (on, m, w, x, bias, y, count) => kernel.Launch(on, m, w, x, bias, y, count));
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void GemvsOwnTiling_FitsEveryDevice(int bits, int groupSize, PackedOffset offset)
    {
        var format = new PackedFormat(bits, groupSize, offset);
        foreach (int sm in (int[])[80, 86, 89, 90])
        {
            using var device = new EmulatedDevice(sm);
            using var cache = new KernelCache(device);
            foreach (PackedProduct product in PackedWeights.GatedProducts(format))
            {
                foreach (int outputs in (int[])[896, 37888])
                {
                    foreach (bool gated in (bool[])[false, true])
                        Assert.NotNull(new PackedGemvKernel(cache, product with { Gated = gated }, new PackedMatrix(outputs, 3584, format)).Function);
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Gemm_IsTheProduct(int bits, int groupSize, PackedOffset offset)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var format = new PackedFormat(bits, groupSize, offset);
        int sm = random.Next(2) == 0 ? 80 : 90;
        using var device = new EmulatedDevice(sm);
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        using DeviceBuffer workspace = device.Allocate(8 << 20);
        stream.Fill(workspace.Pointer, 0, workspace.ByteCount);
        foreach (PackedProduct product in (PackedProduct[])[.. PackedWeights.Products(format), .. PackedWeights.GatedProducts(format)])
        {
            int unit = groupSize == PackedFormat.WholeRow ? format.TileInputs : groupSize;
            int inputs = unit * random.Next(1, Math.Max(2, 900 / unit)), rows = random.Next(1, 70);
            if (random.Next(4) == 0)
                (inputs, rows) = (unit * random.Next(1, Math.Max(2, 200 / unit)), random.Next(64, 131));
            var matrix = new PackedMatrix(product.Gated ? 32 * random.Next(1, 9) : random.Next(1, random.Next(3) == 0 ? 300 : 70), inputs, format);
            GemmTiling[] tilings = GemmTilings(cache.Target, format);
            GemmTiling tiling = tilings[random.Next(tilings.Length)];
            var kernel = new PackedGemmKernel(cache, product, tiling);
            Assert.InRange(kernel.WorkspaceBytes(matrix, rows), 0, workspace.ByteCount);
            Check(
                device, product, matrix, rows, random, $"seed {seed}, sm_{sm}, {tiling}",
                (on, m, w, x, bias, y, count) => kernel.Launch(on, m, w, x, bias, y, count, workspace.Pointer));
        }
    }

    private static GemmTiling[] GemmTilings(PtxTarget target, PackedFormat format) =>
        [.. from rows in (int[])[16, 32, 64, 128] from outputs in (int[])[1, 1 << 20] select GemmTiling.For(target, outputs, rows, 132, PackedGemmKernel.MostRows(format))];

    [Fact]
    public void Gemv_GivesARowTheSameBits_AloneAndAmongOthers()
    {
        var product = new PackedProduct(new PackedFormat(4, 128, PackedOffset.ZeroPoint), ElementType.BF16, ElementType.F32);
        var matrix = new PackedMatrix(48, 1280, product.Format);
        var random = new Random(5);
        byte[] packed = matrix.Pack(new PackedWeights(matrix, random));
        float[] x = Values(8 * matrix.Inputs, product.Activations, random);
        using var device = new EmulatedDevice();
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        using DeviceBuffer weights = Upload(device, stream, packed), xs = Upload(device, stream, Bytes(x, product.Activations));
        var kernel = new PackedGemvKernel(cache, product, matrix);

        byte[] Rows(int first, int rows)
        {
            using DeviceBuffer y = device.Allocate(rows * matrix.Outputs * sizeof(float));
            kernel.Launch(stream, matrix, weights.Pointer, xs.Pointer + (first * matrix.Inputs * 2), default, y.Pointer, rows);
            return Download(stream, y);
        }

        byte[] all = Rows(0, 8);
        for (int row = 0; row < 8; row++)
            Assert.Equal(all.AsSpan(row * matrix.Outputs * sizeof(float), matrix.Outputs * sizeof(float)).ToArray(), Rows(row, 1));
    }

    [Fact]
    public void WrongArguments_AreRefused()
    {
        using var device = new EmulatedDevice();
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        var format = new PackedFormat(4, 128, PackedOffset.None);
        var product = new PackedProduct(format, ElementType.BF16, ElementType.BF16);
        var tiling = new GemvTiling(1, 4, 4, 1);
        var kernel = new PackedGemvKernel(cache, product, tiling);
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(stream, new PackedMatrix(16, 128, format), default, default, default, default, 9));
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(stream, new PackedMatrix(16, 128, format), default, default, default, default, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(stream, new PackedMatrix(16, 128, format with { GroupSize = 64 }), default, default, default, default, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedGemvKernel(cache, product with { Activations = ElementType.F32 }, tiling));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedGemvKernel(cache, product with { Accumulate = true }, tiling));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedGemvKernel(cache, product with { Gated = true }, tiling)); // gate and up are two tiles
        var gatedGemm = new PackedGemmKernel(cache, product with { Gated = true }, new GemmTiling(8, 16));
        Assert.Throws<ArgumentOutOfRangeException>(() => gatedGemm.Launch(stream, new PackedMatrix(48, 128, format), default, default, default, default, 9, default));
        var gated = new PackedGemvKernel(cache, product with { Gated = true }, tiling with { RowTiles = 2 });
        Assert.Throws<ArgumentOutOfRangeException>(() => gated.Launch(stream, new PackedMatrix(48, 128, format), default, default, default, default, 1));
    }

    private delegate void LaunchProduct(IDeviceStream stream, PackedMatrix matrix, DevicePointer weights, DevicePointer x, DevicePointer bias, DevicePointer y, int rows);

    /// <summary>
    /// Runs a product and compares it with plain sums. A sum of n terms in F32 is off by at most n 2^-24 times the sum of their sizes (the tensor
    /// cores truncate: twice that). Sizes include the biases of codes, which makes that bound wide, so the norm of all errors is bounded as
    /// well: with F16, whose codes have a bias of 1024 where they are about 4, roundings of random signs give a few times 2^-24 * 1024 / 4. A 16-bit result is rounded once more.
    /// </summary>
    private static void Check(EmulatedDevice device, PackedProduct product, PackedMatrix matrix, int rows, Random random, string what, LaunchProduct launch)
    {
        what = $"{what}, {product}, [{matrix.Outputs}, {matrix.Inputs}], {rows} rows";
        int results = product.Gated ? matrix.Outputs / 2 : matrix.Outputs;
        var weights = new PackedWeights(matrix, random);
        float[] x = Values(rows * matrix.Inputs, product.Activations, random), y = Values(rows * results, ElementType.F32, random), bias = Values(matrix.Outputs, ElementType.F32, random);
        byte[] result;
        using (IDeviceStream stream = device.CreateStream())
        using (DeviceBuffer w = Upload(device, stream, matrix.Pack(weights)), xs = Upload(device, stream, Bytes(x, product.Activations)), bs = Upload(device, stream, Bytes(bias, ElementType.F32)))
        using (DeviceBuffer ys = product.Accumulate ? Upload(device, stream, Bytes(y, ElementType.F32)) : device.Allocate(rows * results * product.Result.Bytes()))
        {
            launch(stream, matrix, w.Pointer, xs.Pointer, bs.Pointer, ys.Pointer, rows);
            stream.Synchronize();
            result = Download(stream, ys);
        }

        float rounding = product.Result switch { ElementType.F16 => MathF.ScaleB(1, -11), ElementType.BF16 => MathF.ScaleB(1, -8), _ => MathF.ScaleB(1, -24) };
        (double[] values, double[] magnitudes) = weights.Weights();
        double errors = 0, sizes = 0;
        for (int row = 0; row < rows; row++)
        {
            for (int output = 0; output < results; output++)
            {
                (double value, double size) = Sum(row, output);
                if (product.Gated)
                {
                    (double up, double upSize) = Sum(row, output + results);
                    double gate = value / (1 + Math.Exp(-value));
                    (value, size) = (gate * up, (size * 1.1 * Math.Abs(up)) + (upSize * Math.Abs(gate))); // SiLU's slope is at most 1.1
                }

                value += product.Accumulate ? y[(row * results) + output] : 0;
                double error = Math.Abs(Value(result, (row * results) + output, product.Result) - value);
                Assert.True(
                    error <= (matrix.Inputs + 16) * Math.ScaleB(size + 2, -23) + (Math.Abs(value) * rounding * 2),
                    $"{what}: y[{row}, {output}] is {Value(result, (row * results) + output, product.Result)}, not {value}");
                errors += error * error;
                sizes += (value * value) + 1; // values are of the order of 1
            }
        }

        Assert.True(Math.Sqrt(errors) <= Math.Sqrt(sizes) * (rounding + Math.ScaleB(1, -13)), $"{what}: off by {Math.Sqrt(errors / sizes)}");

        (double Value, double Size) Sum(int row, int output)
        {
            (double value, double size) = (product.Bias ? bias[output] : 0, 0);
            for (int i = 0; i < matrix.Inputs; i++)
            {
                value += values[(output * matrix.Inputs) + i] * x[(row * matrix.Inputs) + i];
                size += magnitudes[(output * matrix.Inputs) + i] * Math.Abs(x[(row * matrix.Inputs) + i]);
            }

            return (value, size);
        }
    }

    private static float[] Values(int count, ElementType type, Random random)
    {
        var values = new float[count];
        for (int i = 0; i < count; i++)
        {
            float value = (random.NextSingle() * 2) - 1;
            values[i] = type switch
            {
                ElementType.F16 => (float)(Half)value,
                ElementType.BF16 => BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(value) & 0xffff0000),
                _ => value,
            };
        }

        return values;
    }

    private static byte[] Bytes(float[] values, ElementType type) => type switch
    {
        ElementType.F32 => [.. values.SelectMany(BitConverter.GetBytes)],
        ElementType.F16 => [.. values.SelectMany(v => BitConverter.GetBytes((Half)v))],
        _ => [.. values.SelectMany(v => BitConverter.GetBytes((ushort)(BitConverter.SingleToUInt32Bits(v) >> 16)))],
    };

    private static float Value(byte[] bytes, int i, ElementType type) => type switch
    {
        ElementType.F32 => BitConverter.ToSingle(bytes, i * 4),
        ElementType.F16 => (float)BitConverter.ToHalf(bytes, i * 2),
        _ => BitConverter.UInt32BitsToSingle((uint)BitConverter.ToUInt16(bytes, i * 2) << 16),
    };

    private static unsafe DeviceBuffer Upload(EmulatedDevice device, IDeviceStream stream, byte[] bytes)
    {
        DeviceBuffer buffer = device.Allocate(bytes.Length);
        fixed (byte* from = bytes)
            stream.CopyToDevice(buffer.Pointer, from, bytes.Length);
        return buffer;
    }

    private static unsafe byte[] Download(IDeviceStream stream, DeviceBuffer buffer)
    {
        var bytes = new byte[buffer.ByteCount];
        fixed (byte* to = bytes)
            stream.CopyToHost(to, buffer.Pointer, bytes.Length);
        stream.Synchronize();
        return bytes;
    }
}
