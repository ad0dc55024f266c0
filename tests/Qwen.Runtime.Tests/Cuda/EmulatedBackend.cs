using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Runtime.Backends.Cuda;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>The CUDA backend for all of a model, or its last layers, on an emulated device, which sees to faults and leaks when it's disposed.</summary>
internal sealed class EmulatedBackend : IDisposable
{
    /// <summary>Opens it.</summary>
    /// <param name="checkpoint">The weights.</param>
    /// <param name="sequences">Most at once.</param>
    /// <param name="longest">Most tokens of one.</param>
    /// <param name="maxTokens">Most tokens of a step.</param>
    /// <param name="layers">How many of the last layers; all if null.</param>
    /// <param name="type">Of activations.</param>
    /// <param name="computeCapability">Of the device.</param>
    public EmulatedBackend(Checkpoint checkpoint, int sequences, int longest, int maxTokens = 160, int? layers = null, ElementType type = ElementType.BF16, int computeCapability = 90)
    {
        ModelConfig config = ModelConfig.Load(checkpoint);
        var settings = new CudaSettings(config, type, maxTokens, sequences, longest, BlockSize: 16);
        int count = layers ?? config.Layers;
        Device = new EmulatedDevice(computeCapability);
        CudaSums sums;
        using (CudaBackend measure = CudaBackend.Measure(Device, settings))
        {
            new NetworkStage(checkpoint, config, (measure, config.Layers - count, count), maxTokens, sequences, layers is null, true, _ => { }).Dispose();
            sums = measure.Sums;
        }

        Backend = new CudaBackend(Device, settings, sums);
    }

    public EmulatedDevice Device { get; }

    public CudaBackend Backend { get; }

    public void Dispose()
    {
        Backend.Dispose();
        Device.Dispose();
        Assert.Empty(Device.Faults);
    }
}
