using System.CommandLine;
using Qwen.Native;
using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen inspect</c>: what a model is and needs, or what this machine has.</summary>
internal static class InspectCommand
{
    public static Command Create(Streams streams)
    {
        Option<string?> model = ModelOptions.CreatePath();
        var devices = new Option<bool>("--devices") { Description = "Shows the processors and GPUs instead." };
        var asJson = new Option<bool>("--json") { Description = "As one JSON object." };
        var command = new Command("inspect", "Shows a model's shape, types and memory; or, with --devices, what can compute.") { model, devices, asJson };
        command.SetAction(parsed => (parsed.GetValue(devices) ? Devices() : Model(ModelOptions.ReadPath(parsed.GetValue(model)) ?? ModelFiles.DemoModel))
            .WriteAsync(streams.Output, parsed.GetValue(asJson)));
        return command;
    }

    private static Facts Devices()
    {
        using var cpu = new CpuBackend();
        CudaInstallation cuda = CudaInstallation.Find();
        return new Facts
        {
            { "cpu", cpu.Name },
            { "threads", cpu.Threads },
            { "memory_bytes", GC.GetGCMemoryInfo().TotalAvailableMemoryBytes },
            { "cuda", cuda.Reason is null ? "available" : $"not available: {cuda.Reason}" },
            { "cuda_libraries", cuda.Libraries.Select(l => new Facts { { "name", l.Name }, { "version", l.Version }, { "file", l.File } }) },
            { "gpus", cuda.Gpus.Select(gpu => Gpu(gpu, cuda.Reason is null)) },
        };
    }

    /// <summary>What a GPU is, and how fast its memory is; or why that can't be measured.</summary>
    private static Facts Gpu(CudaGpu gpu, bool usable)
    {
        DeviceInfo info = gpu.Info;
        var facts = new Facts
        {
            { "index", gpu.Index },
            { "name", info.Name },
            { "compute_capability", $"{info.Major}.{info.Minor}" },
            { "ptx", $"{info.PtxVersion / 10}.{info.PtxVersion % 10}" },
            { "multiprocessors", info.Multiprocessors },
            { "l2_bytes", info.L2Bytes },
            { "memory_bytes", info.MemoryBytes },
        };
        if (!usable)
            return facts;
        try
        {
            using CudaDevice device = CudaDevice.Open(gpu.Index);
            facts.Add("free_bytes", device.FreeMemory);
            facts.Add("copy_bytes_per_second", CopyBandwidth.Measure(device));
        }
        catch (DeviceException e)
        {
            facts.Add("fault", e.Message);
        }

        return facts;
    }

    private static Facts Model(string path)
    {
        using Checkpoint checkpoint = Checkpoint.OpenOutline(path);
        ModelConfig config = ModelConfig.Load(checkpoint);
        QwenTokenizer tokenizer = ModelFiles.LoadTokenizer(checkpoint);
        long weights = checkpoint.Tensors.Values.Sum(t => t.ByteCount), perToken = CpuBackend.KvBytesPerToken(config, KvCacheType.F16);
        return new Facts
        {
            { "model", path },
            { "architecture", config.Architecture },
            { "parameters", checkpoint.Tensors.Values.Sum(t => Parameters(t, config)) },
            { "layers", config.Layers },
            { "hidden_size", config.HiddenSize },
            { "intermediate_size", config.IntermediateSize },
            { "attention", new Facts { { "query_heads", config.Heads }, { "kv_heads", config.KvHeads }, { "head_dim", config.HeadDim }, { "qk_norm", config.HasQkNorm }, { "sliding_window", config.SlidingWindow } } },
            { "vocabulary", config.VocabularySize },
            { "tied_embeddings", config.TiedEmbeddings },
            { "context", config.ScaledContext },
            { "rope", Rope(config) },
            { "tokenizer", new Facts { { "tokens", tokenizer.VocabularySize }, { "added_tokens", tokenizer.AddedTokens.Count }, { "nfc", tokenizer.Normalizes } } },
            { "quantization", Quantization(config) },
            { "tensors", Tensors(checkpoint) },
            { "memory", new Facts { { "weight_bytes", weights }, { "kv_bytes_per_token", perToken }, { "kv_bytes_of_full_context", perToken * config.ScaledContext }, { "total_bytes", weights + (perToken * config.ScaledContext) } } },
        };
    }

    /// <summary>Weights that a tensor holds: several to a word of packed codes, none in what only describes other tensors.</summary>
    private static long Parameters(Tensor tensor, ModelConfig config) => tensor.Name[(tensor.Name.LastIndexOf('.') + 1)..] switch
    {
        "weight" or "bias" => tensor.ElementCount,
        "qweight" when config.Quantization is { } quantization => tensor.ElementCount * (32 / quantization.Bits),
        _ => 0,
    };

    private static Facts Rope(ModelConfig config)
    {
        RopeScaling scaling = config.RopeScaling;
        var facts = new Facts { { "theta", config.RopeTheta }, { "scaling", scaling.Kind.ToString() } };
        if (scaling.Kind != RopeScalingKind.None)
        {
            facts.Add("factor", scaling.Factor);
            facts.Add("original_context", scaling.OriginalContext);
        }

        return facts;
    }

    /// <summary>How config.json says the linear layers are quantized; null where it does not.</summary>
    private static Facts? Quantization(ModelConfig config)
    {
        if (config.Quantization is not { } quantization)
            return null;
        var facts = new Facts { { "method", quantization.Method }, { "bits", quantization.Bits } };
        if (quantization.Kind != QuantizationKind.Float8)
            facts.Add("group_size", quantization.GroupSize < 0 ? "column" : quantization.GroupSize);
        if (quantization.Kind == QuantizationKind.Gptq)
            facts.Add("act_order", quantization.DescAct);
        if (quantization.Block is var (rows, columns))
            facts.Add("block", $"{rows}x{columns}");
        return facts;
    }

    /// <summary>How many tensors there are of each type and what they take, the most bytes first.</summary>
    private static Facts Tensors(Checkpoint checkpoint)
    {
        var facts = new Facts();
        foreach (IGrouping<TensorType, Tensor> type in checkpoint.Tensors.Values.GroupBy(t => t.Type).OrderByDescending(g => g.Sum(t => t.ByteCount)))
            facts.Add(type.Key.ToString(), new Facts { { "count", type.Count() }, { "bytes", type.Sum(t => t.ByteCount) } });
        return facts;
    }
}
