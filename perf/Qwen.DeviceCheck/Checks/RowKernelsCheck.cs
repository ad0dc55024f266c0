using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>The kernels that work on rows of activations, at the shapes of Qwen2.5-7B, in BF16: right against plain loops, then timed at one token and at many.</summary>
internal sealed class RowKernelsCheck : ICheck
{
    private const int Hidden = 3584, Intermediate = 18944, Heads = 28, KvHeads = 4, HeadDim = 128, BlockSize = 16, Positions = 8192, Vocabulary = 152064;
    private const int Width = (Heads + (2 * KvHeads)) * HeadDim;
    private const ElementType Type = ElementType.BF16;

    public string Name => "row kernels";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        var random = new Random(1);
        session.Case("norm", () =>
        {
            (byte[] Bytes, double[] Values) x = SmallFloats.Random(random, ElementType.F32, 5 * Hidden), weight = SmallFloats.Random(random, ElementType.F32, Hidden);
            using DeviceBuffer input = session.Upload<byte>(x.Bytes), weights = session.Upload<byte>(weight.Bytes), y = session.Device.Allocate(5 * Hidden * Type.Bytes());
            new RmsNormKernel(cache, Type, Hidden).Launch(session.Stream, input.Pointer, weights.Pointer, 1e-6f, y.Pointer, 5);
            Compare(Normed(x.Values, weight.Values), SmallFloats.Decode(Type, session.Download<byte>(y, (int)y.ByteCount)), 1 / 250.0);
        });
        session.Case("norm, quantized by row", () =>
        {
            (byte[] Bytes, double[] Values) x = SmallFloats.Random(random, ElementType.F32, 5 * Hidden), weight = SmallFloats.Random(random, ElementType.F32, Hidden);
            using DeviceBuffer input = session.Upload<byte>(x.Bytes), weights = session.Upload<byte>(weight.Bytes), y = session.Device.Allocate(5 * Hidden), scales = session.Device.Allocate(5 * sizeof(float));
            new RmsNormKernel(cache, ElementType.E4M3, Hidden, null, MatmulScale.Row).Launch(session.Stream, input.Pointer, weights.Pointer, 1e-6f, y.Pointer, 5, scales: scales.Pointer);
            float[] factors = session.Download<float>(scales, 5);
            double[] codes = SmallFloats.Decode(ElementType.E4M3, session.Download<byte>(y, 5 * Hidden));
            Compare(Normed(x.Values, weight.Values), [.. codes.Select((code, i) => code * factors[i / Hidden])], 1 / 15.0, least: 0.05);
        });
        session.Case("SwiGLU", () =>
        {
            (byte[] Bytes, double[] Values) x = SmallFloats.Random(random, Type, 3 * 2 * Intermediate);
            using DeviceBuffer input = session.Upload<byte>(x.Bytes), y = session.Device.Allocate(3 * Intermediate * Type.Bytes());
            new SwiGluKernel(cache, Type).Launch(session.Stream, input.Pointer, y.Pointer, 3, Intermediate);
            double[] expected = [.. Enumerable.Range(0, 3 * Intermediate).Select(i => (i / Intermediate * 2 * Intermediate) + (i % Intermediate)).Select(at => x.Values[at] / (1 + Math.Exp(-x.Values[at])) * x.Values[at + Intermediate])];
            Compare(expected, SmallFloats.Decode(Type, session.Download<byte>(y, (int)y.ByteCount)), 1 / 250.0);
        });
        session.Case("rotation and cache write", () =>
        {
            (byte[] Bytes, double[] Values) qkv = SmallFloats.Random(random, Type, 2 * Width), table = SmallFloats.Random(random, ElementType.F32, Positions * HeadDim);
            using DeviceBuffer input = session.Upload<byte>(qkv.Bytes), rotations = session.Upload<byte>(table.Bytes), positions = session.Upload<int>([77, 8000]), slots = session.Upload<int>([BlockSize + 3, -1]);
            using DeviceBuffer keys = session.Upload<byte>(new byte[2 * BlockSize * KvHeads * HeadDim * Type.Bytes()]), values = session.Upload<byte>(new byte[2 * BlockSize * KvHeads * HeadDim * Type.Bytes()]);
            new RopeAndStoreKernel(cache, Shape).Launch(session.Stream, input.Pointer, positions.Pointer, slots.Pointer, rotations.Pointer, new KvLayerPointers(keys.Pointer, values.Pointer), 2);
            double[] turned = SmallFloats.Decode(Type, session.Download<byte>(input, qkv.Bytes.Length)), stored = SmallFloats.Decode(Type, session.Download<byte>(keys, (int)keys.ByteCount));
            Compare(Turned(qkv.Values.AsSpan(0, HeadDim), table.Values.AsSpan(77 * HeadDim, HeadDim)), turned[..HeadDim], 1 / 250.0, least: 0.1);
            int slot = ((KvHeads * BlockSize) + 3) * HeadDim; // block 1, head 0
            Compare(Turned(qkv.Values.AsSpan(Heads * HeadDim, HeadDim), table.Values.AsSpan(77 * HeadDim, HeadDim)), stored[slot..(slot + HeadDim)], 1 / 250.0, least: 0.1);
            CheckSession.Equal(KvHeads * HeadDim, stored.Count(value => value != 0), "values stored");
        });
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        foreach (int tokens in (int[])[1, 8192])
        {
            using DeviceBuffer hidden = Zeros(session, (long)tokens * Hidden * sizeof(float)), weights = Zeros(session, Hidden * sizeof(float)), y = Zeros(session, (long)tokens * Intermediate * Type.Bytes());
            using DeviceBuffer wide = Zeros(session, (long)tokens * 2 * Intermediate * Type.Bytes()), scales = Zeros(session, tokens * sizeof(float)), ids = Zeros(session, tokens * sizeof(int)), table = Zeros(session, (long)Vocabulary * Hidden * Type.Bytes());
            using DeviceBuffer rotations = Zeros(session, (long)Positions * HeadDim * sizeof(float)), keys = Zeros(session, (long)tokens * KvHeads * HeadDim * Type.Bytes() + 65536), values = Zeros(session, (long)tokens * KvHeads * HeadDim * Type.Bytes() + 65536);
            using DeviceBuffer slots = session.Upload<int>([.. Enumerable.Range(0, tokens)]);
            var embedding = new EmbeddingKernel(cache, Type, Hidden);
            var norm = new RmsNormKernel(cache, Type, Hidden);
            var quantizedNorm = new RmsNormKernel(cache, ElementType.E4M3, Hidden, null, MatmulScale.Row);
            var swiGlu = new SwiGluKernel(cache, Type);
            var quantizedSwiGlu = new SwiGluQuantizeKernel(cache, Type, Intermediate, MatmulScale.Row);
            var rope = new RopeAndStoreKernel(cache, Shape);
            Measure("embedding", Hidden * 6L, () => embedding.Launch(session.Stream, ids.Pointer, table.Pointer, hidden.Pointer, tokens));
            Measure("norm", Hidden * 6L, () => norm.Launch(session.Stream, hidden.Pointer, weights.Pointer, 1e-6f, y.Pointer, tokens));
            Measure("norm to E4M3", Hidden * 5L, () => quantizedNorm.Launch(session.Stream, hidden.Pointer, weights.Pointer, 1e-6f, y.Pointer, tokens, scales: scales.Pointer));
            Measure("SwiGLU", Intermediate * 6L, () => swiGlu.Launch(session.Stream, wide.Pointer, y.Pointer, tokens, Intermediate));
            Measure("SwiGLU to E4M3", Intermediate * 5L, () => quantizedSwiGlu.Launch(session.Stream, wide.Pointer, y.Pointer, scales.Pointer, tokens));
            Measure("rotation and cache write", (Heads + (2 * KvHeads)) * HeadDim * 4L, () => rope.Launch(session.Stream, wide.Pointer, slots.Pointer, slots.Pointer, rotations.Pointer, new KvLayerPointers(keys.Pointer, values.Pointer), tokens));

            void Measure(string name, long bytesPerToken, Action launch)
            {
                const int Launches = 20; // one after the other, as in a step
                double seconds = session.Seconds(() =>
                {
                    for (int i = 0; i < Launches; i++)
                        launch();
                }) / Launches;
                session.Measure($"{name}, {tokens} tokens", seconds * 1e6, "us");
                if (tokens > 1)
                    session.Measure($"{name}, {tokens} tokens", bytesPerToken * tokens / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
            }
        }
    }

    private static RopeAndStoreShape Shape => new(Type, Type, Heads, KvHeads, HeadDim, BlockSize);

    private static DeviceBuffer Zeros(CheckSession session, long bytes)
    {
        DeviceBuffer buffer = session.Device.Allocate(bytes);
        session.Stream.Fill(buffer.Pointer, 0, bytes);
        return buffer;
    }

    private static double[] Normed(double[] x, double[] weight)
    {
        var y = new double[x.Length];
        for (int start = 0; start < x.Length; start += weight.Length)
        {
            double scale = 1 / Math.Sqrt((x.Skip(start).Take(weight.Length).Sum(value => value * value) / weight.Length) + 1e-6);
            for (int i = 0; i < weight.Length; i++)
                y[start + i] = x[start + i] * scale * weight[i];
        }

        return y;
    }

    private static double[] Turned(ReadOnlySpan<double> head, ReadOnlySpan<double> rotation)
    {
        int half = head.Length / 2;
        var turned = new double[head.Length];
        for (int i = 0; i < half; i++)
            (turned[i], turned[half + i]) = ((head[i] * rotation[2 * i]) - (head[half + i] * rotation[(2 * i) + 1]), (head[half + i] * rotation[2 * i]) + (head[i] * rotation[(2 * i) + 1]));
        return turned;
    }

    private static void Compare(double[] expected, double[] actual, double tolerance, double least = 1e-3)
    {
        for (int i = 0; i < expected.Length; i++)
            CheckSession.True(Math.Abs(expected[i] - actual[i]) <= tolerance * Math.Max(Math.Abs(expected[i]), least), $"[{i}] is {actual[i]:g9}, not {expected[i]:g9}");
    }
}
