using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// Tens of tokens times weights as they are stored: all results beside those of the kernel for few tokens, which has its own check, then timed beside the
/// matrix library at the layers of a 7B model, in graphs of products one after the other over weights that no cache holds.
/// </summary>
internal sealed class DenseGemmCheck : ICheck
{
    private const long PoolBytes = 600L << 20; // the largest weights, twice

    private static readonly (string Name, int Outputs, int Inputs)[] _layers = [("qkv", 4608, 3584), ("output", 3584, 3584), ("gate and up", 37888, 3584), ("down", 3584, 18944)];

    private static readonly (ElementType Type, MatmulScale Scale)[] _weights =
        [(ElementType.E4M3, MatmulScale.Row), (ElementType.E4M3, MatmulScale.Block128)];

    public string Name => "dense gemm";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer scales = Scales(session), workspace = Workspace(session);
        foreach ((ElementType type, MatmulScale scale) in _weights)
        {
            using DeviceBuffer pool = Pool(session, type), x = Random(session, ElementType.BF16, 130 * 18944);
            foreach ((string name, int outputs, int inputs, bool isGated) in (ReadOnlySpan<(string, int, int, bool)>)[("qkv", 4608, 3584, false), ("odd", 1000, 1936, false), ("gated", 37888, 3584, true)])
            {
                foreach (int tokens in (int[])[9, 32, 50])
                {
                    session.Case($"{type} {scale}, {name}, {tokens}", () =>
                    {
                        int results = isGated ? outputs / 2 : outputs;
                        var product = new DenseProduct(type, ElementType.BF16, ElementType.F32, scale, Gated: isGated);
                        using DeviceBuffer y = session.Device.Allocate((long)tokens * results * sizeof(float)), expected = session.Device.Allocate(y.ByteCount);
                        var few = new DenseGemvKernel(cache, product, DenseGemvKernel.TilingFor(product, outputs, inputs, session.Device.Info));
                        for (int first = 0; first < tokens; first += DenseGemvKernel.MostTokens)
                        {
                            few.Launch(
                                session.Stream, pool.Pointer, scales.Pointer, x.Pointer + ((long)first * inputs * 2), default, expected.Pointer + ((long)first * results * sizeof(float)),
                                outputs, inputs, Math.Min(DenseGemvKernel.MostTokens, tokens - first));
                        }

                        GemmTiling tiling = GemmTiling.For(cache.Target, outputs, tokens, session.Device.Info.Multiprocessors);
                        session.Stream.Fill(y.Pointer, 0xff, y.ByteCount);
                        new DenseGemmKernel(cache, product, tiling).Launch(session.Stream, pool.Pointer, scales.Pointer, x.Pointer, default, y.Pointer, outputs, inputs, tokens, workspace.Pointer);
                        Compare(session.Download<float>(expected, tokens * results), session.Download<float>(y, tokens * results), results, tiling);
                    });
                }
            }
        }
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer x = Random(session, ElementType.BF16, 128 * 18944), codes = Random(session, ElementType.E4M3, 128 * 18944), y = session.Device.Allocate(4L * 128 * 37888), scales = Scales(session), workspace = Workspace(session);
        foreach ((ElementType type, MatmulScale scale) in _weights)
        {
            using DeviceBuffer pool = Pool(session, type);
            foreach ((string name, int outputs, int inputs) in _layers)
            {
                foreach (int tokens in (int[])[16, 32, 64])
                {
                    var product = new DenseProduct(type, ElementType.BF16, ElementType.BF16, scale, Gated: name == "gate and up");
                    GemmTiling chosen = GemmTiling.For(cache.Target, outputs, tokens, session.Device.Info.Multiprocessors);
                    double ours = Gemm($"{type} {scale}, {name}, {tokens}: {chosen}", chosen), library = double.NaN;
                    var shape = new MatmulShape(tokens, outputs, inputs, type, type, ElementType.BF16, WeightScale: scale, ActivationScale: scale == MatmulScale.Block128 ? MatmulScale.RowGroup128 : scale);
                    if (session.Device.Supports(shape))
                    {
                        using IMatmul matmul = session.Device.CreateMatmul(shape);
                        (DevicePointer input, DevicePointer factors) = type == ElementType.E4M3 ? (codes.Pointer, scales.Pointer) : (x.Pointer, default);
                        library = Measure($"{type} {scale}, {name}, {tokens}: cublasLt", at => session.Stream.Matmul(matmul, new MatmulOperands(input, at, y.Pointer, default, factors, factors)));
                    }

                    session.Measure($"{type} {scale}, {name}, {tokens}: faster than cublasLt by", library / ours, "x");
                    if (scale == MatmulScale.Row && name is "gate and up" or "down")
                    {
                        GemmTiling other = chosen.Warps == 8 ? new GemmTiling(16, tokens) : new GemmTiling(8, tokens, 2, 2);
                        Gemm($"{type} {scale}, {name}, {tokens}: not {other}", other);
                    }

                    double Gemm(string what, GemmTiling tiling)
                    {
                        var kernel = new DenseGemmKernel(cache, product, tiling);
                        return Measure(what, at => kernel.Launch(session.Stream, at, scales.Pointer, x.Pointer, default, y.Pointer, outputs, inputs, tokens, workspace.Pointer));
                    }
                }

                double Measure(string what, Action<DevicePointer> launch)
                {
                    const int Launches = 32;
                    long bytes = (long)inputs * outputs * type.Bytes(), places = PoolBytes / bytes;
                    launch(pool.Pointer);
                    session.Stream.BeginCapture();
                    for (int i = 0; i < Launches; i++)
                        launch(pool.Pointer + (i % places * bytes));
                    using IDeviceGraph graph = session.Stream.EndCapture();
                    double seconds = session.Seconds(() => session.Stream.Launch(graph)) / Launches;
                    session.Measure($"{what} ({seconds * 1e6:0.0} us)", bytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
                    return seconds;
                }
            }
        }
    }

    /// <summary>Sums of the same products in another order, by units that cut bits off as they add. A term that is missing would be a hundredth.</summary>
    private static void Compare(float[] expected, float[] actual, int outputs, GemmTiling tiling)
    {
        double squares = expected.Sum(value => (double)value * value);
        float tolerance = (float)(2e-4 * Math.Sqrt(squares / expected.Length));
        for (int i = 0; i < expected.Length; i++)
            CheckSession.True(Math.Abs(expected[i] - actual[i]) <= tolerance + (1e-4f * Math.Abs(expected[i])), $"{tiling}: y[{i / outputs}, {i % outputs}] is {actual[i]:g9}, not {expected[i]:g9}");
    }

    private static DeviceBuffer Scales(CheckSession session) => session.Upload<float>([.. Enumerable.Range(0, 1 << 18).Select(i => 0.5f + (i % 97 / 97f))]);

    private static DeviceBuffer Workspace(CheckSession session)
    {
        DeviceBuffer workspace = session.Device.Allocate(GemmKernel.MostWorkspaceBytes(session.Device.Info.Multiprocessors));
        session.Stream.Fill(workspace.Pointer, 0, workspace.ByteCount);
        return workspace;
    }

    private static DeviceBuffer Random(CheckSession session, ElementType type, int count) => session.Upload<byte>(SmallFloats.Random(new Random(count), type, count).Bytes);

    /// <summary>Memory full of random weights, a little over a million over and over: rows of all shapes differ.</summary>
    private static DeviceBuffer Pool(CheckSession session, ElementType type)
    {
        using DeviceBuffer block = Random(session, type, (1 << 20) + 4096);
        DeviceBuffer pool = session.Device.Allocate(PoolBytes);
        for (long at = 0; at < PoolBytes; at += block.ByteCount)
            session.Stream.Copy(pool.Pointer + at, block.Pointer, Math.Min(block.ByteCount, PoolBytes - at));
        session.Stream.Synchronize();
        return pool;
    }
}
