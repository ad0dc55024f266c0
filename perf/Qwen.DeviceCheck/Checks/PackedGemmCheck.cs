using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// What the tilings of packed products and the number of rows from which weights are unpacked are chosen by: other tilings at the layers of a 7B model, all
/// with the results of the chosen one; and products of many rows, beside unpacking and the matrix library.
/// </summary>
internal sealed class PackedGemmCheck : ICheck
{
    private const int Launches = 24;
    private const long LeastBytes = 160 << 20; // of a layer's weights, copies in turn: more than the L2 cache holds

    private static readonly PackedFormat _format = new(4, 128, PackedOffset.ZeroPoint);
    private static readonly PackedProduct _product = new(_format, ElementType.BF16, ElementType.BF16);
    private static readonly (string Name, int Outputs, int Inputs)[] _layers = [("qkv", 4608, 3584), ("gate and up", 37888, 3584), ("down", 3584, 18944)];

    public string Name => "packed gemm";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer workspace = Workspace(session);
        foreach ((string name, int outputs, int inputs) in _layers)
        {
            var matrix = new PackedMatrix(outputs, inputs, _format);
            using DeviceBuffer w = Random(session, matrix.ByteCount), x = Random(session, 200L * inputs * sizeof(ushort)), y = session.Device.Allocate(200L * outputs * sizeof(float));
            foreach (int rows in (int[])[16, 32, 50, 64, 100, 200])
            {
                session.Case($"{name}, {rows} rows", () =>
                {
                    GemmTiling first = PackedGemmKernel.TilingFor(cache.Target, matrix, rows, session.Device.Info.Multiprocessors);
                    float[] expected = Results(first);
                    double size = Math.Sqrt(expected.Sum(value => (double)value * value) / expected.Length);
                    foreach (GemmTiling other in Tilings(16).Concat(Tilings(first.Rows)).Append(first with { IsFenced = false }).Where(tiling => tiling != first))
                    {
                        float[] results = Results(other);
                        for (int i = 0; i < results.Length; i++)
                            CheckSession.True(Math.Abs(results[i] - expected[i]) <= 3e-4 * (size + Math.Abs(expected[i])), $"{other}: y[{i / outputs}, {i % outputs}] is {results[i]:g9}, and {expected[i]:g9} by {first}");
                    }

                    float[] again = Results(first);
                    CheckSession.True(again.AsSpan().SequenceEqual(expected), $"{first}: results vary from run to run");
                    float[] gated = Results(first, isGated: true);
                    for (int i = 0; i < gated.Length; i++)
                    {
                        int at = (i / (outputs / 2) * outputs) + (i % (outputs / 2));
                        double gate = expected[at], up = expected[at + (outputs / 2)], value = gate / (1 + Math.Exp(-gate)) * up;
                        CheckSession.True(Math.Abs(gated[i] - value) <= 3e-4 * ((size * (1 + Math.Abs(up) + Math.Abs(gate))) + Math.Abs(value)), $"{first}, gated: result {i} is {gated[i]:g9}, not {value:g9}");
                    }
                });

                float[] Results(GemmTiling tiling, bool isGated = false)
                {
                    session.Stream.Fill(y.Pointer, 0xff, y.ByteCount);
                    new PackedGemmKernel(cache, _product with { Result = ElementType.F32, Gated = isGated }, tiling).Launch(session.Stream, matrix, w.Pointer, x.Pointer, default, y.Pointer, rows, workspace.Pointer);
                    return session.Download<float>(y, rows * (isGated ? outputs / 2 : outputs));
                }
            }
        }
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer workspace = Workspace(session);
        foreach ((string name, int outputs, int inputs) in _layers)
        {
            var matrix = new PackedMatrix(outputs, inputs, _format);
            PackedProduct product = _product with { Gated = name == "gate and up" };
            int copies = (int)(LeastBytes / matrix.ByteCount) + 1;
            using DeviceBuffer w = Random(session, matrix.ByteCount * copies), dense = session.Device.Allocate(2L * outputs * inputs), x = Random(session, 512L * inputs * sizeof(ushort)), y = session.Device.Allocate(512L * outputs * sizeof(ushort));
            foreach (int rows in (int[])[16, 32, 64, 128])
            {
                GemmTiling chosen = PackedGemmKernel.TilingFor(cache.Target, matrix, rows, session.Device.Info.Multiprocessors);
                foreach (GemmTiling tiling in Tilings(rows).Append(chosen with { IsFenced = false }))
                {
                    double seconds = Gemm(tiling, rows);
                    session.Measure($"{name}, {rows} rows: {(tiling == chosen ? "chosen" : "not")} {tiling} ({seconds * 1e6:0.0} us)", matrix.ByteCount / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
                }
            }

            var unpack = new UnpackKernel(cache, _format, ElementType.BF16);
            foreach (int rows in (int[])[128, 192, 256, 384, 512])
            {
                double packed = Gemm(PackedGemmKernel.TilingFor(cache.Target, matrix, rows, session.Device.Info.Multiprocessors), rows);
                using IMatmul matmul = session.Device.CreateMatmul(new MatmulShape(rows, outputs, inputs, ElementType.BF16, ElementType.BF16, ElementType.BF16));
                double unpacked = Seconds(session, i =>
                {
                    unpack.Launch(session.Stream, matrix, w.Pointer + (i % copies * matrix.ByteCount), dense.Pointer);
                    session.Stream.Matmul(matmul, new MatmulOperands(x.Pointer, dense.Pointer, y.Pointer));
                });
                session.Measure($"{name}, {rows} rows: packed {packed * 1e6:0.0} us, unpacked and multiplied {unpacked * 1e6:0.0} us, so packed is faster by", unpacked / packed, "x");
            }

            double Gemm(GemmTiling tiling, int rows)
            {
                var kernel = new PackedGemmKernel(cache, product, tiling);
                return Seconds(session, i => kernel.Launch(session.Stream, matrix, w.Pointer + (i % copies * matrix.ByteCount), x.Pointer, default, y.Pointer, rows, workspace.Pointer));
            }
        }
    }

    private static GemmTiling[] Tilings(int rows) => rows == 128 ? [new(8, rows), new(12, rows)] : [new(8, rows), new(8, rows, 2, 1), new(8, rows, 2, 2), new(12, rows), new(16, rows)];

    private static double Seconds(CheckSession session, Action<int> launch)
    {
        launch(0); // modules load lazily, not while a capture runs
        session.Stream.Synchronize();
        session.Stream.BeginCapture();
        for (int i = 0; i < Launches; i++)
            launch(i);
        using IDeviceGraph graph = session.Stream.EndCapture();
        return session.Seconds(() => session.Stream.Launch(graph)) / Launches;
    }

    private static DeviceBuffer Workspace(CheckSession session)
    {
        DeviceBuffer workspace = session.Device.Allocate(GemmKernel.MostWorkspaceBytes(session.Device.Info.Multiprocessors));
        session.Stream.Fill(workspace.Pointer, 0, workspace.ByteCount);
        return workspace;
    }

    /// <summary>Random 16-bit floats, which are also codes, scales and zero points: a megabyte over and over.</summary>
    private static DeviceBuffer Random(CheckSession session, long bytes)
    {
        using DeviceBuffer some = session.Upload<byte>(SmallFloats.Random(new Random(5), ElementType.F16, 1 << 19).Bytes);
        DeviceBuffer buffer = session.Device.Allocate(bytes);
        for (long at = 0; at < bytes; at += some.ByteCount)
            session.Stream.Copy(buffer.Pointer + at, some.Pointer, Math.Min(some.ByteCount, bytes - at));
        session.Stream.Synchronize();
        return buffer;
    }
}
