namespace Qwen.Native.Device;

/// <summary>An address in device memory.</summary>
/// <param name="Address">The address; 0 for none.</param>
public readonly record struct DevicePointer(ulong Address)
{
    /// <summary>No address.</summary>
    public static DevicePointer Null => default;

    /// <summary>Whether it is no address.</summary>
    public bool IsNull => Address == 0;

    /// <summary>The address <paramref name="bytes"/> further on.</summary>
    public static DevicePointer operator +(DevicePointer pointer, long bytes) => new(checked((ulong)((long)pointer.Address + bytes)));

    /// <inheritdoc/>
    public override string ToString() => $"0x{Address:x}";
}
