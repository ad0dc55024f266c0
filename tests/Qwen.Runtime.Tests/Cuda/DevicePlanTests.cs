using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>What goes where: sums are kept to, what does not fit is refused or goes to the CPU, and nothing is left behind.</summary>
public sealed class DevicePlanTests
{
    private static readonly EngineOptions Options = new() { MaxSequences = 4, MaxBatchedTokens = 32, MaxModelLength = 256, Threads = 1 };

    [Theory]
    [InlineData(null, 4)]
    [InlineData(4, 4)]
    [InlineData(int.MaxValue, 4)]
    [InlineData(1, 1)]
    [InlineData(3, 3)]
    public void SumsAreWhatIsTaken(int? asked, int layers)
    {
        using var device = new EmulatedDevice();
        using (LoadedModel model = Load(device, Options with { GpuLayers = asked, KvCacheType = KvCacheType.Int8 }))
        {
            Assert.Equal(model.GpuMemory!.Total, device.Info.MemoryBytes - device.FreeMemory);
            Assert.InRange(model.GpuMemory.Total, 1, model.GpuMemory.Budget);
            Assert.Contains(layers == 4 ? "all 4 layers, embedding and output on cuda" : $"the last {layers} of 4 layers and the output on cuda", model.Placement, StringComparison.Ordinal);
        }

        Assert.Equal(device.Info.MemoryBytes, device.FreeMemory);
    }

    [Fact]
    public void Auto_TakesAsManyLayersAsFit()
    {
        long previous = long.MaxValue;
        var counts = new HashSet<int>();
        for (long bytes = 15 << 20; bytes > 3 << 20; bytes -= 512 << 10)
        {
            using var device = new EmulatedDevice(EmulatedDevice.Describe(90, memoryBytes: bytes));
            using LoadedModel model = Load(device, Options);
            int layers = int.Parse(model.Placement.Split(' ').First(w => w.All(char.IsAsciiDigit)));
            if (model.GpuMemory is null)
            {
                Assert.Contains("no GPU", model.Placement, StringComparison.Ordinal);
                layers = 0;
            }
            else
            {
                Assert.InRange(model.GpuMemory.Total, 1, (long)(bytes * Options.GpuMemoryUtilization));
            }

            Assert.InRange(layers, 0, previous);
            previous = layers;
            counts.Add(layers);
            Assert.Equal(256, model.MaxModelLength);
        }

        Assert.Superset(new HashSet<int> { 0, 1, 2, 3, 4 }, counts);
    }

    [Fact]
    public void WhatDoesNotFit_IsRefusedWithItsSums_BeforeAnythingIsTaken()
    {
        using var device = new EmulatedDevice(EmulatedDevice.Describe(90, memoryBytes: 6 << 20));
        var error = Assert.Throws<DeviceException>(() => Load(device, Options with { GpuLayers = int.MaxValue }));
        Assert.Matches(@"All 4 layers do not fit on the GPU: weights [\d,]+ \+ workspace [\d,]+ \+ keys and values [\d,]+ = [\d,]+ bytes of [\d,]+\.", error.Message);
        Assert.Equal(device.Info.MemoryBytes, device.FreeMemory);
    }

    [Fact]
    public void NoGpu_IsTheCpu_UnlessItIsDemanded()
    {
        EngineOptions options = Options with { OpenDevice = _ => throw new DeviceException("the driver is missing") };
        using (LoadedModel model = LoadedModel.Load(Repository.DemoModel, options))
            Assert.EndsWith("; no GPU: the driver is missing", model.Placement, StringComparison.Ordinal);
        foreach (EngineOptions demanding in (EngineOptions[])[options with { Device = new ComputeDevice(ComputeDeviceKind.Cuda) }, options with { GpuLayers = 1 }])
            Assert.Contains("the driver is missing", Assert.Throws<DeviceException>(() => LoadedModel.Load(Repository.DemoModel, demanding)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void WhatNoKernelComputes_IsTheCpus_UnlessAGpuIsDemanded()
    {
        using var device = new EmulatedDevice();
        using (LoadedModel model = Load(device, Options with { BlockSize = 12 }))
            Assert.Contains("blocks of 12 tokens", model.Placement, StringComparison.Ordinal);
        Assert.Throws<DeviceException>(() => Load(device, Options with { BlockSize = 12, Device = new ComputeDevice(ComputeDeviceKind.Cuda) }));
    }

    [Fact]
    public void TheCache_IsWhatWasAskedFor()
    {
        using var device = new EmulatedDevice();
        using (LoadedModel model = Load(device, Options with { KvCacheBytes = 1 << 20 }))
            Assert.Equal((1 << 20) / (model.KvBytesPerToken * 16), model.KvBlocks);
        using (LoadedModel model = Load(device, Options)) // as much as the sequences can use
            Assert.Equal(4 * 256 / 16, model.KvBlocks);
        Assert.Throws<InvalidRequestException>(() => Load(device, Options with { KvCacheBytes = 1 << 16 }));
    }

    /// <summary>Each op is timed where profiling is on: nothing is captured, on either device.</summary>
    [Fact]
    public void Profiles_HaveEveryOp()
    {
        using var device = new EmulatedDevice();
        using LoadedModel model = Load(device, Options with { GpuLayers = 3, Profile = true });
        using var evaluator = new SequenceEvaluator(model);
        for (int i = 0; i < 3; i++)
            evaluator.Evaluate([i]);
        OpTimes attention = Assert.Single(model.Profile!.Ops, o => o.Name == "Attention");
        Assert.Equal(3 * 4, attention.Calls);
        Assert.Contains(model.Profile.Ops, o => o.Name.StartsWith("GatedLinear [1536, 256]", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("auto", ComputeDeviceKind.Auto, 0)]
    [InlineData("cpu", ComputeDeviceKind.Cpu, 0)]
    [InlineData("cuda", ComputeDeviceKind.Cuda, 0)]
    [InlineData("cuda:3", ComputeDeviceKind.Cuda, 3)]
    public void Devices_AreRead(string text, ComputeDeviceKind kind, int index) => Assert.Equal(new ComputeDevice(kind, index), ComputeDevice.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("gpu")]
    [InlineData("cuda:")]
    [InlineData("cuda:-1")]
    [InlineData("cuda:99999999999")]
    public void OtherDevices_AreRefused(string text) => Assert.Throws<FormatException>(() => ComputeDevice.Parse(text));

    [Fact]
    public void ALoadThatFails_LeavesNothing()
    {
        string folder = Directory.CreateTempSubdirectory("qwen-damaged-").FullName;
        try
        {
            foreach (string file in Directory.GetFiles(Repository.DemoModel))
                File.Copy(file, Path.Combine(folder, Path.GetFileName(file)));
            using (Checkpoint demo = Checkpoint.Open(Repository.DemoModel))
            {
                var writer = new SafeTensorsWriter();
                foreach (Tensor tensor in demo.Tensors.Values.Where(t => t.Name != "model.norm.weight"))
                    writer.Add(tensor.Name, tensor.Type, tensor.Shape.AsSpan(), tensor.Bytes.ToArray());
                using FileStream file = File.Create(Path.Combine(folder, "model.safetensors"));
                writer.Write(file);
            }

            using var device = new EmulatedDevice();
            Assert.Throws<ModelFormatException>(() => LoadedModel.Load(folder, Options with { OpenDevice = _ => new Lent(device) }));
            using var stopped = new CancellationTokenSource();
            Assert.Throws<OperationCanceledException>(() => LoadedModel.Load(
                Repository.DemoModel, Options with { OpenDevice = _ => new Lent(device) }, new Stopper(stopped), stopped.Token));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static LoadedModel Load(EmulatedDevice device, EngineOptions options) => LoadedModel.Load(Repository.DemoModel, options with { OpenDevice = _ => new Lent(device) });

    private sealed class Stopper(CancellationTokenSource source) : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value)
        {
            if (value.Fraction > 0.5)
                source.Cancel();
        }
    }

    /// <summary>A device that outlives the model, so that it can be looked at afterwards; its own disposal throws where something leaked.</summary>
    private sealed class Lent(EmulatedDevice device) : IDevice
    {
        public DeviceInfo Info => device.Info;

        public long FreeMemory => device.FreeMemory;

        public DeviceBuffer Allocate(long bytes) => device.Allocate(bytes);

        public PinnedBuffer AllocatePinned(long bytes) => device.AllocatePinned(bytes);

        public IDeviceModule LoadModule(string ptx) => device.LoadModule(ptx);

        public IDeviceStream CreateStream() => device.CreateStream();

        public IDeviceEvent CreateEvent() => device.CreateEvent();

        public bool Supports(in MatmulShape shape) => device.Supports(shape);

        public IMatmul CreateMatmul(in MatmulShape shape) => device.CreateMatmul(shape);

        public void Dispose()
        {
        }
    }
}
