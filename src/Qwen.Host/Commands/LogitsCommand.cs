using System.CommandLine;
using System.Numerics.Tensors;
using System.Text.Json;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary><c>qwen logits</c>: what the network says after a prompt, for comparing engines.</summary>
internal static class LogitsCommand
{
    public static Command Create(Streams streams)
    {
        var model = new ModelOptions();
        var jsonl = new Option<bool>("--jsonl") { Description = "A JSON object a line (the only form there is)." };
        var command = new Command("logits", "{\"tokens\": [...], \"top\": N, \"greedy\": N} to the likeliest next tokens and a greedy continuation, end-of-sequence tokens being tokens like all others.") { jsonl };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            using LoadedModel loaded = await model.LoadModelAsync(parsed, streams, cancellation).ConfigureAwait(false);
            using var evaluator = new SequenceEvaluator(loaded);
            return await JsonLines.AnswerAsync(streams, line => Answer(evaluator, line)).ConfigureAwait(false);
        });
        return command;
    }

    private static Action<Utf8JsonWriter> Answer(SequenceEvaluator evaluator, JsonElement line)
    {
        int[] tokens = JsonLines.Ints(line, "tokens");
        int count = JsonLines.Count(line, "top"), steps = JsonLines.Count(line, "greedy");
        evaluator.Reset();
        ReadOnlySpan<float> logits = evaluator.Evaluate(tokens);
        double normalizer = LogSumExp(logits);
        (int Id, float Logit)[] top = Top(logits, count);

        var greedy = new List<(int Id, double Logprob)>();
        for (int i = 0; i < steps; i++)
        {
            int token = TensorPrimitives.IndexOfMax(logits); // the first of equals
            greedy.Add((token, logits[token] - LogSumExp(logits)));
            if (i + 1 < steps)
                logits = evaluator.Evaluate([token]);
        }

        return json =>
        {
            json.WriteStartArray("top");
            foreach ((int id, float logit) in top)
                WriteToken(json, id, logit, logit - normalizer);
            json.WriteEndArray();
            json.WriteStartArray("greedy");
            foreach ((int id, double logprob) in greedy)
                WriteToken(json, id, null, logprob);
            json.WriteEndArray();
        };
    }

    /// <summary>log of the sum of e^logit, in double: it is compared with other programs to the last digits.</summary>
    private static double LogSumExp(ReadOnlySpan<float> logits)
    {
        double max = TensorPrimitives.Max(logits), sum = 0;
        foreach (float logit in logits)
            sum += Math.Exp(logit - max);
        double result = max + Math.Log(sum);
        return double.IsFinite(result) ? result : throw new ArgumentException("The network gave a logit that is no finite number: its weights are damaged or overflow.");
    }

    /// <summary>The highest logits, highest first; of equals, the lowest id first.</summary>
    private static (int Id, float Logit)[] Top(ReadOnlySpan<float> logits, int count)
    {
        float[] values = logits.ToArray();
        return [.. Enumerable.Range(0, values.Length).OrderByDescending(i => values[i]).Take(count).Select(i => (i, values[i]))]; // the sort is stable
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
