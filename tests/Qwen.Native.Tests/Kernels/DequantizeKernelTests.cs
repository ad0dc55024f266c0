using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Formats;

namespace Qwen.Native.Tests.Kernels;

public sealed unsafe class DequantizeKernelTests
{
    public static TheoryData<BlockFormat> Formats => [.. Enum.GetValues<BlockFormat>()];

    [Theory]
    [MemberData(nameof(Formats))]
    public void BlocksInF32_AreTheReferencesBitForBit(BlockFormat format)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        using var device = new EmulatedDevice(random.Next(2) == 0 ? 80 : 90);
        using var cache = new KernelCache(device);
        int rows = random.Next(1, 9), columns = format.Elements() * random.Next(1, 9);
        byte[] blocks = Blocks(format, rows * columns / format.Elements(), random);
        float[] expected = Reference(format, blocks);

        float[] values = Run(device, ElementType.F32, rows * columns, blocks, [], (stream, at, _, y) =>
            new DequantizeKernel(cache, format, ElementType.F32, gather: false).Launch(stream, at, default, y, rows, columns, rows));

        for (int i = 0; i < values.Length; i++)
            Assert.True(Same(values[i], expected[i]), $"seed {seed}, {format} [{rows}, {columns}], value {i}: {values[i]:R} instead of {expected[i]:R}");
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void GatheredRows_AreRoundedOnce(BlockFormat format)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        using var device = new EmulatedDevice();
        using var cache = new KernelCache(device);
        int tableRows = random.Next(1, 20), columns = format.Elements() * random.Next(1, 3);
        byte[] blocks = Blocks(format, tableRows * columns / format.Elements(), random);
        float[] table = Reference(format, blocks);
        int[] rows = [.. Enumerable.Range(0, random.Next(1, 10)).Select(_ => random.Next(tableRows))];
        foreach (ElementType type in (ElementType[])[ElementType.F16, ElementType.BF16])
        {
            float[] values = Run(device, type, rows.Length * columns, blocks, rows, (stream, at, list, y) =>
                new DequantizeKernel(cache, format, type, gather: true).Launch(stream, at, list, y, rows.Length, columns, tableRows));

            for (int i = 0; i < values.Length; i++)
            {
                float exact = table[(rows[i / columns] * columns) + (i % columns)];
                float expected = type == ElementType.F16 ? (float)(Half)Math.Clamp(exact, -65504, 65504) : Round(exact);
                Assert.True(values[i] == expected, $"seed {seed}, {format}, {type}, value {i}: {values[i]:R} instead of {expected:R}");
            }
        }
    }

    [Fact]
    public void AListThatPointsPastTheTable_ReadsItsLastRow()
    {
        using var device = new EmulatedDevice();
        using var cache = new KernelCache(device);
        byte[] blocks = Blocks(BlockFormat.Q8_0, 3, new Random(1));
        float[] table = Reference(BlockFormat.Q8_0, blocks);

        float[] values = Run(device, ElementType.F32, 64, blocks, [-1, 3], (stream, at, list, y) =>
            new DequantizeKernel(cache, BlockFormat.Q8_0, ElementType.F32, gather: true).Launch(stream, at, list, y, 2, 32, 3));

        Assert.Equal([.. table[64..], .. table[64..]], values);
    }

    [Theory]
    [InlineData(0, 0)] // one scale
    [InlineData(1, 0)] // a scale a row
    [InlineData(128, 128)]
    [InlineData(3, 8)]
    public void Float8_IsCodeTimesScale(int blockRows, int blockColumns)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        foreach (int sm in (int[])[80, 90])
        {
            using var device = new EmulatedDevice(sm);
            using var cache = new KernelCache(device);
            int rows = random.Next(1, 200), columns = 8 * random.Next(1, 40);
            (int tall, int wide) = (blockRows == 0 ? rows : blockRows, blockColumns == 0 ? columns : blockColumns);
            int across = (columns + wide - 1) / wide;
            byte[] codes = new byte[rows * columns];
            for (int i = 0; i < codes.Length; i++)
                codes[i] = (byte)(random.Next(2) << 7 | random.Next(127)); // no NaN
            float[] scales = [.. Enumerable.Range(0, (rows + tall - 1) / tall * across).Select(_ => random.NextSingle())];
            int[] list = [.. Enumerable.Range(0, 5).Select(_ => random.Next(rows))];
            using IDeviceStream stream = device.CreateStream();
            using DeviceBuffer scalesAt = device.Allocate(scales.Length * sizeof(float));
            fixed (float* from = scales)
                stream.CopyToDevice(scalesAt.Pointer, from, scales.Length * sizeof(float));

            foreach (bool gather in (bool[])[false, true])
            {
                int count = gather ? list.Length : rows;
                float[] values = Run(device, ElementType.F32, count * columns, codes, list, (on, at, rowsAt, y) =>
                    new DequantizeFloat8Kernel(cache, ElementType.F32, gather).Launch(on, at, scalesAt.Pointer, rowsAt, y, count, columns, rows, tall, wide));

                for (int i = 0; i < values.Length; i++)
                {
                    (int row, int column) = (gather ? list[i / columns] : i / columns, i % columns);
                    float expected = E4M3(codes[(row * columns) + column]) * scales[(row / tall * across) + (column / wide)];
                    Assert.True(values[i] == expected, $"seed {seed}, sm_{sm}, [{row}, {column}]: {values[i]:R} instead of {expected:R}");
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(PackedMatrixTests.Formats), MemberType = typeof(PackedMatrixTests))]
    public void PackedWeights_AreRoundedOnce(int bits, int groupSize, PackedOffset offset)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var format = new PackedFormat(bits, groupSize, offset);
        using var device = new EmulatedDevice();
        using var cache = new KernelCache(device);
        var matrix = new PackedMatrix(random.Next(1, 150), Math.Max(groupSize, format.TileInputs) * random.Next(1, 4), format);
        byte[] packed = matrix.Pack(new PackedWeights(matrix, random));
        var expected = new float[matrix.Outputs * matrix.Inputs];
        matrix.Unpack(packed, expected);
        foreach (ElementType type in (ElementType[])[ElementType.F32, ElementType.F16, ElementType.BF16])
        {
            float[] values = Run(device, type, expected.Length, packed, [], (stream, at, _, y) => new UnpackKernel(cache, format, type).Launch(stream, matrix, at, y));
            for (int i = 0; i < values.Length; i++)
            {
                float rounded = type switch { ElementType.F16 => (float)(Half)expected[i], ElementType.BF16 => Round(expected[i]), _ => expected[i] };
                Assert.True(values[i] == rounded, $"seed {seed}, {format}, {type}, [{i / matrix.Inputs}, {i % matrix.Inputs}]: {values[i]:R} instead of {rounded:R}");
            }
        }
    }

    [Fact]
    public void WrongExtents_AreRefused()
    {
        using var device = new EmulatedDevice();
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        var kernel = new DequantizeKernel(cache, BlockFormat.Q4_K, ElementType.F32, gather: false);
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(stream, default, default, default, 1, 128, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => kernel.Launch(stream, default, default, default, 2, 256, 1));
        var float8 = new DequantizeFloat8Kernel(cache, ElementType.F32, gather: false);
        Assert.Throws<ArgumentOutOfRangeException>(() => float8.Launch(stream, default, default, default, default, 1, 12, 1, 1, 12));
        Assert.Throws<ArgumentOutOfRangeException>(() => float8.Launch(stream, default, default, default, default, 1, 24, 1, 1, 12));
    }

    // Random bits, but for the scales, which shall be finite: halves below 2 at the places where a format keeps them.
    private static byte[] Blocks(BlockFormat format, int count, Random random)
    {
        var blocks = new byte[count * format.Bytes()];
        random.NextBytes(blocks);
        int[] halves = format switch
        {
            BlockFormat.Q4_1 or BlockFormat.Q5_1 or BlockFormat.Q4_K or BlockFormat.Q5_K => [0, 2],
            BlockFormat.Q2_K => [80, 82],
            BlockFormat.Q3_K => [108],
            BlockFormat.Q6_K => [208],
            BlockFormat.Q8_K => [2], // the upper half of a float
            _ => [0],
        };
        for (int block = 0; block < count; block++)
        {
            foreach (int at in halves)
                blocks[(block * format.Bytes()) + at + 1] &= 0xbf; // the top bit of the exponent
        }

        return blocks;
    }

    private static float[] Reference(BlockFormat format, byte[] blocks)
    {
        TensorType type = Enum.Parse<TensorType>(format.ToString());
        var values = new float[blocks.Length / format.Bytes() * format.Elements()];
        Dequantizer.Dequantize(type, blocks, values);
        return values;
    }

    private static float[] Run(EmulatedDevice device, ElementType type, int count, byte[] matrix, int[] list, Action<IDeviceStream, DevicePointer, DevicePointer, DevicePointer> launch)
    {
        using IDeviceStream stream = device.CreateStream();
        using DeviceBuffer at = device.Allocate(matrix.Length), rows = device.Allocate(Math.Max(1, list.Length) * sizeof(int)), y = device.Allocate(count * type.Bytes());
        fixed (byte* from = matrix)
            stream.CopyToDevice(at.Pointer, from, matrix.Length);
        fixed (int* from = list)
            stream.CopyToDevice(rows.Pointer, from, list.Length * sizeof(int));
        launch(stream, at.Pointer, rows.Pointer, y.Pointer);
        var bytes = new byte[y.ByteCount];
        fixed (byte* to = bytes)
            stream.CopyToHost(to, y.Pointer, bytes.Length);
        stream.Synchronize();
        return
        [
            .. Enumerable.Range(0, count).Select(i => type switch
            {
                ElementType.F32 => BitConverter.ToSingle(bytes, i * 4),
                ElementType.F16 => (float)BitConverter.ToHalf(bytes, i * 2),
                _ => BitConverter.UInt32BitsToSingle((uint)BitConverter.ToUInt16(bytes, i * 2) << 16),
            }),
        ];
    }

    private static float Round(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return BitConverter.UInt32BitsToSingle((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
    }

    private static bool Same(float a, float b) => BitConverter.SingleToInt32Bits(a) == BitConverter.SingleToInt32Bits(b);

    private static float E4M3(byte code)
    {
        int exponent = (code >> 3) & 15, mantissa = code & 7;
        float size = exponent == 0 ? MathF.ScaleB(mantissa, -9) : MathF.ScaleB(8 + mantissa, exponent - 10);
        return code < 128 ? size : -size;
    }
}
