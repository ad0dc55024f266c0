using Qwen.Native.Device;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Where weights go while they're loaded: device memory from an arena, by way of staging; or, where a model is only measured, nowhere.</summary>
/// <param name="device">The device.</param>
/// <param name="type">The backend's type: F16 or BF16.</param>
/// <param name="rows">Most rows of activations.</param>
/// <param name="weights">Where they lie.</param>
/// <param name="staging">What copies them; null to measure.</param>
internal sealed class CudaLoader(IDevice device, ElementType type, int rows, DeviceArena weights, PinnedStaging? staging)
{
    public IDevice Device { get; } = device;

    public ElementType Type { get; } = type;

    public int Rows { get; } = rows;

    public PinnedStaging? Staging { get; } = staging;

    /// <summary>Bytes that the largest packed weights take when they are unpacked.</summary>
    public long UnpackedBytes { get; private set; }

    /// <summary>Bytes that products need to bring their inputs to another form.</summary>
    public long InputBytes { get; private set; }

    public DevicePointer Take(long bytes) => weights.Take(bytes);

    public DevicePointer Upload<T>(ReadOnlySpan<T> values)
        where T : unmanaged
    {
        DevicePointer to = Take((long)values.Length * System.Runtime.CompilerServices.Unsafe.SizeOf<T>());
        Staging?.Upload(to, values);
        return to;
    }

    public void ReserveInputs(long bytes) => InputBytes = Math.Max(InputBytes, bytes);

    public void ReserveUnpacked(long bytes) => UnpackedBytes = Math.Max(UnpackedBytes, bytes);
}
