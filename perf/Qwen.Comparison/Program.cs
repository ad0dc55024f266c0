using System.CommandLine;
using System.Globalization;
using Qwen.Comparison;

// A table of shapes x formats: prefill and decode of this engine beside llama.cpp, each on the same file, in turn.

var shapes = new Option<string[]>("--shapes") { AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => ["qwen2.5-0.5b", "qwen2.5-1.5b"], Description = "Shapes as in synthetic:<shape>." };
var formats = new Option<string[]>("--formats") { AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => ["bf16", "f16", "q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k"], Description = "Formats as in synthetic:<shape>:<format>." };
var peer = new Option<string?>("--peer") { Description = "A folder in which `npm i --ignore-scripts node-llama-cpp` was run. Without it, only this engine is measured." };
var folder = new Option<string>("--folder") { DefaultValueFactory = _ => Path.Combine(Path.GetTempPath(), "qwen-comparison"), Description = "Where the models are written, and stay." };
var threads = new Option<int>("--threads") { DefaultValueFactory = _ => Environment.ProcessorCount };
var prompt = new Option<int>("--prompt-tokens") { DefaultValueFactory = _ => 512 };
var generate = new Option<int>("--gen-tokens") { DefaultValueFactory = _ => 64 };
var repeats = new Option<int>("--repeat") { DefaultValueFactory = _ => 3, Description = "Runs in one process, after one that is not counted; the median counts." };
var rounds = new Option<int>("--rounds") { DefaultValueFactory = _ => 1, Description = "Times both engines take their turn; the median counts." };
var sequences = new Option<int>("--sequences") { DefaultValueFactory = _ => 1, Description = "Sequences that are continued side by side." };
var prepare = new Option<bool>("--prepare") { Description = "Only writes the models." };
var command = new RootCommand("Measures this engine beside llama.cpp and prints a Markdown table.") { shapes, formats, peer, folder, threads, prompt, generate, repeats, rounds, sequences, prepare };
command.SetAction(parsed =>
{
    var workload = new Workload(parsed.GetValue(threads), parsed.GetValue(prompt), parsed.GetValue(generate), parsed.GetValue(repeats), parsed.GetValue(sequences));
    string models = Directory.CreateDirectory(parsed.GetValue(folder)!).FullName;
    string? npm = parsed.GetValue(peer);
    if (!parsed.GetValue(prepare))
    {
        Console.WriteLine("| model | prefill, tokens/s | llama.cpp | ratio | decode, tokens/s | llama.cpp | ratio | share of read bandwidth | read bandwidth, GB/s |");
        Console.WriteLine("|---|---|---|---|---|---|---|---|---|");
    }

    foreach (string shape in parsed.GetValue(shapes)!)
    {
        foreach (string format in parsed.GetValue(formats)!)
        {
            string model = Path.Combine(models, $"{shape}-{format}.gguf");
            if (!File.Exists(model))
                SyntheticGguf.Write(model, shape, format);
            if (parsed.GetValue(prepare))
                continue;
            var ours = new List<Speed>();
            var theirs = new List<Speed>();
            for (int round = 0; round < parsed.GetValue(rounds); round++)
            {
                ours.Add(Engines.Ours(model, workload));
                theirs.Add(npm is null ? new Speed(double.NaN, double.NaN, double.NaN, double.NaN) : Engines.LlamaCpp(npm, model, workload));
            }

            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"| {shape} {format} | {Pair(s => s.Prefill)} | {Pair(s => s.Decode)} | {Median(ours, s => s.BandwidthShare):P0} | {Median(ours, s => s.ReadBandwidth) / 1e9:F1} |"));

            string Pair(Func<Speed, double> figure)
            {
                double a = Median(ours, figure), b = Median(theirs, figure);
                return string.Create(CultureInfo.InvariantCulture, $"{a:F1} | {b:F1} | {a / b:F2}");
            }
        }
    }
});

var cacheModels = new Option<string[]>("--models") { AllowMultipleArgumentsPerToken = true, DefaultValueFactory = _ => ["synthetic:qwen2.5-0.5b:bf16", "synthetic:qwen3-0.6b:bf16"], Description = "Besides the demo model." };
var cache = new Command("cache-types", "Prints what each type of the KV cache does to the logits.") { cacheModels };
cache.SetAction(parsed => CacheTypes.Print([null, .. parsed.GetValue(cacheModels)!]));
command.Add(cache);
return command.Parse(args).Invoke();

static double Median(List<Speed> speeds, Func<Speed, double> figure)
{
    double[] sorted = [.. speeds.Select(figure).Order()];
    return (sorted[(sorted.Length - 1) / 2] + sorted[sorted.Length / 2]) / 2;
}
