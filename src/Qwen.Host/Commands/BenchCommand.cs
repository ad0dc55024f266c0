using System.CommandLine;
using System.Diagnostics;
using System.Numerics.Tensors;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary><c>qwen bench</c>: how fast one sequence is read and continued here, beside what the memory gives.</summary>
/// <remarks>
/// The network and a greedy choice, on this thread: without the queue, the sampler and the stream, whose wake-ups would blur the times
/// of a small model's steps. That is what llama-bench measures, too.
/// </remarks>
internal static class BenchCommand
{
    public static Command Create(Streams streams)
    {
        var prompt = new Option<int>("--prompt-tokens") { Description = "Tokens of the prompt.", DefaultValueFactory = _ => 512 };
        var generate = new Option<int>("--gen-tokens") { Description = "Tokens to generate; at least 2, as the first comes with the prompt.", DefaultValueFactory = _ => 64 };
        var repeat = new Option<int>("--repeat") { Description = "Runs; one more is done first, and not counted.", DefaultValueFactory = _ => 3 };
        var sequences = new Option<int>("--sequences") { Description = "Sequences that are continued side by side.", DefaultValueFactory = _ => 1 };
        var profile = new Option<bool>("--profile") { Description = "Shows how long each op of the network takes, and how fast it reads its weights." };
        var asJson = new Option<bool>("--json") { Description = "As one JSON object." };
        var model = new ModelOptions();
        var command = new Command("bench", "Measures load, prefill and decode, and the machine's read bandwidth in the same run.") { prompt, generate, repeat, sequences, profile, asJson };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            int promptTokens = AtLeast(1, "--prompt-tokens", parsed.GetValue(prompt));
            int genTokens = AtLeast(2, "--gen-tokens", parsed.GetValue(generate));
            int repeats = AtLeast(1, "--repeat", parsed.GetValue(repeat)), count = AtLeast(1, "--sequences", parsed.GetValue(sequences));
            long start = Stopwatch.GetTimestamp();
            using LoadedModel loaded = await model.LoadModelAsync(parsed, streams, cancellation, parsed.GetValue(profile)).ConfigureAwait(false);
            double loadMs = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            if (promptTokens + (long)genTokens > loaded.MaxModelLength)
                throw new ArgumentException($"--prompt-tokens {promptTokens} and --gen-tokens {genTokens} are more than the {loaded.MaxModelLength} tokens of the model's longest sequence; lower them, or raise --max-model-len.");
            if (count > loaded.Options.MaxSequences)
                throw new ArgumentException($"--sequences: {count} is more than --max-num-seqs, {loaded.Options.MaxSequences}.");
            using var evaluator = new SequenceEvaluator(loaded, count);
            var runs = new List<Run>();
            for (int i = 0; i <= repeats; i++)
            {
                await streams.NoteAsync(i == 0 ? "warming up\n" : $"run {i} of {repeats}\n").ConfigureAwait(false);
                runs.Add(Measure(loaded, evaluator, promptTokens, genTokens, cancellation));
            }

            Facts facts = Report(loaded, runs[1..], promptTokens, genTokens, count, loadMs);
            await facts.WriteAsync(streams.Output, parsed.GetValue(asJson)).ConfigureAwait(false);
            return 0;
        });
        return command;
    }

    private static Facts Report(LoadedModel model, List<Run> runs, int promptTokens, int genTokens, int sequences, double loadMs)
    {
        double[] prefill = [.. runs.Select(r => Math.Round(sequences * promptTokens / r.FirstToken, 2))];
        double[] decode = [.. runs.Select(r => Math.Round(sequences * (genTokens - 1) / r.Others, 2))];
        long peakMemory = PeakMemory(); // before the bandwidth's own buffer
        double bandwidth = model.MeasureReadBandwidth();
        // A step reads all weights once, and for each sequence the keys and values of everything before its token.
        double bytesPerToken = (model.WeightBytesPerToken / (double)sequences) + (model.KvBytesPerToken * (promptTokens + (genTokens / 2.0)));
        return new Facts
        {
            { "model", model.Path },
            { "backend", model.BackendName },
            { "threads", model.Threads },
            { "prompt_tokens", promptTokens },
            { "gen_tokens", genTokens },
            { "sequences", sequences },
            { "load_ms", Math.Round(loadMs, 1) },
            { "time_to_first_token_ms", Median(runs.Select(r => Math.Round(r.FirstToken * 1e3, 2))) },
            { "prefill_tokens_per_s", Median(prefill) },
            { "decode_tokens_per_s", Median(decode) },
            { "prefill", prefill },
            { "decode", decode },
            { "peak_rss_bytes", peakMemory },
            { "weight_bytes_per_token", model.WeightBytesPerToken },
            { "kv_bytes_per_token", model.KvBytesPerToken },
            { "read_bandwidth_bytes_per_s", (long)bandwidth },
            { "decode_bandwidth_fraction", Math.Round(Median(decode) * bytesPerToken / bandwidth, 4) },
            { "prefill_profile", runs[^1].PrefillOps },
            { "decode_profile", runs[^1].DecodeOps },
        };
    }

    /// <summary>Reads prompts of random tokens, and continues them greedily over whatever comes.</summary>
    private static Run Measure(LoadedModel model, SequenceEvaluator evaluator, int promptTokens, int genTokens, CancellationToken cancellation)
    {
        var random = new Random(1);
        int[] prompt = [.. Enumerable.Range(0, promptTokens).Select(_ => random.Next(model.Config.VocabularySize))];
        int[] tokens = new int[evaluator.Sequences];
        evaluator.Reset();
        model.Profile?.Reset();
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < tokens.Length; i++)
            tokens[i] = TensorPrimitives.IndexOfMax(evaluator.Evaluate(prompt, i));
        long first = Stopwatch.GetTimestamp();
        Facts? prefillOps = Ops(model.Profile, Stopwatch.GetElapsedTime(start, first));
        model.Profile?.Reset();
        for (int step = 1; step < genTokens; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            evaluator.AdvanceGreedily(tokens);
        }

        TimeSpan others = Stopwatch.GetElapsedTime(first);
        return new Run(Stopwatch.GetElapsedTime(start, first).TotalSeconds, others.TotalSeconds, prefillOps, Ops(model.Profile, others));
    }

    /// <summary>Each op's calls, share of the time, and bytes of weights per second; null where nothing was profiled.</summary>
    private static Facts? Ops(OpProfile? profile, TimeSpan total)
    {
        if (profile is null)
            return null;
        var facts = new Facts();
        foreach (OpTimes op in profile.Ops)
        {
            facts.Add(op.Name, new Facts
            {
                { "calls", op.Calls },
                { "us_per_call", Math.Round(op.Time.TotalMicroseconds / op.Calls, 2) },
                { "share", Math.Round(op.Time / total, 4) },
                { "weight_gb_per_s", op.Bytes == 0 ? null : Math.Round(op.Bytes / op.Time.TotalSeconds / 1e9, 2) },
            });
        }

        return facts;
    }

    private static long PeakMemory()
    {
        using var process = Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }

    private static int AtLeast(int least, string flag, int value) => value >= least ? value : throw new ArgumentException($"{flag}: {value} is less than {least}.");

    private static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return Math.Round((sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2, 3);
    }

    /// <summary>Seconds up to the first token, and for all others.</summary>
    private readonly record struct Run(double FirstToken, double Others, Facts? PrefillOps, Facts? DecodeOps);
}
