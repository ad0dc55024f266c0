using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The modules of a device, each distinct PTX text compiled once. It owns them; dispose it before the device.</summary>
/// <param name="device">What compiles and runs them.</param>
public sealed class KernelCache(IDevice device) : IDisposable
{
    private readonly Dictionary<string, (IDeviceModule Module, IDeviceFunction Function)> _compiled = new(StringComparer.Ordinal);

    /// <summary>The device.</summary>
    public IDevice Device { get; } = device;

    /// <summary>What kernels are built for.</summary>
    public PtxTarget Target { get; } = new(device.Info.ComputeCapability, device.Info.PtxVersion, ArchitectureSpecific: device.Info.Major == 9);

    /// <summary>Compiles a kernel, unless it is there.</summary>
    /// <exception cref="DeviceException">The compiler refuses it.</exception>
    public IDeviceFunction Compile(PtxKernel kernel)
    {
        ArgumentNullException.ThrowIfNull(kernel);
        if (_compiled.TryGetValue(kernel.Text, out var known))
            return known.Function;
        IDeviceModule module = Device.LoadModule(kernel.Text);
        IDeviceFunction function = module.Function(kernel.Name, kernel.DynamicSharedBytes);
        _compiled[kernel.Text] = (module, function);
        return function;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach ((IDeviceModule module, _) in _compiled.Values)
            module.Dispose();
        _compiled.Clear();
    }
}
