using System.CommandLine;
using System.Text.Json;
using Qwen.Native;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen inspect</c>: what a model is and needs, or what this machine has.</summary>
internal static class InspectCommand
{
    public static Command Create(Streams streams)
    {
        var model = new Option<string?>("--model", "-m") { Description = "A model directory, a .gguf file or synthetic:shape[:format]; the demo model if not given." };
        var devices = new Option<bool>("--devices") { Description = "Shows the processors and GPUs instead." };
        var json = new Option<bool>("--json") { Description = "As one JSON object." };
        var command = new Command("inspect", "Shows a model's shape, types and memory; or, with --devices, what can compute.") { model, devices, json };
        command.SetAction(parsed =>
        {
            IReadOnlyList<(string Name, object Value)> facts = parsed.GetValue(devices) ? Devices() : Model(parsed.GetValue(model) ?? ModelFiles.DemoModel);
            if (parsed.GetValue(json))
            {
                streams.Output.WriteLine(JsonLines.Format(writer => Write(writer, facts)));
                return 0;
            }

            int width = facts.Max(f => f.Name.Length);
            foreach ((string name, object value) in facts)
                streams.Output.WriteLine($"{name.Replace('_', ' ').PadRight(width)}  {(value is long number ? number.ToString("N0") : value)}");
            return 0;
        });
        return command;
    }

    private static List<(string, object)> Devices()
    {
        using var cpu = new CpuBackend();
        return [("cpu", cpu.Name), ("threads", (long)cpu.Threads), ("cuda", CudaProbe.Run().ToString())];
    }

    private static List<(string, object)> Model(string path)
    {
        using Checkpoint checkpoint = Checkpoint.Open(path);
        ModelConfig config = ModelConfig.Load(checkpoint);
        QwenTokenizer tokenizer = ModelFiles.LoadTokenizer(path);
        var facts = new List<(string, object)>
        {
            ("model", path),
            ("architecture", config.Architecture),
            ("parameters", checkpoint.Tensors.Values.Sum(t => t.ElementCount)),
            ("layers", (long)config.Layers),
            ("hidden_size", (long)config.HiddenSize),
            ("intermediate_size", (long)config.IntermediateSize),
            ("attention", $"{config.Heads} query heads over {config.KvHeads} key heads of {config.HeadDim}"),
            ("vocabulary", (long)config.VocabularySize),
            ("tokenizer", $"{tokenizer.VocabularySize} tokens, {tokenizer.AddedTokens.Count} added{(tokenizer.Normalizes ? ", NFC" : "")}"),
            ("tied_embeddings", config.TiedEmbeddings ? "yes" : "no"),
            ("context", (long)config.ScaledContext),
            ("rope", config.RopeScaling.Kind == RopeScalingKind.None ? $"theta {config.RopeTheta}" : $"theta {config.RopeTheta}, {config.RopeScaling.Kind} x{config.RopeScaling.Factor}"),
            ("weight_bytes", checkpoint.Tensors.Values.Sum(t => t.ByteCount)),
            ("kv_bytes_per_token", CpuBackend.KvBytesPerToken(config, KvCacheType.F16)),
        };
        foreach (IGrouping<TensorType, Tensor> type in checkpoint.Tensors.Values.GroupBy(t => t.Type).OrderByDescending(g => g.Sum(t => t.ByteCount)))
            facts.Add(($"tensors_{type.Key}", $"{type.Count()} with {type.Sum(t => t.ByteCount):N0} bytes"));
        return facts;
    }

    private static void Write(Utf8JsonWriter json, IEnumerable<(string Name, object Value)> facts)
    {
        foreach ((string name, object value) in facts)
        {
            if (value is long number)
                json.WriteNumber(name, number);
            else
                json.WriteString(name, value.ToString());
        }
    }
}
