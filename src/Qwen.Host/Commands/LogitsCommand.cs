using System.CommandLine;
using System.Numerics.Tensors;
using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Commands;

/// <summary><c>qwen logits</c>: what the network says after a prompt, for comparing engines.</summary>
internal static class LogitsCommand
{
    public static Command Create(Streams streams)
    {
        var model = new ModelOptions();
        var jsonl = new Option<bool>("--jsonl") { Description = "A JSON object a line (the only form there is)." };
        var command = new Command("logits", "{\"tokens\": [...], \"top\": N, \"greedy\": N} to the likeliest next tokens and a greedy continuation.") { jsonl };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            using LoadedModel loaded = await model.LoadAsync(parsed, streams, (path, options, progress) => Task.Run(() => LoadedModel.Load(path, options, progress, cancellation), cancellation)).ConfigureAwait(false);
            using var evaluator = new SequenceEvaluator(loaded);
            var scratch = new float[loaded.Config.VocabularySize];
            return await JsonLines.AnswerAsync(streams, line => Answer(evaluator, scratch, line), e => e is ArgumentException).ConfigureAwait(false);
        });
        return command;
    }

    private static Action<Utf8JsonWriter> Answer(SequenceEvaluator evaluator, float[] scratch, JsonObject line)
    {
        int[] tokens = JsonLines.Ints(line, "tokens");
        int count = JsonLines.Int(line, "top", 0), steps = JsonLines.Int(line, "greedy", 0);
        if (count < 0 || steps < 0)
            throw new ArgumentException($"top: {count} and greedy: {steps} must not be negative.");
        evaluator.Reset();
        ReadOnlySpan<float> logits = evaluator.Evaluate(tokens);
        double total = TokenLogprobs.LogSumExp(logits, scratch);
        (int Id, float Logit)[] top = Top(logits, count);

        var greedy = new List<(int Id, double Logprob)>();
        for (int i = 0; i < steps; i++)
        {
            int token = TensorPrimitives.IndexOfMax(logits);
            greedy.Add((token, logits[token] - TokenLogprobs.LogSumExp(logits, scratch)));
            if (i + 1 < steps)
                logits = evaluator.Evaluate([token]);
        }

        return json =>
        {
            json.WriteStartArray("top");
            foreach ((int id, float logit) in top)
                WriteToken(json, id, logit, logit - total);
            json.WriteEndArray();
            json.WriteStartArray("greedy");
            foreach ((int id, double logprob) in greedy)
                WriteToken(json, id, null, logprob);
            json.WriteEndArray();
        };
    }

    /// <summary>The highest logits, highest first; ties by id.</summary>
    private static (int Id, float Logit)[] Top(ReadOnlySpan<float> logits, int count)
    {
        var ids = new int[logits.Length];
        var keys = new float[logits.Length];
        for (int i = 0; i < ids.Length; i++)
            (ids[i], keys[i]) = (i, logits[i]);
        return [.. ids.OrderByDescending(i => keys[i]).ThenBy(i => i).Take(count).Select(i => (i, keys[i]))];
    }

    private static void WriteToken(Utf8JsonWriter json, int id, float? logit, double logprob)
    {
        json.WriteStartObject();
        json.WriteNumber("id", id);
        if (logit is { } value)
            json.WriteNumber("logit", value);
        json.WriteNumber("logprob", logprob);
        json.WriteEndObject();
    }
}
