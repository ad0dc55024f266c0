using System.Diagnostics;
using Qwen.Native.Device;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Capture and replay of kernels, copies and matrix products, with and without overlap.</summary>
internal sealed class GraphCheck : ICheck
{
    public string Name => "graph";

    public void Verify(CheckSession session)
    {
        IDevice device = session.Device;
        IDeviceStream stream = session.Stream;
        session.Case("a captured kernel and copy run when replayed, not before", () =>
        {
            const int n = 4096;
            using IDeviceModule module = device.LoadModule(Ptx.Axpy);
            IDeviceFunction axpy = module.Function("axpy");
            using DeviceBuffer x = session.Upload<float>([.. Enumerable.Repeat(1f, n)]), y = session.Upload<float>(new float[n]), z = session.Upload<float>(new float[n]);
            stream.BeginCapture();
            stream.Launch(axpy, n / 256, 256, [Argument.Of(x.Pointer), Argument.Of(y.Pointer), Argument.Of(2f), Argument.Of(n), Argument.Of(0UL)]);
            stream.Copy(z.Pointer, y.Pointer, n * sizeof(float));
            using IDeviceGraph graph = stream.EndCapture();
            CheckSession.Equal(2, graph.Nodes);
            CheckSession.Equal(0f, session.Download<float>(y, n).Max(), "y before the first replay");
            for (int i = 0; i < 10; i++)
                stream.Launch(graph);
            CheckSession.True(session.Download<float>(z, n).All(v => v == 20f), "ten replays did not add up");
        });
        session.Case("a captured product reads what its operands hold at the replay", () =>
        {
            const int size = 64;
            var shape = new MatmulShape(3, size, size, ElementType.F32, ElementType.F32, ElementType.F32);
            using DeviceBuffer x = session.Upload<float>([.. Enumerable.Repeat(1f, 3 * size)]), w = session.Upload<float>([.. Enumerable.Repeat(1f, size * size)]), y = session.Upload<float>(new float[3 * size]);
            using IMatmul matmul = device.CreateMatmul(shape);
            var operands = new MatmulOperands(x.Pointer, w.Pointer, y.Pointer);
            stream.Matmul(matmul, operands);
            stream.Synchronize();
            stream.BeginCapture();
            stream.Matmul(matmul, operands);
            using IDeviceGraph graph = stream.EndCapture();
            session.Note($"a product is {graph.Nodes} nodes");
            stream.Fill(x.Pointer, 0, x.ByteCount);
            stream.Launch(graph);
            CheckSession.Equal(0f, session.Download<float>(y, 3 * size).Max());
        });
        if (device.Info.Major >= 9)
        {
            session.Case("captured overlapping kernels see what the one before wrote", () =>
            {
                using IDeviceModule module = device.LoadModule(Ptx.Dependent);
                IDeviceFunction step = module.Function("step");
                using DeviceBuffer y = session.Upload<float>(new float[1 << 16]);
                using IDeviceGraph graph = Capture(session, step, y, 10, overlap: true);
                stream.Launch(graph);
                stream.Launch(graph);
                CheckSession.True(session.Download<float>(y, 1 << 16).All(v => v == (1 << 20) - 1), "a kernel read too early");
            });
        }

        session.Case("an allocation while capturing breaks the capture only", () =>
        {
            using (IDeviceStream other = device.CreateStream())
            {
                other.BeginCapture();
                session.Note(CheckSession.Throws<DeviceException>(() => device.Allocate(1 << 20).Dispose()).Message);
            }

            device.Allocate(1 << 20).Dispose();
        });
    }

    public void Time(CheckSession session)
    {
        const int nodes = 200;
        using IDeviceModule module = session.Device.LoadModule(session.Device.Info.Major >= 9 ? Ptx.Dependent : Ptx.Poke);
        IDeviceFunction function = module.Function(session.Device.Info.Major >= 9 ? "step" : "poke");
        using DeviceBuffer y = session.Upload<float>(new float[1 << 16]);
        foreach (bool overlap in (bool[])[false, true])
        {
            using IDeviceGraph graph = Capture(session, function, y, nodes, overlap);
            session.Measure($"node of a graph of {nodes}{(overlap ? ", overlapping" : "")}", session.Seconds(() => session.Stream.Launch(graph)) / nodes * 1e6, "us");
            long bytes = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
            session.Stream.Launch(graph);
            double elapsed = Stopwatch.GetElapsedTime(start).TotalSeconds;
            CheckSession.Equal(bytes, GC.GetAllocatedBytesForCurrentThread(), "bytes of managed memory");
            session.Measure($"launch of it on the host{(overlap ? ", overlapping" : "")}", elapsed * 1e6, "us");
            session.Stream.Synchronize();
        }
    }

    private static IDeviceGraph Capture(CheckSession session, IDeviceFunction step, DeviceBuffer y, int count, bool overlap)
    {
        session.Stream.BeginCapture();
        for (int i = 0; i < count; i++)
            session.Stream.Launch(step, 256, 256, [Argument.Of(y.Pointer)], overlap);
        return session.Stream.EndCapture();
    }
}
