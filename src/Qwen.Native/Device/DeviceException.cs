namespace Qwen.Native.Device;

/// <summary>A call on a device failed.</summary>
public class DeviceException : Exception
{
    /// <summary>A failure with its reason.</summary>
    public DeviceException(string message)
        : base(message)
    {
    }

    /// <summary>A failure with its reason and cause.</summary>
    public DeviceException(string message, Exception cause)
        : base(message, cause)
    {
    }
}

/// <summary>The device has less memory than was asked for.</summary>
/// <param name="requested">Bytes asked for.</param>
/// <param name="free">Bytes that were free.</param>
public sealed class DeviceOutOfMemoryException(long requested, long free)
    : DeviceException($"The device has no room for {requested:N0} bytes: {free:N0} are free.")
{
    /// <summary>Bytes asked for.</summary>
    public long Requested { get; } = requested;

    /// <summary>Bytes that were free.</summary>
    public long Free { get; } = free;
}
