using System.CommandLine;
using System.Diagnostics;
using System.Numerics.Tensors;
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
        var asJson = new Option<bool>("--json") { Description = "As one JSON object." };
        var model = new ModelOptions();
        var command = new Command("bench", "Measures load, prefill and decode, and the machine's read bandwidth in the same run.") { prompt, generate, repeat, asJson };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            int promptTokens = AtLeast(1, "--prompt-tokens", parsed.GetValue(prompt));
            int genTokens = AtLeast(2, "--gen-tokens", parsed.GetValue(generate));
            int repeats = AtLeast(1, "--repeat", parsed.GetValue(repeat));
            long start = Stopwatch.GetTimestamp();
            using LoadedModel loaded = await model.LoadModelAsync(parsed, streams, cancellation).ConfigureAwait(false);
            double loadMs = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
            if (promptTokens + (long)genTokens > loaded.MaxModelLength)
                throw new ArgumentException($"--prompt-tokens {promptTokens} and --gen-tokens {genTokens} are more than the {loaded.MaxModelLength} tokens of the model's longest sequence; lower them, or raise --max-model-len.");
            using var evaluator = new SequenceEvaluator(loaded);
            var runs = new List<Run>();
            for (int i = 0; i <= repeats; i++)
            {
                await streams.NoteAsync(i == 0 ? "warming up\n" : $"run {i} of {repeats}\n").ConfigureAwait(false);
                runs.Add(Measure(loaded, evaluator, promptTokens, genTokens, cancellation));
            }

            Facts facts = Report(loaded, runs[1..], promptTokens, genTokens, loadMs);
            await facts.WriteAsync(streams.Output, parsed.GetValue(asJson)).ConfigureAwait(false);
            return 0;
        });
        return command;
    }

    private static Facts Report(LoadedModel model, List<Run> runs, int promptTokens, int genTokens, double loadMs)
    {
        double[] prefill = [.. runs.Select(r => Math.Round(promptTokens / r.FirstToken, 2))];
        double[] decode = [.. runs.Select(r => Math.Round((genTokens - 1) / r.Others, 2))];
        long peakMemory = PeakMemory(); // before the bandwidth's own buffer
        double bandwidth = model.MeasureReadBandwidth();
        // A decoded token reads all weights, and the keys and values of everything before it.
        double bytesPerToken = model.WeightBytesPerToken + (model.KvBytesPerToken * (promptTokens + (genTokens / 2.0)));
        return new Facts
        {
            { "model", model.Path },
            { "backend", model.BackendName },
            { "threads", model.Threads },
            { "prompt_tokens", promptTokens },
            { "gen_tokens", genTokens },
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
        };
    }

    /// <summary>Reads a prompt of random tokens, and continues it greedily over whatever comes.</summary>
    private static Run Measure(LoadedModel model, SequenceEvaluator evaluator, int promptTokens, int genTokens, CancellationToken cancellation)
    {
        var random = new Random(1);
        int[] prompt = [.. Enumerable.Range(0, promptTokens).Select(_ => random.Next(model.Config.VocabularySize))];
        evaluator.Reset();
        long start = Stopwatch.GetTimestamp();
        int token = TensorPrimitives.IndexOfMax(evaluator.Evaluate(prompt));
        long first = Stopwatch.GetTimestamp();
        for (int i = 1; i < genTokens; i++)
        {
            cancellation.ThrowIfCancellationRequested();
            token = TensorPrimitives.IndexOfMax(evaluator.Evaluate([token]));
        }

        return new Run(Stopwatch.GetElapsedTime(start, first).TotalSeconds, Stopwatch.GetElapsedTime(first).TotalSeconds);
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
    private readonly record struct Run(double FirstToken, double Others);
}
