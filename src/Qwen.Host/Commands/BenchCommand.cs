using System.CommandLine;
using System.Diagnostics;
using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Commands;

/// <summary><c>qwen bench</c>: how fast one sequence is read and continued here, beside what the memory gives.</summary>
internal static class BenchCommand
{
    public static Command Create(Streams streams)
    {
        var prompt = new Option<int>("--prompt-tokens") { Description = "Tokens of the prompt.", DefaultValueFactory = _ => 512 };
        var generate = new Option<int>("--gen-tokens") { Description = "Tokens to generate.", DefaultValueFactory = _ => 64 };
        var repeat = new Option<int>("--repeat") { Description = "Runs; one more is done first, and not counted.", DefaultValueFactory = _ => 3 };
        var asJson = new Option<bool>("--json") { Description = "As one JSON object." };
        var model = new ModelOptions();
        var command = new Command("bench", "Measures load, prefill and decode, and the machine's read bandwidth in the same run.") { prompt, generate, repeat, asJson };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            int promptTokens = Positive("--prompt-tokens", parsed.GetValue(prompt), 1), generated = Positive("--gen-tokens", parsed.GetValue(generate), 2), repeats = Positive("--repeat", parsed.GetValue(repeat), 1);
            long start = Stopwatch.GetTimestamp();
            QwenEngine engine = await model.LoadAsync(parsed, streams, (path, options, progress) => QwenEngine.LoadAsync(path, options, progress, cancellation)).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                double loadMs = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
                var runs = new List<(double First, double Decode)>();
                for (int i = 0; i <= repeats; i++)
                    runs.Add(await OneAsync(engine, promptTokens, generated, (uint)i, cancellation).ConfigureAwait(false));
                runs.RemoveAt(0);
                double[] prefill = [.. runs.Select(r => promptTokens / r.First)], decode = [.. runs.Select(r => (generated - 1) / r.Decode)];
                double bandwidth = engine.Model.MeasureReadBandwidth();
                // A decoded token reads all weights, and the keys and values of everything before it.
                double bytes = engine.Model.WeightBytesPerToken + (engine.Model.KvBytesPerToken * (promptTokens + (generated / 2.0)));
                Action<Utf8JsonWriter> result = json =>
                {
                    json.WriteString("engine", "qwen");
                    json.WriteString("model", engine.Model.Path);
                    json.WriteString("backend", engine.Model.BackendName);
                    json.WriteNumber("threads", engine.Model.Threads);
                    json.WriteNumber("prompt_tokens", promptTokens);
                    json.WriteNumber("gen_tokens", generated);
                    json.WriteNumber("load_ms", Math.Round(loadMs, 1));
                    json.WriteNumber("time_to_first_token_ms", Math.Round(Median([.. runs.Select(r => r.First)]) * 1e3, 2));
                    json.WriteNumber("prefill_tokens_per_s", Math.Round(Median(prefill), 2));
                    json.WriteNumber("decode_tokens_per_s", Math.Round(Median(decode), 2));
                    WriteList(json, "prefill", prefill);
                    WriteList(json, "decode", decode);
                    json.WriteNumber("peak_rss_bytes", PeakMemory());
                    json.WriteNumber("weight_bytes_per_token", engine.Model.WeightBytesPerToken);
                    json.WriteNumber("kv_bytes_per_token", engine.Model.KvBytesPerToken);
                    json.WriteNumber("read_bandwidth_bytes_per_s", Math.Round(bandwidth));
                    json.WriteNumber("decode_bandwidth_fraction", Math.Round(Median(decode) * bytes / bandwidth, 4));
                };
                string line = JsonLines.Format(result);
                await streams.Output.WriteLineAsync(parsed.GetValue(asJson) ? line : Table(line)).ConfigureAwait(false);
            }

            return 0;
        });
        return command;
    }

    private static async Task<(double First, double Decode)> OneAsync(QwenEngine engine, int promptTokens, int generated, uint seed, CancellationToken cancellation)
    {
        uint state = 12345 + seed;
        int vocabulary = engine.Model.Config.VocabularySize;
        int[] prompt = [.. Enumerable.Range(0, promptTokens).Select(_ => (int)((state = (state * 1103515245) + 12345) % (uint)vocabulary))];
        var options = new SamplingOptions { Temperature = 0, MaxTokens = generated, IgnoreEos = true };
        long start = Stopwatch.GetTimestamp(), first = 0, last = 0;
        await foreach (GenerationChunk chunk in engine.GenerateAsync(prompt, options, cancellation).ConfigureAwait(false))
        {
            last = Stopwatch.GetTimestamp();
            if (first == 0)
                first = last;
        }

        return (Stopwatch.GetElapsedTime(start, first).TotalSeconds, Stopwatch.GetElapsedTime(first, last).TotalSeconds);
    }

    private static long PeakMemory()
    {
        using var process = Process.GetCurrentProcess();
        return process.PeakWorkingSet64;
    }

    private static int Positive(string flag, int value, int least) => value >= least ? value : throw new ArgumentException($"{flag}: {value} is less than {least}.");

    private static double Median(double[] values)
    {
        Array.Sort(values = (double[])values.Clone());
        return values.Length % 2 == 1 ? values[values.Length / 2] : (values[(values.Length / 2) - 1] + values[values.Length / 2]) / 2;
    }

    private static void WriteList(Utf8JsonWriter json, string name, double[] values)
    {
        json.WriteStartArray(name);
        foreach (double value in values)
            json.WriteNumberValue(Math.Round(value, 2));
        json.WriteEndArray();
    }

    private static string Table(string json)
    {
        using JsonDocument document = JsonDocument.Parse(json);
        return string.Join(Environment.NewLine, document.RootElement.EnumerateObject().Select(p => $"{p.Name.Replace('_', ' '),-28} {p.Value}"));
    }
}
