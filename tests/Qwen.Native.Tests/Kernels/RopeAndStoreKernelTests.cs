using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Kernels;

public sealed class RopeAndStoreKernelTests
{
    private const int Blocks = 4, Positions = 50;
    private const float Epsilon = 1e-6f;

    public static TheoryData<ElementType, ElementType, int> Types
    {
        get
        {
            var data = new TheoryData<ElementType, ElementType, int>();
            foreach (ElementType type in (ElementType[])[ElementType.F16, ElementType.BF16])
            {
                foreach (ElementType stored in (ElementType[])[ElementType.F32, ElementType.F16, ElementType.BF16, ElementType.E4M3, ElementType.E5M2, ElementType.S8])
                {
                    foreach (int device in (int[])[80, 90])
                        data.Add(type, stored, device);
                }
            }

            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Types))]
    public void QueriesTurn_KeysAndValuesGoToTheirSlots(ElementType type, ElementType stored, int device)
    {
        using var machine = new KernelMachine(device);
        foreach ((int heads, int kvHeads, int headDim, int blockSize) in ((int, int, int, int)[])[(1, 1, 16, 16), (3, 1, 96, 16), (14, 2, 64, 32), (7, 1, 128, 16), (2, 2, 256, 16)])
        {
            Run(machine, new RopeAndStoreShape(type, stored, heads, kvHeads, headDim, blockSize));
            Run(machine, new RopeAndStoreShape(type, stored, heads, kvHeads, headDim, blockSize, HasQkNorm: true));
            Run(machine, new RopeAndStoreShape(type, stored, heads, kvHeads, headDim, blockSize, HasKeyBias: true));
        }
    }

    [Fact]
    public void ShapesItCannotHave_AreRefused()
    {
        var target = new PtxTarget(90, 84);
        var shape = new RopeAndStoreShape(ElementType.BF16, ElementType.BF16, 4, 2, 64, 16);
        Assert.Throws<ArgumentOutOfRangeException>(() => RopeAndStoreKernel.Build(target, shape with { HeadDim = 72 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => RopeAndStoreKernel.Build(target, shape with { HeadDim = 272 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => RopeAndStoreKernel.Build(target, shape with { BlockSize = 24 }));
        Assert.Throws<ArgumentException>(() => RopeAndStoreKernel.Build(target, shape with { HasQkNorm = true, HasKeyBias = true }));
    }

    [Fact]
    public void AKeyThatIsNotFinite_GetsAScaleThatIsNot()
    {
        using var machine = new KernelMachine();
        var shape = new RopeAndStoreShape(ElementType.BF16, ElementType.S8, 1, 1, 16, 16);
        float[] qkv = machine.Values(ElementType.BF16, 48);
        qkv[20] = float.NaN;
        DeviceBuffer scales = machine.Buffer<float>(new float[16]), valueScales = machine.Buffer<float>(new float[16]);
        var layer = new KvLayerPointers(machine.Empty(ElementType.S8, 256).Pointer, machine.Empty(ElementType.S8, 256).Pointer, scales.Pointer, valueScales.Pointer);

        new RopeAndStoreKernel(machine.Cache, shape).Launch(
            machine.Stream, machine.Buffer(ElementType.BF16, qkv).Pointer, machine.Buffer(0).Pointer, machine.Buffer(3).Pointer, machine.Buffer<float>(Rotations(16)).Pointer, layer, 1);

        Assert.True(float.IsNaN(machine.Read<float>(scales)[3]));
        Assert.True(machine.Read<float>(valueScales)[3] > 0);
    }

    private static void Run(KernelMachine machine, RopeAndStoreShape shape)
    {
        (ElementType type, ElementType stored, int heads, int kvHeads, int headDim) = (shape.Type, shape.Cache, shape.Heads, shape.KvHeads, shape.HeadDim);
        int width = (heads + (2 * kvHeads)) * headDim, slotCount = Blocks * shape.BlockSize;
        int[] slots = [5, slotCount - 1, -1, 0, shape.BlockSize, 7];
        int[] positions = [.. slots.Select(_ => machine.Random.Next(Positions))];
        positions[^1] = -1; // left as it is
        float[] qkv = machine.Values(type, slots.Length * width, 2), rotations = Rotations(headDim);
        float[] queryNorm = machine.Values(ElementType.F32, headDim), keyNorm = machine.Values(ElementType.F32, headDim), bias = machine.Values(ElementType.F32, kvHeads * headDim);
        qkv.AsSpan((heads + kvHeads) * headDim, headDim).Clear(); // a value of zeros, whose scale is zero
        DeviceBuffer input = machine.Buffer(type, qkv);
        byte[] untouched = [.. Enumerable.Repeat((byte)0x55, slotCount * kvHeads * headDim * stored.Bytes())];
        DeviceBuffer[] cache = [machine.Buffer<byte>(untouched), machine.Buffer<byte>(untouched)];
        DeviceBuffer[] scales = [.. cache.Select(_ => machine.Buffer<float>([.. Enumerable.Repeat(-1f, slotCount * kvHeads)]))];

        new RopeAndStoreKernel(machine.Cache, shape).Launch(
            machine.Stream, input.Pointer, machine.Buffer<int>(positions).Pointer, machine.Buffer<int>(slots).Pointer, machine.Buffer<float>(rotations).Pointer,
            new KvLayerPointers(cache[0].Pointer, cache[1].Pointer, scales[0].Pointer, scales[1].Pointer), slots.Length,
            machine.Buffer<float>(queryNorm).Pointer, machine.Buffer<float>(keyNorm).Pointer, Epsilon, machine.Buffer<float>(bias).Pointer);

        float[] result = machine.Read(type, input);
        float[][] read = [.. cache.Select(buffer => machine.Read(stored, buffer))], factors = [.. scales.Select(buffer => machine.Read<float>(buffer))];
        float sentinel = TypedValues.FromBytes(stored, untouched)[0];
        var written = new HashSet<int>();
        for (int t = 0; t < slots.Length; t++)
        {
            for (int h = 0; h < heads + (2 * kvHeads); h++)
            {
                int kind = h < heads ? 0 : h < heads + kvHeads ? 1 : 2, kvHead = kind == 1 ? h - heads : h - heads - kvHeads, at = (t * width) + (h * headDim);
                float[] head = qkv[at..(at + headDim)];
                if (positions[t] < 0)
                {
                    machine.AssertEqual<float>(head, result.AsSpan(at, headDim), $"{shape}: a token that is not rotated");
                    continue;
                }

                if (kind == 1 && shape.HasKeyBias)
                    head = [.. head.Select((value, i) => value - bias[(kvHead * headDim) + i])];
                if (kind < 2)
                    head = Turned(shape.HasQkNorm ? Normed(head, kind == 0 ? queryNorm : keyNorm) : head, rotations.AsSpan(positions[t] * headDim, headDim));
                if (kind == 0)
                {
                    machine.AssertClose(head, result.AsSpan(at, headDim), TypedValues.Tolerance(type), 1e-2f, $"{shape}: query");
                    continue;
                }

                machine.AssertEqual<float>(qkv.AsSpan(at, headDim), result.AsSpan(at, headDim), $"{shape}: what was not a query");
                if (slots[t] < 0)
                    continue;
                int vector = (((slots[t] / shape.BlockSize) * kvHeads) + kvHead) * shape.BlockSize + (slots[t] % shape.BlockSize);
                written.Add(vector);
                ReadOnlySpan<float> actual = read[kind - 1].AsSpan(vector * headDim, headDim);
                float factor = factors[kind - 1][vector], largest = head.Max(Math.Abs);
                switch (stored)
                {
                    case ElementType.S8:
                        machine.AssertClose([largest / 127], [factor], 1e-5f, 1e-6f, $"{shape}: scale");
                        for (int i = 0; i < headDim; i++)
                            Assert.True(Math.Abs((actual[i] * factor) - head[i]) <= (largest / 254) + 1e-5f, $"seed {machine.Seed}, {shape}: {actual[i]} * {factor} is not {head[i]}");
                        break;
                    case ElementType.E4M3 or ElementType.E5M2:
                        float step = stored == ElementType.E4M3 ? 1f / 16 : 1f / 8, least = stored == ElementType.E4M3 ? 1f / 1024 : 1f / (1 << 17);
                        for (int i = 0; i < headDim; i++)
                            Assert.True(Math.Abs(actual[i] - head[i]) <= Math.Max(step * Math.Abs(head[i]), least) * 1.001f, $"seed {machine.Seed}, {shape}: {actual[i]} is not {head[i]}");
                        break;
                    default:
                        machine.AssertClose(head, actual, TypedValues.Tolerance(stored), stored == ElementType.F32 ? 1 : 1e-2f, $"{shape}: kind {kind}");
                        break;
                }
            }
        }

        foreach (float[] values in read)
            Assert.All(Enumerable.Range(0, slotCount * kvHeads).Where(vector => !written.Contains(vector)), vector => Assert.Equal(sentinel, values[vector * headDim]));
        foreach (float[] values in factors)
            Assert.All(Enumerable.Range(0, slotCount * kvHeads).Where(vector => stored != ElementType.S8 || !written.Contains(vector)), vector => Assert.Equal(-1f, values[vector]));
    }

    private static float[] Rotations(int headDim)
    {
        var table = new float[Positions * headDim];
        for (int i = 0; i < table.Length / 2; i++)
        {
            double angle = i / (headDim / 2) * Math.Pow(10000, -2.0 * (i % (headDim / 2)) / headDim);
            (table[2 * i], table[(2 * i) + 1]) = ((float)Math.Cos(angle), (float)Math.Sin(angle));
        }

        return table;
    }

    private static float[] Normed(float[] head, float[] weight)
    {
        double scale = 1 / Math.Sqrt((head.Sum(value => (double)value * value) / head.Length) + Epsilon);
        return [.. head.Select((value, i) => (float)(value * scale * weight[i]))];
    }

    private static float[] Turned(float[] head, ReadOnlySpan<float> rotation)
    {
        int half = head.Length / 2;
        var turned = new float[head.Length];
        for (int i = 0; i < half; i++)
        {
            (double a, double b, double cos, double sin) = (head[i], head[half + i], rotation[2 * i], rotation[(2 * i) + 1]);
            (turned[i], turned[half + i]) = ((float)((a * cos) - (b * sin)), (float)((b * cos) + (a * sin)));
        }

        return turned;
    }
}
