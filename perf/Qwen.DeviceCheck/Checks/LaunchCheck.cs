using System.Diagnostics;
using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Modules, their errors, and launches: parameters, large shared memory, overlapping kernels.</summary>
internal sealed class LaunchCheck : ICheck
{
    public string Name => "launch";

    public void Verify(CheckSession session)
    {
        IDevice device = session.Device;
        session.Case("parameters of every size", () =>
        {
            const int n = 1000, first = 24;
            float[] x = [.. Enumerable.Range(0, n).Select(i => i * 0.5f)], y = [.. Enumerable.Range(0, n + first).Select(i => (float)-i)];
            using IDeviceModule module = device.LoadModule(Ptx.Axpy);
            IDeviceFunction axpy = module.Function("axpy");
            using DeviceBuffer px = session.Upload<float>(x), py = session.Upload<float>(y);
            session.Stream.Launch(axpy, 4, 256, [Argument.Of(px.Pointer), Argument.Of(py.Pointer), Argument.Of(3f), Argument.Of(n), Argument.Of((ulong)first)]);
            float[] got = session.Download<float>(py, y.Length);
            for (int i = 0; i < y.Length; i++)
                CheckSession.Equal(i < first ? y[i] : (3f * x[i - first]) + y[i], got[i], $"y[{i}]");
            CheckSession.True(axpy.Resources is { Registers: > 0 and < 64, LocalBytes: 0 }, axpy.Resources.ToString());
            CheckSession.True(axpy.BlocksPerMultiprocessor(256) * 256 <= device.Info.ThreadsPerMultiprocessor, "more blocks than threads fit");
        });
        session.Case("all of the shared memory", () =>
        {
            int bytes = device.Info.SharedMemoryPerBlock;
            float[] x = [.. Enumerable.Range(0, 512).Select(i => (float)i)];
            using IDeviceModule module = device.LoadModule(Ptx.Reverse);
            IDeviceFunction large = module.Function("reverse", bytes), small = module.Function("reverse", 1024);
            using DeviceBuffer px = session.Upload<float>(x), py = device.Allocate(2048);
            foreach ((IDeviceFunction function, int offset) in ((IDeviceFunction, int)[])[(large, bytes - 1024), (small, 0), (large, bytes - 1024)])
            {
                session.Stream.Launch(function, 2, 256, [Argument.Of(px.Pointer), Argument.Of(py.Pointer), Argument.Of(offset)]);
                float[] got = session.Download<float>(py, 512);
                for (int i = 0; i < 512; i++)
                    CheckSession.Equal(x[(i & ~255) + 255 - (i & 255)], got[i], $"y[{i}]");
            }

            CheckSession.Equal(1, large.BlocksPerMultiprocessor(256));
            var e = CheckSession.Throws<DeviceException>(() => module.Function("reverse", bytes + 1));
            session.Note(e.Message);
        });
        session.Case("the compiler's errors name the line", () =>
        {
            var e = CheckSession.Throws<CudaException>(() => device.LoadModule(Ptx.Axpy.Replace("%f3, %f1, %f2;", "%f3, %f1, %q9;", StringComparison.Ordinal)).Dispose());
            CheckSession.True(e.Message.Contains("fma.rn.f32 %f2, %f3, %f1, %q9;", StringComparison.Ordinal), e.Message);
            session.Note(e.Message);
        });
        session.Case("a newer PTX version is refused", () =>
            session.Note(CheckSession.Throws<CudaException>(() => device.LoadModule(Ptx.Axpy.Replace(".version 7.0", ".version 99.0", StringComparison.Ordinal)).Dispose()).Message));
        session.Case("the PTX version that the driver should take is taken", () =>
            device.LoadModule(Ptx.Axpy.Replace(".version 7.0", $".version {device.Info.PtxVersion / 10}.{device.Info.PtxVersion % 10}", StringComparison.Ordinal)).Dispose());
        session.Case("a missing entry is refused", () =>
        {
            using IDeviceModule module = device.LoadModule(Ptx.Poke);
            CheckSession.Equal(500, CheckSession.Throws<CudaException>(() => module.Function("nothing")).Code);
        });
        session.Case("a launch that can't be names the kernel", () =>
        {
            using IDeviceModule module = device.LoadModule(Ptx.Poke);
            IDeviceFunction poke = module.Function("poke");
            var e = CheckSession.Throws<CudaException>(() => session.Stream.Launch(poke, 1, 4096, [0]));
            CheckSession.True(!e.ContextLost && e.Message.Contains("'poke'", StringComparison.Ordinal), e.Message);
        });
        if (device.Info.Major >= 9)
        {
            session.Case("overlapping kernels see what the one before wrote", () =>
            {
                using IDeviceModule module = device.LoadModule(Ptx.Dependent);
                IDeviceFunction step = module.Function("step");
                using DeviceBuffer y = session.Upload<float>(new float[1 << 16]);
                for (int i = 0; i < 20; i++)
                    session.Stream.Launch(step, 256, 256, [Argument.Of(y.Pointer)], overlapPrevious: true);
                CheckSession.True(session.Download<float>(y, 1 << 16).All(v => v == (1 << 20) - 1), "a kernel read too early");
            });
        }
    }

    public void Time(CheckSession session)
    {
        const int launches = 500; // fewer than the driver queues before it makes the host wait
        using IDeviceModule module = session.Device.LoadModule(session.Device.Info.Major >= 9 ? Ptx.Dependent : Ptx.Poke);
        IDeviceFunction function = module.Function(session.Device.Info.Major >= 9 ? "step" : "poke");
        using DeviceBuffer y = session.Upload<float>(new float[1 << 16]);
        foreach (bool overlap in (bool[])[false, true])
        {
            string how = overlap ? "overlapping launch" : "launch";
            session.Measure($"{how}, on the device", session.Seconds(() => Launch(overlap)) / launches * 1e6, "us");
            session.Stream.Synchronize();
            long bytes = GC.GetAllocatedBytesForCurrentThread(), start = Stopwatch.GetTimestamp();
            Launch(overlap);
            double elapsed = Stopwatch.GetElapsedTime(start).TotalSeconds;
            CheckSession.Equal(bytes, GC.GetAllocatedBytesForCurrentThread(), "bytes of managed memory");
            session.Stream.Synchronize();
            session.Measure($"{how}, on the host", elapsed / launches * 1e6, "us");
        }

        void Launch(bool overlap)
        {
            for (int i = 0; i < launches; i++)
                session.Stream.Launch(function, 132, 256, [Argument.Of(y.Pointer)], overlap);
        }
    }
}
