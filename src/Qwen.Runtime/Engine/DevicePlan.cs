using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Backends.Cuda;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Engine;

/// <summary>What of a model goes where, and how large its KV cache is: decided from sums, before anything is allocated.</summary>
/// <param name="GpuLayers">How many of the last layers the GPU computes, with the output; 0 for none.</param>
/// <param name="EmbedsOnGpu">The GPU has the embedding, too.</param>
/// <param name="KvBlocks">Blocks of the KV cache.</param>
/// <param name="MaxModelLength">Longest sequence.</param>
/// <param name="KvBytesPerToken">Bytes of keys and values of one token, over all layers.</param>
/// <param name="Gpu">What is allocated on the GPU; null where nothing is.</param>
internal sealed record DevicePlan(int GpuLayers, bool EmbedsOnGpu, int KvBlocks, int MaxModelLength, long KvBytesPerToken, GpuSums? Gpu);

/// <summary>Bytes on a GPU.</summary>
/// <param name="Weights">Weights.</param>
/// <param name="Workspace">Activations and what kernels work in.</param>
/// <param name="Cache">Keys and values, and the table of rotary angles.</param>
/// <param name="Budget">What the three may be together.</param>
public sealed record GpuSums(long Weights, long Workspace, long Cache, long Budget)
{
    /// <summary>All three.</summary>
    public long Total => Weights + Workspace + Cache;

    /// <inheritdoc/>
    public override string ToString() => $"weights {Weights:N0} + workspace {Workspace:N0} + keys and values {Cache:N0} = {Total:N0} bytes of {Budget:N0}";
}

/// <summary>Makes the plan of a model.</summary>
/// <param name="checkpoint">The model.</param>
/// <param name="config">Its shape.</param>
/// <param name="options">What was asked for.</param>
internal sealed class DevicePlanner(Checkpoint checkpoint, ModelConfig config, EngineOptions options)
{
    private const long MostDefaultCpuCache = 4L << 30;

    // Beside the sums: modules, graphs, the matrix library's own memory, staging while weights load.
    private const long Reserve = 256L << 20;

    // Layers go to the CPU rather than that a sequence of this length has no room.
    private const int LeastDefaultLength = 4096;

    private int Length => options.MaxModelLength ?? config.ScaledContext;

    private long UsefulBlocks => (((long)Length + options.BlockSize - 1) / options.BlockSize) * options.MaxSequences;

    /// <summary>All on the CPU.</summary>
    /// <exception cref="InvalidRequestException">The KV cache is too small for the sequences asked for.</exception>
    public DevicePlan OnCpu()
    {
        long bytesPerToken = CpuBackend.KvBytesPerToken(config, options.KvCacheType);
        return Finish(new DevicePlan(0, false, CpuBlocks(bytesPerToken * options.BlockSize), 0, bytesPerToken, null), options.KvCacheBytes ?? CpuCacheBytes);
    }

    /// <summary>Why no GPU computes the model; null where one can.</summary>
    public string? WhyNotOnGpu => Settings(Length).WhyNot;

    /// <summary>What the CUDA backend is made for.</summary>
    /// <param name="maxPositions">Longest sequence.</param>
    public CudaSettings Settings(int maxPositions) => CudaSettings.Of(checkpoint, config, options, maxPositions);

    /// <summary>As much on a GPU as fits, or as was asked for.</summary>
    /// <exception cref="DeviceException">That does not fit, or nothing does.</exception>
    /// <exception cref="InvalidRequestException">The KV cache is too small for the sequences asked for.</exception>
    public DevicePlan OnGpu(IDevice device)
    {
        long used = device.Info.MemoryBytes - device.FreeMemory;
        long budget = Math.Min((long)(device.Info.MemoryBytes * options.GpuMemoryUtilization) - used, device.FreeMemory) - Math.Min(Reserve, device.Info.MemoryBytes / 16);
        CudaSettings settings = Settings(Length);
        bool embeds = CanEmbed();
        long head = Measure(device, settings, config.Layers, 0, false, true).Weights;
        long[] layers = [.. Enumerable.Range(0, config.Layers).Select(i => Measure(device, settings, i, 1, false, false).Weights)];
        CudaSums whole = Measure(device, settings, 0, config.Layers, embeds, true), part = Measure(device, settings, config.Layers - 1, 1, false, true);

        int most = Math.Min(options.GpuLayers ?? config.Layers, config.Layers), least = options.GpuLayers is null ? 1 : most;
        for (int count = most; ; count--)
        {
            bool all = count == config.Layers;
            long weights = all ? whole.Weights : head + layers[^count..].Sum(), workspace = all ? whole.Workspace : part.Workspace;
            long needed = Math.Max(Math.Min(Blocks(options.MaxModelLength ?? Math.Min(Length, LeastDefaultLength)), AskedBlocks(count)), 1);
            long blocks = GpuBlocks(count, budget - weights - workspace);
            if (blocks >= needed)
                return Place(device, count, all && embeds, (int)blocks, budget);
            if (count == least)
                throw NoRoom(new GpuSums(weights, workspace, CudaKvCache.Bytes(Shape(count, needed)), budget), count);
        }
    }

    private DevicePlan Place(IDevice device, int count, bool embeds, int blocks, long budget)
    {
        DevicePlan plan = Finish(new DevicePlan(count, embeds, blocks, 0, BlockBytes(count) / options.BlockSize, null), options.KvCacheBytes ?? budget);
        // Once more, with the longest sequence that there is room for: tables of blocks and angles are no longer than that.
        CudaSums sums = Measure(device, Settings(plan.MaxModelLength), config.Layers - count, count, embeds, true);
        return plan with { Gpu = new GpuSums(sums.Weights, sums.Workspace, CudaKvCache.Bytes(Shape(count, plan.KvBlocks)), budget) };
    }

    /// <summary>The sums of a part of the model, found by loading it against a measure.</summary>
    private CudaSums Measure(IDevice device, CudaSettings settings, int first, int count, bool isFirst, bool isLast)
    {
        using CudaBackend measure = CudaBackend.Measure(device, settings);
        using var stage = new NetworkStage(checkpoint, config, (measure, first, count), options.MaxBatchedTokens, options.MaxLogitRows, isFirst, isLast, _ => { });
        return measure.Sums;
    }

    /// <summary>Rows of the embedding are looked up as they lie: in blocks of codes, by the CPU.</summary>
    private bool CanEmbed() => checkpoint.Tensors.Values.FirstOrDefault(t => t.Name is "model.embed_tokens.weight" or "token_embd.weight")?.Type
        is TensorType.F32 or TensorType.F16 or TensorType.BF16;

    private long Blocks(long tokens) => (tokens + options.BlockSize - 1) / options.BlockSize;

    private long CpuBlockBytes(int layers) => layers == 0 ? 0 : CpuBackend.KvBytesPerToken(config with { Layers = layers }, options.KvCacheType) * options.BlockSize;

    private long BlockBytes(int gpuLayers) => CpuBlockBytes(config.Layers - gpuLayers) + (gpuLayers * CudaKvCache.Parts(Shape(gpuLayers, 0)).Sum());

    private long AskedBlocks(int gpuLayers) => Math.Min(options.KvCacheBytes is { } bytes ? bytes / BlockBytes(gpuLayers) : long.MaxValue, UsefulBlocks);

    private static long CpuCacheBytes => Math.Min(AvailableMemory.Bytes() / 4, MostDefaultCpuCache);

    private int CpuBlocks(long blockBytes) =>
        (int)Math.Clamp(Math.Min((options.KvCacheBytes ?? CpuCacheBytes) / blockBytes, UsefulBlocks), 0, (int.MaxValue / options.BlockSize) - 1);

    /// <summary>Most blocks that a cache on the GPU has room for, that are asked for, and that the CPU has room for where it has layers too.</summary>
    private long GpuBlocks(int count, long room)
    {
        long most = Math.Min(AskedBlocks(count), (int.MaxValue / options.BlockSize) - 1), least = 0;
        if (count < config.Layers && options.KvCacheBytes is null)
            most = Math.Min(most, CpuBlocks(CpuBlockBytes(config.Layers - count)));
        while (least < most)
        {
            long middle = least + ((most - least + 1) / 2);
            (least, most) = CudaKvCache.Bytes(Shape(count, middle)) <= room ? (middle, most) : (least, middle - 1);
        }

        return least;
    }

    private KvCacheShape Shape(int layers, long blocks) => new(
        layers, config.KvHeads, config.HeadDim, options.KvCacheType, (int)blocks, options.BlockSize, new RotaryAngles([], 1, (int)Math.Min(Length, blocks * options.BlockSize)));

    private DevicePlan Finish(DevicePlan plan, long bytes)
    {
        long tokens = (long)plan.KvBlocks * options.BlockSize;
        if (tokens < Length && options.MaxModelLength is not null)
            throw new InvalidRequestException($"A sequence of {Length:N0} tokens needs {Length * plan.KvBytesPerToken:N0} bytes of KV cache; there are {bytes:N0}. Lower the maximum model length or raise the cache's memory.");
        if (plan.KvBlocks == 0)
            throw new InvalidRequestException($"One block of the KV cache takes {plan.KvBytesPerToken * options.BlockSize:N0} bytes; there are {bytes:N0}.");
        return plan with { MaxModelLength = (int)Math.Min(Length, tokens) };
    }

    private DeviceException NoRoom(GpuSums sums, int layers) => new(
        $"{(layers == config.Layers ? "All" : $"The last {layers} of")} {config.Layers} layers do not fit on the GPU: {sums}. Lower the GPU layers, the maximum model length or the number of sequences, or raise the GPU memory utilization.");
}
