using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// Few tokens times weights as they are stored, at the shapes of Qwen2.5-7B and 0.5B: some outputs beside plain sums, then timed beside the matrix library
/// and the copy bandwidth, in graphs of products one after the other over weights that no cache holds.
/// </summary>
internal sealed class DenseGemvCheck : ICheck
{
    private const int Period = 1 << 20; // weights repeat after so many
    private const long PoolBytes = 1280L << 20; // the largest weights, 152064 x 3584 in BF16, fit
    private const long BytesOfRun = 512L << 20;

    private static readonly (string Name, int Inputs, int Outputs)[] _shapes =
    [
        ("7B qkv", 3584, 4608), ("7B o", 3584, 3584), ("7B gate and up", 3584, 37888), ("7B down", 18944, 3584), ("7B logits", 3584, 152064),
        ("0.5B qkv", 896, 1152), ("0.5B o", 896, 896), ("0.5B gate and up", 896, 9728), ("0.5B down", 4864, 896), ("0.5B logits", 896, 151936),
    ];

    private static readonly (ElementType Type, MatmulScale Scale)[] _weights =
        [(ElementType.BF16, MatmulScale.None), (ElementType.E4M3, MatmulScale.Tensor), (ElementType.E4M3, MatmulScale.Row), (ElementType.E4M3, MatmulScale.Block128)];

    public string Name => "dense gemv";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        foreach ((ElementType type, MatmulScale scale) in _weights)
        {
            (DeviceBuffer pool, double[] values) = Pool(session, type);
            using (pool)
            {
                foreach ((string name, int inputs, int outputs) in _shapes)
                {
                    foreach (int tokens in (int[])[1, 8])
                        session.Case($"{type} {scale}, {name}, {tokens}", () => Verify(session, cache, pool, values, Product(name, type, ElementType.BF16, scale), inputs, outputs, tokens));
                }
            }
        }

        foreach (ElementType type in (ElementType[])[ElementType.BF16, ElementType.F16])
            session.Case($"codes of E4M3 as {type}", () => VerifyCodes(session, cache, type));
        using DeviceBuffer halves = Pool(session, ElementType.F16).Buffer;
        double[] ofHalves = SmallFloats.Random(new Random(5), ElementType.F16, Period).Values;
        session.Case("F16", () => Verify(session, cache, halves, ofHalves, new DenseProduct(ElementType.F16, ElementType.F16, ElementType.F32), 3584, 4608, 5));
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer x = Random(session, ElementType.BF16, 8 * 18944).Buffer, y = Random(session, ElementType.F32, 8 * 152064).Buffer, scales = Random(session, ElementType.F32, Period).Buffer;
        using DeviceBuffer codesOfX = Random(session, ElementType.E4M3, 8 * 18944).Buffer;
        foreach ((ElementType type, MatmulScale scale) in _weights)
        {
            using DeviceBuffer pool = Pool(session, type).Buffer;
            foreach ((string name, int inputs, int outputs) in _shapes)
            {
                long bytes = (long)inputs * outputs * type.Bytes();
                DenseProduct product = Product(name, type, ElementType.BF16, scale);
                GemvTiling chosen = DenseGemvKernel.TilingFor(product, outputs, inputs, session.Device.Info);
                foreach (int tokens in (int[])[1, 4, 8])
                {
                    Gemv($"{type} {scale}, {name}, {tokens}: {chosen}", chosen, tokens);
                    var shape = new MatmulShape(tokens, outputs, inputs, type, type, product.Result, product.Accumulate, WeightScale: scale, ActivationScale: scale == MatmulScale.Block128 ? MatmulScale.RowGroup128 : scale);
                    shape = shape with { Tokens = scale == MatmulScale.Block128 ? (tokens + 3) / 4 * 4 : tokens };
                    if (!session.Device.Supports(shape))
                        continue;
                    using IMatmul matmul = session.Device.CreateMatmul(shape);
                    (DevicePointer input, DevicePointer scale32) = type == ElementType.E4M3 ? (codesOfX.Pointer, scales.Pointer) : (x.Pointer, default);
                    Measure(session, $"{type} {scale}, {name}, {tokens}: cublasLt", bytes, weights => session.Stream.Matmul(matmul, new MatmulOperands(input, pool.Pointer + weights, y.Pointer, default, scale32, scale32)));
                }

                if (scale is MatmulScale.None or MatmulScale.Row)
                {
                    foreach (GemvTiling other in Others(chosen, product.Gated))
                        Gemv($"{type} {scale}, {name}, 1: not {other}", other, 1);
                }

                void Gemv(string what, GemvTiling tiling, int tokens)
                {
                    var kernel = new DenseGemvKernel(cache, product, tiling);
                    Measure(session, what, bytes, weights => kernel.Launch(session.Stream, pool.Pointer + weights, scales.Pointer, x.Pointer, default, y.Pointer, outputs, inputs, tokens));
                }
            }
        }
    }

    /// <summary>Other tilings, to choose by.</summary>
    private static IEnumerable<GemvTiling> Others(GemvTiling chosen, bool gated)
    {
        GemvTiling[] all = chosen.RowTiles == 2
            ? [new(2, 4, 3, 4), new(2, 4, 4, 3), new(2, 4, 4, 3, 2), new(2, 4, 4, 3, 2, 3), new(2, 8, 3, 2), new(1, 4, 5, 4)]
            : [new(1, 4, 4, 5), new(1, 8, 4, 3), new(1, 8, 5, 2), new(1, 16, 3, 1), new(1, 16, 3, 2), new(2, 4, 3, 4)];
        return all.Where(other => other != chosen && (!gated || other.RowTiles == 2));
    }

    /// <summary>Every code that is a number, subnormal ones too, times one, is its value.</summary>
    private static void VerifyCodes(CheckSession session, KernelCache cache, ElementType type)
    {
        byte[] numbers = [.. Enumerable.Range(0, 256).Where(code => (code & 0x7f) != 0x7f).Select(code => (byte)code), 0, 0];
        byte[] one = new byte[32];
        one[13 * 2] = (byte)(type == ElementType.BF16 ? 0x80 : 0x00);
        one[(13 * 2) + 1] = (byte)(type == ElementType.BF16 ? 0x3f : 0x3c);
        using DeviceBuffer w = session.Upload<byte>([.. numbers.SelectMany(code => Enumerable.Repeat(code, 16))]), x = session.Upload<byte>(one), y = session.Device.Allocate(256 * sizeof(float));
        new DenseGemvKernel(cache, new DenseProduct(ElementType.E4M3, type, ElementType.F32), new GemvTiling(1, 4, 3, 1)).Launch(session.Stream, w.Pointer, default, x.Pointer, default, y.Pointer, 256, 16, 1);
        double[] values = SmallFloats.Decode(ElementType.E4M3, numbers);
        float[] results = session.Download<float>(y, 256);
        for (int i = 0; i < values.Length; i++)
            CheckSession.True(results[i] == values[i], $"code {numbers[i]:x2} is {results[i]:g9}, not {values[i]:g9}");
    }

    /// <summary>What a projection of a network asks for.</summary>
    private static DenseProduct Product(string name, ElementType weights, ElementType activations, MatmulScale scale) => name[(name.IndexOf(' ', StringComparison.Ordinal) + 1)..] switch
    {
        "gate and up" => new DenseProduct(weights, activations, activations, scale, Gated: true),
        "o" or "down" => new DenseProduct(weights, activations, ElementType.F32, scale, Accumulate: true),
        "logits" => new DenseProduct(weights, activations, ElementType.F32, scale),
        _ => new DenseProduct(weights, activations, activations, scale),
    };

    private static void Measure(CheckSession session, string name, long bytes, Action<long> launch)
    {
        long place = (bytes + 255) / 256 * 256, places = Math.Max(1, PoolBytes / place);
        int launches = (int)Math.Clamp(BytesOfRun / bytes, 4, 256);
        launch(0);
        session.Stream.BeginCapture();
        for (int i = 0; i < launches; i++)
            launch(i % places * place);
        using IDeviceGraph graph = session.Stream.EndCapture();
        double seconds = session.Seconds(() => session.Stream.Launch(graph)) / launches;
        session.Measure($"{name} ({seconds * 1e6:0.0} us)", bytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
    }

    private static void Verify(CheckSession session, KernelCache cache, DeviceBuffer pool, double[] w, DenseProduct product, int inputs, int outputs, int tokens)
    {
        var random = new Random(7);
        int results = product.Gated ? outputs / 2 : outputs, stride = ((inputs + 127) / 128 + 3) / 4 * 4;
        (DeviceBuffer xBuffer, double[] x) = Random(session, product.Activations, tokens * inputs);
        (DeviceBuffer yBuffer, double[] before) = Random(session, ElementType.F32, tokens * results);
        (DeviceBuffer scaleBuffer, double[] scales) = Random(session, ElementType.F32, Math.Max(outputs, (outputs + 127) / 128 * stride));
        using (xBuffer)
        using (yBuffer)
        using (scaleBuffer)
        {
            GemvTiling tiling = DenseGemvKernel.TilingFor(product, outputs, inputs, session.Device.Info);
            new DenseGemvKernel(cache, product, tiling).Launch(session.Stream, pool.Pointer, scaleBuffer.Pointer, xBuffer.Pointer, default, yBuffer.Pointer, outputs, inputs, tokens);
            double[] y = SmallFloats.Decode(product.Result, session.Download<byte>(yBuffer, tokens * results * product.Result.Bytes()));
            int[] some = [0, results - 1, .. Enumerable.Range(0, 30).Select(_ => random.Next(results))];
            for (int token = 0; token < tokens; token++)
            {
                foreach (int o in some)
                {
                    (double value, double size) = Sum(token, o);
                    if (product.Gated)
                    {
                        (double up, double upSize) = Sum(token, o + results);
                        double gate = value / (1 + Math.Exp(-value));
                        (value, size) = (gate * up, (size * (Math.Abs(up) + 1)) + (Math.Abs(gate) * upSize));
                    }

                    int at = (token * results) + o;
                    value += product.Accumulate ? before[at] : 0;
                    double tolerance = (1e-5 * size) + (product.Result == ElementType.F32 ? 1e-6 : 1 / 250.0) * Math.Abs(value);
                    CheckSession.True(Math.Abs(y[at] - value) <= tolerance, $"y[{token}, {o}] is {y[at]:g9}, not {value:g9}");
                }
            }
        }

        (double Value, double Size) Sum(int token, int row)
        {
            double value = 0, size = 0;
            for (int i = 0; i < inputs; i++)
            {
                double term = w[(((long)row * inputs) + i) % Period] * x[(token * inputs) + i];
                if (product.Scale == MatmulScale.Block128)
                    term *= scales[(row / 128 * stride) + (i / 128)];
                (value, size) = (value + term, size + Math.Abs(term));
            }

            double scale = product.Scale switch { MatmulScale.Tensor => scales[0], MatmulScale.Row => scales[row], _ => 1 };
            return (value * scale, size * Math.Abs(scale));
        }
    }

    private static (DeviceBuffer Buffer, double[] Values) Random(CheckSession session, ElementType type, int count)
    {
        (byte[] bytes, double[] values) = SmallFloats.Random(new Random(count), type, count);
        return (session.Upload<byte>(bytes), values);
    }

    /// <summary>Memory full of random weights, a million over and over.</summary>
    private static (DeviceBuffer Buffer, double[] Values) Pool(CheckSession session, ElementType type)
    {
        (byte[] bytes, double[] values) = SmallFloats.Random(new Random(5), type, Period);
        using DeviceBuffer block = session.Upload<byte>(bytes);
        DeviceBuffer pool = session.Device.Allocate(PoolBytes);
        for (long at = 0; at < PoolBytes; at += bytes.Length)
            session.Stream.Copy(pool.Pointer + at, block.Pointer, bytes.Length);
        session.Stream.Synchronize();
        return (pool, values);
    }
}
