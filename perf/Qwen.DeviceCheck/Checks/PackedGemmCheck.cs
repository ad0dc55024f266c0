using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// What the tilings of packed products and the number of rows from which weights are unpacked are chosen by: other tilings at the layers of a 7B model, all
/// with the results of the first; and products of many rows, beside unpacking and the matrix library.
/// </summary>
internal sealed class PackedGemmCheck : ICheck
{
    private const int Launches = 24;
    private const long LeastBytes = 160 << 20; // of a layer's weights, copies in turn: more than the L2 cache holds

    private static readonly PackedFormat _format = new(4, 128, PackedOffset.ZeroPoint);
    private static readonly (string Name, int Outputs, int Inputs)[] _layers = [("qkv", 4608, 3584), ("gate and up", 37888, 3584), ("down", 3584, 18944)];

    private readonly Dictionary<(PackedProduct, GemmTiling), PackedGemmKernel> _kernels = [];
    private KernelCache? _cache;

    public string Name => "packed gemm";

    public void Verify(CheckSession session)
    {
        using DeviceBuffer workspace = Workspace(session);
        foreach ((string name, int outputs, int inputs) in _layers)
        {
            var matrix = new PackedMatrix(outputs, inputs, _format);
            using DeviceBuffer w = Random(session, matrix.ByteCount), x = Random(session, 128L * inputs * sizeof(ushort)), y = session.Device.Allocate(128L * outputs * sizeof(ushort));
            foreach (int rows in (int[])[16, 32, 50, 128])
            {
                session.Case($"{name}, {rows} rows", () =>
                {
                    GemmTiling[] tilings = Tilings(name, GemmTiling.For(Target(session), outputs, rows, 132).Rows);
                    float[] expected = Results(tilings[0]);
                    double size = Math.Sqrt(expected.Sum(value => (double)value * value) / expected.Length);
                    foreach (GemmTiling tiling in tilings)
                    {
                        float[] results = Results(tiling);
                        int wrong = Enumerable.Range(0, results.Length).FirstOrDefault(i => !(Math.Abs(results[i] - expected[i]) <= 0.01 * (size + Math.Abs(expected[i]))), -1);
                        CheckSession.True(wrong < 0, $"{tiling}: result {wrong} is {(wrong < 0 ? 0 : results[wrong]):g9}, and {(wrong < 0 ? 0 : expected[wrong]):g9} by {tilings[0]}");
                        CheckSession.True(tiling != tilings[0] || results.AsSpan().SequenceEqual(expected), $"{tiling}: results vary from run to run");
                    }
                });

                float[] Results(GemmTiling tiling)
                {
                    session.Stream.Fill(y.Pointer, 0xff, y.ByteCount);
                    PackedProduct product = Product(name);
                    Kernel(session, product, tiling).Launch(session.Stream, matrix, w.Pointer, x.Pointer, default, y.Pointer, rows, workspace.Pointer);
                    return [.. session.Download<ushort>(y, rows * (product.Gated ? outputs / 2 : outputs)).Select(bits => BitConverter.UInt32BitsToSingle((uint)bits << 16))];
                }
            }
        }
    }

    public void Time(CheckSession session)
    {
        using DeviceBuffer workspace = Workspace(session);
        foreach ((string name, int outputs, int inputs) in _layers)
        {
            var matrix = new PackedMatrix(outputs, inputs, _format);
            int copies = (int)(LeastBytes / matrix.ByteCount) + 1;
            using DeviceBuffer w = Random(session, matrix.ByteCount * copies), dense = session.Device.Allocate(2L * outputs * inputs), x = Random(session, 384L * inputs * sizeof(ushort)), y = session.Device.Allocate(384L * outputs * sizeof(ushort));
            using var cache = new KernelCache(session.Device);
            var unpack = new UnpackKernel(cache, _format, ElementType.BF16);
            foreach (int rows in (int[])[16, 32, 64, 128, 256, 384])
            {
                using IMatmul matmul = session.Device.CreateMatmul(new MatmulShape(rows, outputs, inputs, ElementType.BF16, ElementType.BF16, ElementType.BF16));
                double library = Seconds(session, i =>
                {
                    if (rows > 128)
                        unpack.Launch(session.Stream, matrix, w.Pointer + (i % copies * matrix.ByteCount), dense.Pointer);
                    session.Stream.Matmul(matmul, new MatmulOperands(x.Pointer, dense.Pointer, y.Pointer));
                });
                GemmTiling chosen = PackedGemmKernel.TilingFor(Target(session), matrix, rows, session.Device.Info.Multiprocessors);
                foreach (GemmTiling tiling in rows > 128 ? [chosen] : Tilings(name, rows))
                {
                    PackedGemmKernel kernel = Kernel(session, Product(name), tiling);
                    double seconds = Seconds(session, i => kernel.Launch(session.Stream, matrix, w.Pointer + (i % copies * matrix.ByteCount), x.Pointer, default, y.Pointer, rows, workspace.Pointer));
                    session.Measure(
                        $"{name}, {rows} rows, {(tiling == chosen ? "" : "not ")}{tiling}: {seconds * 1e6:0.0} us ({matrix.ByteCount / seconds / session.CopyBandwidth:0%}), {(rows > 128 ? "unpacked and " : "")}cublasLt {library * 1e6:0.0} us, so faster by",
                        library / seconds, "x");
                }
            }
        }

        _cache?.Dispose();
        _cache = null;
    }

    private static PackedProduct Product(string layer) => new(_format, ElementType.BF16, ElementType.BF16, Gated: layer == "gate and up");

    private static GemmTiling[] Tilings(string layer, int rows) => (rows, layer == "gate and up") switch
    {
        (16, true) => [new(12, 16, 2, 2), new(16, 16), new(8, 16, 3, 3)],
        (16, false) => [new(8, 16, 2, 2), new(8, 16, 3, 3), new(16, 16)],
        (32, true) => [new(16, 32), new(8, 32, 2, 2), new(12, 32)],
        (32, false) => [new(8, 32, 2, 2), new(8, 32), new(16, 32)],
        (64, true) => [new(16, 64), new(12, 64), new(8, 64, 2, 2)],
        (64, false) => [new(8, 64), new(8, 64, 2, 2), new(16, 64)],
        (_, true) => [new(12, 128), new(8, 128)],
        _ => [new(8, 128), new(12, 128)],
    };

    private static PtxTarget Target(CheckSession session) => new(session.Device.Info.ComputeCapability, session.Device.Info.PtxVersion, ArchitectureSpecific: session.Device.Info.Major == 9);

    /// <summary>Kernels that are verified are those that are timed: most of a check's time is compiling.</summary>
    private PackedGemmKernel Kernel(CheckSession session, PackedProduct product, GemmTiling tiling)
    {
        if (!_kernels.TryGetValue((product, tiling), out PackedGemmKernel? kernel))
            _kernels[(product, tiling)] = kernel = new PackedGemmKernel(_cache ??= new KernelCache(session.Device), product, tiling);
        return kernel;
    }

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
