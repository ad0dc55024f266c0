using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Backends.Cuda;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Engine;

/// <summary>What computes a model: the GPU and the CPU backend, each where it's needed, opened by plan.</summary>
internal sealed class ModelDevices : IDisposable
{
    private readonly IDevice? _device;
    private readonly CpuBackend? _cpu;
    private readonly CudaBackend? _cuda;
    private readonly string? _whyNoGpu;

    /// <summary>Decides what goes where, and opens it. Weights and keys and values are not loaded yet.</summary>
    /// <exception cref="DeviceException">A GPU was asked for and there is none, or what was asked for does not fit on it.</exception>
    /// <exception cref="InvalidRequestException">The KV cache is too small for the sequences asked for.</exception>
    public ModelDevices(Checkpoint checkpoint, ModelConfig config, EngineOptions options)
    {
        try
        {
            var planner = new DevicePlanner(checkpoint, config, options);
            (_device, Plan, _whyNoGpu) = Choose(planner, options);
            if (Plan.Gpu is { } sums)
                _cuda = new CudaBackend(_device!, planner.Settings(Plan.MaxModelLength), new CudaSums(sums.Weights, sums.Workspace));
            if (Plan.GpuLayers < config.Layers || !Plan.EmbedsOnGpu)
                _cpu = new CpuBackend(options.Threads);
            Profile = options.Profile ? new OpProfile() : null;
            IBackend? cuda = Profiled(_cuda), cpu = Profiled(_cpu);
            Placement = new LayerPlacement(
                Plan.EmbedsOnGpu ? cuda! : cpu!, [.. Enumerable.Range(0, config.Layers).Select(i => i < config.Layers - Plan.GpuLayers ? cpu! : cuda!)], cuda ?? cpu!);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The sums.</summary>
    public DevicePlan Plan { get; }

    /// <summary>Which backend computes what.</summary>
    public LayerPlacement Placement { get; }

    /// <summary>How long each op took, where that was asked for.</summary>
    public OpProfile? Profile { get; }

    /// <summary>CPU threads that compute; 0 where none does.</summary>
    public int Threads => _cpu?.Threads ?? 0;

    /// <summary>What computes, for people.</summary>
    public string Name => (_cuda, _cpu) switch
    {
        ({ } cuda, { } cpu) => $"{cuda.Name} and {cpu.Name}",
        _ => _cuda?.Name ?? _cpu!.Name,
    };

    /// <summary>What was placed where, for people: one line.</summary>
    public string Description => Plan.Gpu is { } sums
        ? $"{(Plan.GpuLayers == Placement.Layers ? $"all {Plan.GpuLayers} layers" : $"the last {Plan.GpuLayers} of {Placement.Layers} layers")}{(Plan.EmbedsOnGpu ? ", embedding and output" : " and the output")} on {_cuda!.Name}: {sums}"
        : $"all {Placement.Layers} layers on {_cpu!.Name}{(_whyNoGpu is null ? "" : $"; no GPU: {_whyNoGpu}")}";

    /// <summary>What the memory gives that the output projection lies in, in bytes per second.</summary>
    public double MeasureReadBandwidth() => Placement.Runs[^1].Backend.MeasureReadBandwidth();

    /// <inheritdoc/>
    public void Dispose()
    {
        _cuda?.Dispose();
        _cpu?.Dispose();
        _device?.Dispose();
    }

    /// <summary>Plans for a GPU, if one is wanted, there, and of use; else for the CPU, and says why.</summary>
    private static (IDevice? Device, DevicePlan Plan, string? WhyNoGpu) Choose(DevicePlanner planner, EngineOptions options)
    {
        if (options.Device.Kind == ComputeDeviceKind.Cpu || options.GpuLayers == 0)
            return (null, planner.OnCpu(), null);
        bool isDemanded = options.Device.Kind == ComputeDeviceKind.Cuda || options.GpuLayers is not null;
        IDevice? device = null;
        try
        {
            if (planner.WhyNotOnGpu is { } reason)
                throw new DeviceException($"No GPU computes {reason}.");
            device = options.OpenDevice is { } open ? open(options.Device.Index) : CudaDevice.Open(options.Device.Index);
            return (device, planner.OnGpu(device), null);
        }
        catch (DeviceException e) when (!isDemanded)
        {
            device?.Dispose();
            return (null, planner.OnCpu(), e.Message);
        }
        catch
        {
            device?.Dispose();
            throw;
        }
    }

    private IBackend? Profiled(IBackend? backend) => backend is null || Profile is null ? backend : new ProfiledBackend(backend, Profile);
}
