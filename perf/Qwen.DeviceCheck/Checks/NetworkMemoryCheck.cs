using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;

namespace Qwen.DeviceCheck.Checks;

/// <summary>What a network takes of the device is what was planned; steps, as many as a few seconds allow, take no more; and the same batch gives the same bits.</summary>
/// <param name="models">Models: one of each way of multiplying.</param>
internal sealed class NetworkMemoryCheck(params string[] models) : ICheck
{
    private const int Sequences = 8, PromptTokens = 300, Longest = 2048, Compared = 8;
    private const double MostDeviation = 0.02;
    private const long CacheBytes = 1L << 30, MostHeapGrowth = 1 << 20;

    private static readonly TimeSpan Run = TimeSpan.FromSeconds(4);

    public string Name => "network memory";

    public void Verify(CheckSession session)
    {
        session.OperationRate(Native.Device.ElementType.BF16); // the library's own memory is taken, once a process, and not the network's
        foreach (string model in models)
            session.Case(model, () => Check(session, model));
    }

    public void Time(CheckSession session)
    {
    }

    private static void Check(CheckSession session, string path)
    {
        long before = session.Device.FreeMemory;
        using LoadedModel model = LoadedModel.Load(path, new EngineOptions
        {
            Device = new ComputeDevice(ComputeDeviceKind.Cuda), MaxModelLength = Longest, MaxSequences = Sequences, MaxBatchedTokens = 2048, KvCacheBytes = CacheBytes, KvCacheType = KvCacheType.F16,
        });
        GpuSums planned = model.GpuMemory!;
        long loaded = before - session.Device.FreeMemory;
        session.Note($"{path}: {planned}; the driver says {loaded:N0} ({(double)loaded / planned.Total:P2})");

        byte[] first = Hash(model), second = Hash(model); // runs as they are, captures, and replays: the second time all is replayed
        Decode(model, TimeSpan.FromSeconds(0.5)); // what chooses tokens is compiled
        long warm = session.Device.FreeMemory, heap = GC.GetTotalMemory(forceFullCollection: true);
        (int steps, long allocated) = Decode(model, Run);
        long grown = warm - session.Device.FreeMemory, heapGrown = GC.GetTotalMemory(forceFullCollection: true) - heap;
        session.Note($"{path}: kernels, graphs and the library take {before - warm - loaded:N0} bytes beside that; {steps:N0} steps took {grown:N0} bytes of the device, {heapGrown:N0} of the heap, and allocated {(double)allocated / steps:0.0} bytes a step");
        CheckSession.True(Math.Abs(loaded - planned.Total) <= MostDeviation * planned.Total, $"{loaded:N0} bytes were taken, {planned.Total:N0} planned: more than {MostDeviation:P0} apart");
        CheckSession.True(first.AsSpan().SequenceEqual(second), "the same batch gave other logits when it ran again");
        CheckSession.True(grown <= 0, $"{grown:N0} bytes of the device were taken by steps");
        CheckSession.True(heapGrown <= MostHeapGrowth, $"the heap grew by {heapGrown:N0} bytes");
    }

    /// <summary>A hash of all logits of prompts, read together and continued.</summary>
    private static byte[] Hash(LoadedModel model)
    {
        using var evaluator = new SequenceEvaluator(model, Sequences);
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var random = new Random(5);
        int[] tokens = new int[Sequences];
        for (int s = 0; s < Sequences; s++)
        {
            int[] prompt = [.. Enumerable.Range(0, PromptTokens).Select(_ => random.Next(model.Config.VocabularySize))];
            hash.AppendData(MemoryMarshal.AsBytes(evaluator.Evaluate(prompt, s)));
            tokens[s] = random.Next(model.Config.VocabularySize);
        }

        for (int step = 0; step < Compared; step++)
        {
            evaluator.Advance(tokens);
            for (int s = 0; s < Sequences; s++)
            {
                hash.AppendData(MemoryMarshal.AsBytes(evaluator.Logits(s)));
                tokens[s] = random.Next(model.Config.VocabularySize);
            }
        }

        return hash.GetHashAndReset();
    }

    /// <summary>Steps for a while, over and over to the longest context; how many, and what they allocated on this thread.</summary>
    private static (int Steps, long Allocated) Decode(LoadedModel model, TimeSpan time)
    {
        using var evaluator = new SequenceEvaluator(model, Sequences);
        int[] tokens = new int[Sequences];
        int steps = 0;
        long start = Stopwatch.GetTimestamp(), allocated = GC.GetAllocatedBytesForCurrentThread();
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            if (evaluator.Position == Longest)
                evaluator.Reset();
            evaluator.AdvanceGreedily(tokens);
            steps++;
        }

        return (steps, GC.GetAllocatedBytesForCurrentThread() - allocated);
    }
}
