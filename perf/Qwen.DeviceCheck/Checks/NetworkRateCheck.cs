using System.Diagnostics;
using System.Numerics.Tensors;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;

namespace Qwen.DeviceCheck.Checks;

/// <summary>How fast whole networks read and continue, by a host's clock: launches and the greedy choice included.</summary>
/// <param name="models">Models.</param>
/// <param name="batches">Sequences that are continued side by side.</param>
/// <param name="contexts">Tokens they hold before.</param>
/// <param name="prefetches">MiB of weights brought into L2 beside attention, to be compared; empty for what the engine does.</param>
internal sealed class NetworkRateCheck(string[] models, int[] batches, int[] contexts, int[] prefetches) : ICheck
{
    private const int Steps = 40;

    public string Name => "network rate";

    public void Verify(CheckSession session)
    {
    }

    public void Time(CheckSession session)
    {
        foreach (string model in models)
        {
            if (prefetches.Length == 0)
                session.Case(model, () => Measure(session, model, new EngineOptions()));
            foreach (int prefetch in prefetches)
            {
                session.Note($"{prefetch} MiB of weights prefetched:");
                session.Case($"{model}, prefetch {prefetch}", () => Measure(session, model, new EngineOptions { PrefetchBytes = (long)prefetch << 20 }));
            }
        }
    }

    private void Measure(CheckSession session, string path, EngineOptions options)
    {
        int longest = contexts.Max() + (2 * Steps);
        long start = Stopwatch.GetTimestamp();
        using LoadedModel model = LoadedModel.Load(path, options with { Device = new ComputeDevice(ComputeDeviceKind.Cuda), MaxModelLength = longest, MaxSequences = batches.Max(), MaxBatchedTokens = Math.Max(8192, batches.Max()), KvCacheType = KvCacheType.F16 });
        session.Note($"{path}: made and loaded in {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s; {model.WeightBytesPerToken / 1e9:0.00} GB of weights; {model.BackendName}");
        foreach (int context in contexts)
        {
            foreach (int batch in batches)
                session.Case($"{path}, {batch} x {context}", () => Measure(session, model, batch, context));
        }
    }

    private static void Measure(CheckSession session, LoadedModel model, int batch, int context)
    {
        using var evaluator = new SequenceEvaluator(model, batch);
        var random = new Random(3);
        int[] prompt = [.. Enumerable.Range(0, context).Select(_ => random.Next(model.Config.VocabularySize))];
        int[] tokens = new int[batch];
        for (int s = 0; s < batch; s++)
            tokens[s] = TensorPrimitives.IndexOfMax(evaluator.Evaluate(prompt, s));
        if (batch == 1)
        {
            evaluator.Reset(); // once more, warm
            long first = Stopwatch.GetTimestamp();
            evaluator.Evaluate(prompt);
            session.Measure($"{model.Name}, prefill of {context}", context / Stopwatch.GetElapsedTime(first).TotalSeconds, "tokens/s");
        }

        double[] times = new double[Steps];
        for (int i = 0; i < Steps; i++)
        {
            long step = Stopwatch.GetTimestamp();
            evaluator.AdvanceGreedily(tokens);
            times[i] = Stopwatch.GetElapsedTime(step).TotalSeconds;
        }

        Array.Sort(times);
        double median = times[Steps / 2], bytes = model.WeightBytesPerToken + ((double)model.KvBytesPerToken * batch * (context + (Steps / 2.0)));
        session.Measure($"{model.Name}, decode {batch} x {context}", batch / median, "tokens/s");
        session.Measure($"{model.Name}, decode {batch} x {context}", bytes / median / 1e9, "GB/s", session.CopyBandwidth / 1e9);
    }
}
