using System.Diagnostics;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;

namespace Qwen.DeviceCheck.Checks;

/// <summary>How fast a model is loaded from the page cache: a safetensors file of a real shape, written just before. Then models that are made in memory, whose weights are brought to another form.</summary>
/// <param name="shape">Shape of the file.</param>
/// <param name="converted">Models that are made.</param>
internal sealed class LoadCheck(string shape, params string[] converted) : ICheck
{
    private const double LeastBytesPerSecond = 8e9;

    private static readonly EngineOptions Options = new() { Device = new ComputeDevice(ComputeDeviceKind.Cuda), MaxModelLength = 1024, MaxSequences = 8, MaxBatchedTokens = 512 };

    public string Name => "load";

    public void Verify(CheckSession session)
    {
    }

    public void Time(CheckSession session)
    {
        string? tokenizer = ((string[])[ModelFiles.DemoModel, Path.Combine("models", "demo")]).FirstOrDefault(f => File.Exists(Path.Combine(f, "tokenizer.json")));
        if (tokenizer is null)
        {
            session.Note("skipped: run it in the repository, where models/demo is");
            return;
        }

        session.Case($"{shape} from a file", () =>
        {
            using Checkpoint outline = Checkpoint.OpenOutline(shape);
            long bytes = outline.Tensors.Values.Sum(t => t.ByteCount);
            DirectoryInfo folder = Directory.CreateDirectory(Path.Combine(Room(bytes), $"devicecheck-{Environment.ProcessId}"));
            try
            {
                Write(outline, tokenizer, folder.FullName);
                foreach (string run in (string[])["first", "again"])
                {
                    long start = Stopwatch.GetTimestamp();
                    using LoadedModel model = LoadedModel.Load(folder.FullName, Options);
                    session.Measure($"{shape}, {bytes / 1e9:0.0} GB from the page cache, {run}", bytes / Stopwatch.GetElapsedTime(start).TotalSeconds / 1e9, "GB/s", LeastBytesPerSecond / 1e9);
                }
            }
            finally
            {
                folder.Delete(recursive: true);
            }
        });
        foreach (string model in converted)
            session.Case(model, () => Convert(session, model));
    }

    private static void Convert(CheckSession session, string path)
    {
        long loading = 0, made = 0;
        var progress = new Stages(stage =>
        {
            if (stage == "making weights")
                made = Stopwatch.GetTimestamp();
            else
                loading = Stopwatch.GetTimestamp();
        });
        using LoadedModel model = LoadedModel.Load(path, Options, progress);
        long bytes = model.Checkpoint.Tensors.Values.Sum(t => t.ByteCount);
        session.Measure($"{path}, {bytes / 1e9:0.0} GB from memory", bytes / Stopwatch.GetElapsedTime(made, loading).TotalSeconds / 1e9, "GB/s", LeastBytesPerSecond / 1e9);
    }

    /// <summary>Where there is room for so many bytes: in memory, or on a disk whose pages are cached.</summary>
    private static string Room(long bytes)
    {
        const string Memory = "/dev/shm";
        return Directory.Exists(Memory) && new DriveInfo(Memory).AvailableFreeSpace > bytes + (bytes / 8) ? Memory : Path.GetTempPath();
    }

    /// <summary>A model of an outline's shapes. Its weights are all the same noise.</summary>
    private static void Write(Checkpoint outline, string tokenizer, string folder)
    {
        byte[] noise = GC.AllocateUninitializedArray<byte>(checked((int)outline.Tensors.Values.Max(t => t.ByteCount)));
        Random.Shared.NextBytes(noise);
        var writer = new SafeTensorsWriter();
        foreach (Tensor tensor in outline.Tensors.Values)
            writer.Add(tensor.Name, tensor.Type, [.. tensor.Shape], noise.AsMemory(0, (int)tensor.ByteCount));
        using (FileStream file = File.Create(Path.Combine(folder, "model.safetensors")))
            writer.Write(file);
        File.WriteAllText(Path.Combine(folder, "config.json"), outline.Config!.ToJsonString());
        foreach (string name in Directory.EnumerateFiles(tokenizer, "*token*.json"))
            File.Copy(name, Path.Combine(folder, Path.GetFileName(name)));
    }

    private sealed class Stages(Action<string> note) : IProgress<LoadProgress>
    {
        public void Report(LoadProgress value) => note(value.Stage);
    }
}
