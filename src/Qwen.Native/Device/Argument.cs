namespace Qwen.Native.Device;

/// <summary>Makes the argument slots of a launch.</summary>
public static class Argument
{
    /// <summary>A pointer.</summary>
    public static ulong Of(DevicePointer pointer) => pointer.Address;

    /// <summary>A 32-bit number.</summary>
    public static ulong Of(int value) => unchecked((uint)value);

    /// <summary>A 32-bit number.</summary>
    public static ulong Of(uint value) => value;

    /// <summary>A float.</summary>
    public static ulong Of(float value) => BitConverter.SingleToUInt32Bits(value);

    /// <summary>A 64-bit number.</summary>
    public static ulong Of(ulong value) => value;
}
