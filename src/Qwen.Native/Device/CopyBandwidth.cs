namespace Qwen.Native.Device;

/// <summary>What a device's memory gives: the measure that every memory-bound kernel is held against.</summary>
public static class CopyBandwidth
{
    private const long MostBytes = 1L << 30;
    private const int Repeats = 5;

    /// <summary>Copies a buffer within the device, 1 GiB or a quarter of what is free, and takes the best of a few tries.</summary>
    /// <returns>Bytes read and written, a second.</returns>
    /// <exception cref="DeviceException">There is no room, or the device failed.</exception>
    public static double Measure(IDevice device)
    {
        long bytes = Math.Min(MostBytes, Math.Max(device.FreeMemory / 4, 1 << 20));
        using DeviceBuffer from = device.Allocate(bytes), to = device.Allocate(bytes);
        using IDeviceStream stream = device.CreateStream();
        using IDeviceEvent start = device.CreateEvent(), end = device.CreateEvent();
        stream.Fill(from.Pointer, 1, bytes);
        stream.Copy(to.Pointer, from.Pointer, bytes);
        float best = float.PositiveInfinity;
        for (int i = 0; i < Repeats; i++)
        {
            stream.Record(start);
            stream.Copy(to.Pointer, from.Pointer, bytes);
            stream.Record(end);
            end.Synchronize();
            best = Math.Min(best, end.MillisecondsSince(start));
        }

        return 2.0 * bytes / (best * 1e-3);
    }
}
