using Qwen.Native.Device;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>One piece of device memory that is handed out from the front and given back as a whole; or the measure of one.</summary>
/// <remarks>
/// The sums of a model are found by loading it against arenas that only count. So what was planned and what is taken are the same numbers,
/// and a model that does not fit is refused before anything is allocated. One large piece also wastes no page per matrix. Between the pieces
/// is a gap that nobody writes, so that the emulated device notices a read past an end.
/// </remarks>
internal sealed class DeviceArena : IDisposable
{
    private const int Alignment = 256, Gap = 16;

    private readonly DeviceBuffer? _memory;
    private readonly DevicePointer _start;
    private readonly long _capacity;

    private DeviceArena(DeviceBuffer? memory, DevicePointer start, long capacity) => (_memory, _start, _capacity) = (memory, start, capacity);

    /// <summary>Bytes handed out.</summary>
    public long Used { get; private set; }

    /// <summary>An arena that counts.</summary>
    public static DeviceArena Measure() => new(null, new DevicePointer(Alignment), long.MaxValue);

    /// <summary>An arena of the size that was measured.</summary>
    /// <exception cref="DeviceOutOfMemoryException">There is not that much.</exception>
    public static DeviceArena Allocate(IDevice device, long bytes)
    {
        DeviceBuffer memory = device.Allocate(Math.Max(bytes, Alignment));
        return new DeviceArena(memory, memory.Pointer, memory.ByteCount);
    }

    /// <summary>The bytes that a piece takes.</summary>
    public static long Round(long bytes) => (bytes + Gap + Alignment - 1) & -Alignment;

    /// <summary>Hands out memory, aligned to 256 bytes, with undefined contents.</summary>
    public DevicePointer Take(long bytes)
    {
        long rounded = Round(bytes);
        if (rounded > _capacity - Used)
            throw new InvalidOperationException($"{bytes:N0} bytes of device memory were not planned: {Used:N0} of {_capacity:N0} are in use.");
        DevicePointer piece = _start + Used;
        Used += rounded;
        return piece;
    }

    /// <inheritdoc/>
    public void Dispose() => _memory?.Dispose();
}
