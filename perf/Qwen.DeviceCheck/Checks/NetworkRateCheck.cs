using System.Diagnostics;
using System.Numerics.Tensors;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// How fast whole networks read and continue, by a host's clock: launches and the greedy choice included. Then the same through the engine, with
/// the scheduler and a reader for each answer, and what of a step is the host's. Long contexts are measured with one sequence only.
/// </summary>
/// <param name="name">The check's name.</param>
/// <param name="models">Models.</param>
/// <param name="batches">Sequences that are continued side by side.</param>
/// <param name="contexts">Tokens they hold before.</param>
/// <param name="attention">Ways that blocks of decode attention share their work, to be compared; empty for what the engine does.</param>
internal sealed class NetworkRateCheck(string name, string[] models, int[] batches, int[] contexts, DecodeTiling[] attention) : ICheck
{
    private const int Steps = 40, MostTokens = 160 * 1024;
    private const double MostHostMicroseconds = 200;

    public string Name => name;

    public void Verify(CheckSession session)
    {
    }

    public void Time(CheckSession session)
    {
        session.Note("to reach: BF16 decode at batch 1 85% of bandwidth, FP8 80%, 4 bits 75%; prefill 75% of the operation rate; 80% of the roofline at batch 32 and 256");
        foreach (string model in models)
        {
            if (attention.Length == 0)
                session.Case(model, () => Measure(session, model, new EngineOptions()));
            foreach (DecodeTiling tiling in attention)
            {
                session.Note($"decode attention {tiling}:");
                session.Case($"{model}, attention {tiling}", () => Measure(session, model, new EngineOptions { AttentionTiling = tiling }));
            }
        }
    }

    private void Measure(CheckSession session, string path, EngineOptions options)
    {
        int longest = contexts.Max() + (3 * Steps);
        long start = Stopwatch.GetTimestamp();
        LoadedModel model = LoadedModel.Load(path, options with
        {
            Device = new ComputeDevice(ComputeDeviceKind.Cuda), MaxModelLength = longest, MaxSequences = batches.Max(), MaxBatchedTokens = Math.Max(8192, batches.Max()), KvCacheType = KvCacheType.F16,
        });
        using QwenEngine engine = QwenEngine.Create(model); // waits until it's asked
        session.Note($"{path}: made and loaded in {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s; {model.WeightBytesPerToken / 1e9:0.00} GB of weights; {model.BackendName}");
        var roofline = new StepRoofline(session, model);
        foreach (int context in contexts)
        {
            foreach (int batch in batches.Where(b => b == 1 || (long)b * context <= MostTokens))
                session.Case($"{path}, {batch} x {context}", () => Measure(session, model, roofline, batch, context));
        }

        foreach (int batch in attention.Length == 0 ? batches : [])
        {
            foreach ((string name, SamplingOptions how) in ((string, SamplingOptions)[])[("greedy", new() { Temperature = 0 }), ("top-k 20, top-p 0.8", new() { Temperature = 0.7, TopK = 20, TopP = 0.8, Seed = 1 })])
                session.Case($"{path}, engine, {batch} x {contexts[0]}, {name}", () => MeasureEngine(session, engine, batch, contexts[0], name, how));
        }
    }

    private static void Measure(CheckSession session, LoadedModel model, StepRoofline roofline, int batch, int context)
    {
        using var evaluator = new SequenceEvaluator(model, batch);
        int[] prompt = Prompt(new Random(3), model, context), tokens = new int[batch];
        for (int s = 0; s < batch; s++)
            tokens[s] = TensorPrimitives.IndexOfMax(evaluator.Evaluate(prompt, s));
        if (batch == 1)
        {
            evaluator.Reset(); // once more, warm
            long first = Stopwatch.GetTimestamp();
            evaluator.Evaluate(prompt);
            double seconds = Stopwatch.GetElapsedTime(first).TotalSeconds, operations = roofline.PrefillOperations(context);
            session.Measure($"{model.Name}, prefill of {context}", context / seconds, "tokens/s", context / roofline.Prefill(context));
            session.Measure($"{model.Name}, prefill of {context}", operations / seconds / 1e12, "TFLOP/s", operations / roofline.Prefill(context) / 1e12);
        }

        double[] times = new double[Steps];
        for (int i = 0; i < Steps; i++)
        {
            long step = Stopwatch.GetTimestamp();
            evaluator.AdvanceGreedily(tokens);
            times[i] = Stopwatch.GetElapsedTime(step).TotalSeconds;
        }

        Array.Sort(times);
        double median = times[Steps / 2], middle = context + (Steps / 2.0), bytes = model.WeightBytesPerToken + (model.KvBytesPerToken * batch * middle);
        session.Measure($"{model.Name}, decode {batch} x {context}", batch / median, "tokens/s", batch / roofline.Decode(batch, middle));
        session.Measure($"{model.Name}, decode {batch} x {context}", bytes / median / 1e9, "GB/s", session.CopyBandwidth / 1e9);
    }

    /// <summary>Requests side by side: from when all are in their answers, the engine's own account of some steps.</summary>
    private static void MeasureEngine(CheckSession session, QwenEngine engine, int batch, int context, string name, SamplingOptions how)
    {
        var random = new Random(batch);
        SamplingOptions sampling = how with { MaxTokens = 3 * Steps, IgnoreEos = true };
        using var cancellation = new CancellationTokenSource();
        EngineStatistics before = engine.Statistics;
        Task[] answers = [.. Enumerable.Range(0, batch).Select(_ => ReadAsync(engine.GenerateAsync(Prompt(random, engine.Model, context), sampling, cancellation: cancellation.Token)))];
        EngineStatistics start = WaitFor(s => s.Waiting == 0 && s.Running == batch && s.Decode.Steps >= before.Decode.Steps + 5), end;
        long begin;
        do
        {
            (start, begin) = (engine.Statistics, Stopwatch.GetTimestamp());
            end = WaitFor(s => s.Decode.Steps >= start.Decode.Steps + Steps || s.Mixed.Steps > start.Mixed.Steps || s.Prefill.Steps > start.Prefill.Steps);
        }
        while (end.Mixed.Steps > start.Mixed.Steps || end.Prefill.Steps > start.Prefill.Steps); // prompts were still being read
        double seconds = Stopwatch.GetElapsedTime(begin).TotalSeconds, steps = end.Decode.Steps - start.Decode.Steps;
        cancellation.Cancel();
        Task.WhenAll(answers).Wait();
        string label = $"{engine.Model.Name}, engine {batch} x {context}, {name}";
        session.Measure(label, (end.GeneratedTokens - start.GeneratedTokens) / seconds, "tokens/s");
        session.Measure($"{label}: host a step", (seconds - (end.Decode.Waited - start.Decode.Waited).TotalSeconds) / steps * 1e6, "us", MostHostMicroseconds);

        EngineStatistics WaitFor(Func<EngineStatistics, bool> condition)
        {
            while (true)
            {
                EngineStatistics now = engine.Statistics;
                if (condition(now))
                    return now;
                if (answers.FirstOrDefault(a => a.IsCompleted) is { } ended)
                    throw new CheckFailedException($"an answer ended early: {ended.Exception?.Message}");
                Thread.Sleep(1);
            }
        }

        static async Task ReadAsync(IAsyncEnumerable<GenerationChunk> answer)
        {
            try
            {
                await foreach (GenerationChunk _ in answer.ConfigureAwait(false))
                {
                }
            }
            catch (OperationCanceledException)
            {
            }
        }
    }

    private static int[] Prompt(Random random, LoadedModel model, int tokens) => [.. Enumerable.Range(0, tokens).Select(_ => random.Next(model.Config.VocabularySize))];
}
