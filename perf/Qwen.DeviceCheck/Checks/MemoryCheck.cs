using Qwen.Native.Device;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Copies of odd sizes at odd addresses, memory's return, threads, events, and running out.</summary>
internal sealed unsafe class MemoryCheck : ICheck
{
    public string Name => "memory";

    public void Verify(CheckSession session)
    {
        IDevice device = session.Device;
        IDeviceStream stream = session.Stream;
        var random = new Random(1);
        foreach (int bytes in (int[])[1, 255, 4096, 1_000_003])
        {
            session.Case($"pinned copy there and back, {bytes} bytes", () =>
            {
                using DeviceBuffer a = device.Allocate(bytes + 8), b = device.Allocate(bytes + 8);
                using PinnedBuffer from = device.AllocatePinned(bytes), to = device.AllocatePinned(bytes);
                random.NextBytes(new Span<byte>(from.Pointer, bytes));
                stream.Fill(b.Pointer, 0xAB, bytes + 8);
                stream.CopyToDevice(a.Pointer + 3, from.Pointer, bytes);
                stream.Copy(b.Pointer + 5, a.Pointer + 3, bytes);
                stream.CopyToHost(to.Pointer, b.Pointer + 5, bytes);
                stream.Synchronize();
                CheckSession.True(new Span<byte>(from.Pointer, bytes).SequenceEqual(new Span<byte>(to.Pointer, bytes)), "bytes differ");
                byte[] whole = session.Download<byte>(b, bytes + 8);
                CheckSession.True(whole.AsSpan(0, 5).IndexOfAnyExcept((byte)0xAB) < 0 && whole.AsSpan(bytes + 5).IndexOfAnyExcept((byte)0xAB) < 0, "bytes beside the copy changed");
            });
        }

        session.Case("addresses are multiples of 256", () =>
        {
            using DeviceBuffer a = device.Allocate(1), b = device.Allocate(1);
            CheckSession.Equal(0UL, (a.Pointer.Address | b.Pointer.Address) & 255);
        });
        session.Case("freed memory comes back", () =>
        {
            long before = device.FreeMemory;
            using (device.Allocate(1L << 30))
                CheckSession.True(device.FreeMemory <= before - (1L << 30), "an allocation takes no memory");
            CheckSession.True(device.FreeMemory >= before - (1L << 28), "freed memory is not free"); // others may have taken some
        });
        session.Case("out of memory says how much", () =>
        {
            var e = CheckSession.Throws<DeviceOutOfMemoryException>(() => device.Allocate(device.Info.MemoryBytes * 2).Dispose());
            CheckSession.Equal(device.Info.MemoryBytes * 2, e.Requested);
            CheckSession.True(e.Free > 0 && e.Free <= device.Info.MemoryBytes, e.Message);
            session.Note(e.Message);
            using DeviceBuffer after = device.Allocate(1 << 20); // the device lives on
        });
        session.Case("another thread can call", () =>
        {
            Exception? fault = null;
            var thread = new Thread(() =>
            {
                try
                {
                    using DeviceBuffer buffer = device.Allocate(1 << 20);
                    stream.Fill(buffer.Pointer, 7, buffer.ByteCount);
                    stream.Synchronize();
                }
                catch (DeviceException e)
                {
                    fault = e;
                }
            });
            thread.Start();
            thread.Join();
            CheckSession.True(fault is null, fault?.Message ?? "");
        });
        session.Case("events order streams", () =>
        {
            const int bytes = 64 << 20;
            using IDeviceStream other = device.CreateStream();
            using IDeviceEvent mark = device.CreateEvent();
            using DeviceBuffer a = device.Allocate(bytes), b = device.Allocate(bytes);
            CheckSession.True(mark.IsDone, "an event that was never recorded is not done");
            for (byte round = 1; round <= 20; round++)
            {
                stream.Fill(a.Pointer, round, bytes);
                stream.Record(mark);
                other.Wait(mark);
                other.Copy(b.Pointer, a.Pointer, bytes);
                other.Synchronize();
                CheckSession.True(mark.IsDone, "the event is not done after what waits for it");
                CheckSession.True(session.Download<byte>(b, bytes).AsSpan().IndexOfAnyExcept(round) < 0, $"round {round}: the copy came before the fill");
            }
        });
    }

    public void Time(CheckSession session)
    {
    }
}
