using Qwen.Native.Device;

namespace Qwen.DeviceCheck.Checks;

/// <summary>What the memory gives, within the device and across the bus; the measure of what follows.</summary>
internal sealed unsafe class BandwidthCheck : ICheck
{
    private const long BusBytes = 256L << 20;

    public string Name => "bandwidth";

    public void Verify(CheckSession session)
    {
        CheckSession.True(session.CopyBandwidth is > 1e10 and < 1e14, $"a copy rate of {session.CopyBandwidth:E2} bytes a second is none");
    }

    public void Time(CheckSession session)
    {
        session.Measure("copy within the device, read and write", session.CopyBandwidth / 1e9, "GB/s");
        using DeviceBuffer buffer = session.Device.Allocate(BusBytes);
        using PinnedBuffer pinned = session.Device.AllocatePinned(BusBytes);
        new Span<byte>(pinned.Pointer, (int)BusBytes).Fill(1);
        session.Measure("fill", BusBytes / session.Seconds(() => session.Stream.Fill(buffer.Pointer, 0, BusBytes)) / 1e9, "GB/s");
        session.Measure("pinned host to device", BusBytes / session.Seconds(() => session.Stream.CopyToDevice(buffer.Pointer, pinned.Pointer, BusBytes)) / 1e9, "GB/s");
        session.Measure("device to pinned host", BusBytes / session.Seconds(() => session.Stream.CopyToHost(pinned.Pointer, buffer.Pointer, BusBytes)) / 1e9, "GB/s");
        byte[] pageable = new byte[BusBytes];
        fixed (byte* from = pageable)
        {
            byte* source = from;
            session.Measure("pageable host to device", BusBytes / session.Seconds(() => session.Stream.CopyToDevice(buffer.Pointer, source, BusBytes), repeats: 3) / 1e9, "GB/s");
        }
    }
}
