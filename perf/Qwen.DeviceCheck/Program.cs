using System.Globalization;
using Qwen.DeviceCheck;
using Qwen.DeviceCheck.Checks;
using Qwen.Native;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Backends;

// Qwen.DeviceCheck FOLDER [--device N] [--only NAME,NAME] [--models A,B] [--batches N,N] [--contexts N,N] [--attention WxS,WxS] [--carveout N] [--unverified]
// Verifies on a real GPU what a machine without one can't, and measures. Exits with 0 if all is right, 1 if something is not, 2 for wrong
// arguments, 3 where there is no GPU.
string? folder = null, only = null;
int index = 0;
bool verify = true; // --unverified: only times are wanted, of what another run has verified
string[] models = ["synthetic:qwen2.5-0.5b:bf16", "synthetic:qwen2.5-7b:bf16", "synthetic:qwen2.5-7b:fp8", "synthetic:qwen2.5-7b:awq"];
int[] batches = [1, 8, 32, 256], contexts = [512, 8192];
DecodeTiling[] attention = [];
for (int i = 0; i < args.Length; i++)
{
    if (args[i] == "--device" && i + 1 < args.Length && int.TryParse(args[i + 1], NumberStyles.None, CultureInfo.InvariantCulture, out index))
        i++;
    else if (args[i] == "--only" && i + 1 < args.Length)
        only = args[++i];
    else if (args[i] == "--models" && i + 1 < args.Length)
        models = args[++i].Split(',');
    else if (args[i] == "--batches" && i + 1 < args.Length)
        batches = Numbers(args[++i]);
    else if (args[i] == "--contexts" && i + 1 < args.Length)
        contexts = Numbers(args[++i]);
    else if (args[i] == "--attention" && i + 1 < args.Length)
        attention = [.. args[++i].Split(',').Select(t => t.Split('x')).Select(t => new DecodeTiling(Numbers(t[0])[0], Numbers(t[1])[0]))];
    else if (args[i] == "--carveout" && i + 1 < args.Length) // percent of a multiprocessor's memory that kernels ask to be shared memory; -1 leaves it to the driver
        CudaModule.SharedPercent = int.Parse(args[++i], CultureInfo.InvariantCulture);
    else if (args[i] == "--unverified")
        verify = false;
    else if (folder is null && !args[i].StartsWith('-'))
        folder = args[i];
    else
        return Usage();
}

if (folder is null)
    return Usage();

Directory.CreateDirectory(folder);
var report = new Report(folder);
foreach (CudaLibrary library in CudaInstallation.Find().Libraries)
    report.Fact(library.Name, library.File is null ? "not found" : $"{library.Version}  {library.File}");

CudaDevice device;
try
{
    device = CudaDevice.Open(index);
}
catch (DeviceException e)
{
    report.Fact("no device", e.Message);
    report.Write();
    return 3;
}

using (device)
{
    report.Fact("device", device.Info.ToString());
    report.Fact("free_memory", device.FreeMemory.ToString("N0", CultureInfo.InvariantCulture));

    const string Small = "synthetic:qwen2.5-0.5b:";
    // The CPU rounds activations to 8 bits for integer weights; the device rounds them to FP8 for FP8 weights, and its FP8 cache has no scales.
    const double Close = 0.04, Bytes = 0.12, Float8Cache = 0.3;
    var network = new NetworkCheck(
        (Small + "bf16", KvCacheType.F16, Close), (Small + "bf16", KvCacheType.F8_E4M3, Float8Cache), (Small + "bf16", KvCacheType.Int8, Bytes), (Small + "f16", KvCacheType.BF16, Close),
        (Small + "fp8", KvCacheType.F16, Bytes), (Small + "fp8-block", KvCacheType.F16, Bytes), (Small + "awq", KvCacheType.F16, Bytes), (Small + "gptq-int8", KvCacheType.F16, Bytes),
        (Small + "q4_0", KvCacheType.F16, Bytes), (Small + "q4_k_m", KvCacheType.F16, Bytes), (Small + "q8_0", KvCacheType.F16, Bytes));
    NetworkRateCheck untuned = new("untuned network rate", models, batches, contexts, attention), speed = new("network rate", models, batches, contexts, attention);
    var memory = new NetworkMemoryCheck("synthetic:qwen2.5-1.5b:bf16", "synthetic:qwen2.5-1.5b:fp8", "synthetic:qwen2.5-1.5b:awq");
    var load = new LoadCheck("synthetic:qwen2.5-7b:bf16", "synthetic:qwen2.5-1.5b:f32", "synthetic:qwen2.5-1.5b:awq", "synthetic:qwen2.5-1.5b:q4_k_m");

    // In order: what later ones build on comes first, what ends the device last.
    ICheck[] checks =
    [
        new BandwidthCheck(), new MemoryCheck(), new LaunchCheck(), new GraphCheck(), new MatmulCheck(), new MatmulRateCheck(), new DenseGemvCheck(), new DenseGemmCheck(),
        new WarpGroupCheck(), new KernelCompileCheck(), new RowKernelsCheck(), new SamplingKernelsCheck(), new AttentionCheck(), new PrefillCheck(of16Bits: true), new PrefillCheck(of16Bits: false), new PackedCheck(), new PackedGemmCheck(), new GemvLayerCheck(),
        network, new AnswersCheck(), memory, load, .. only is null ? Array.Empty<ICheck>() : [untuned], new TuneCheck(), speed, new FaultCheck(),
    ];
    using var session = new CheckSession(device, report);
    foreach (ICheck check in checks.Where(c => only is null || only.Split(',').Contains(c.Name, StringComparer.OrdinalIgnoreCase)))
    {
        bool alive = session.Run(check, verify);
        report.Write();
        if (alive)
            continue;
        if (!check.EndsDevice)
            Console.Out.WriteLine("\nThe device is lost to this process: nothing more can be checked.");
        break;
    }
}

Console.Out.WriteLine($"\n{(report.Failures == 0 ? "all is right" : $"{report.Failures} FAILED")}; results are in {folder}");
return report.Failures == 0 ? 0 : 1;

static int Usage()
{
    Console.Error.WriteLine("usage: Qwen.DeviceCheck FOLDER [--device N] [--only NAME,NAME] [--models A,B] [--batches N,N] [--contexts N,N] [--attention WxS,WxS] [--carveout N] [--unverified]");
    return 2;
}

static int[] Numbers(string text) => [.. text.Split(',').Select(n => int.Parse(n, NumberStyles.None, CultureInfo.InvariantCulture))];
