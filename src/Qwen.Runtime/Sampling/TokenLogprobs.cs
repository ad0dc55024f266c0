using System.Numerics.Tensors;
using Qwen.Cpu;

namespace Qwen.Runtime.Sampling;

/// <summary>Natural log-probabilities at one step, of the network's own distribution: before temperature, penalties and bias.</summary>
/// <param name="Logprob">Of the chosen token.</param>
/// <param name="Top">The likeliest tokens, likeliest first; ties by id.</param>
public sealed record TokenLogprobs(double Logprob, IReadOnlyList<(int Id, double Logprob)> Top)
{
    /// <summary>log of the sum of e^logit.</summary>
    /// <param name="logits">Finite.</param>
    /// <param name="scratch">As long as the logits.</param>
    public static double LogSumExp(ReadOnlySpan<float> logits, Span<float> scratch)
    {
        float max = TensorPrimitives.Max(logits);
        return max + Math.Log(Softmax.Weights(logits, max, scratch));
    }

    /// <summary>Of a token and the likeliest ones.</summary>
    /// <param name="logits">Finite.</param>
    /// <param name="token">The chosen token.</param>
    /// <param name="count">How many of the likeliest.</param>
    /// <param name="scratch">As long as the logits.</param>
    internal static TokenLogprobs Of(ReadOnlySpan<float> logits, int token, int count, Span<float> scratch)
    {
        double total = LogSumExp(logits, scratch[..logits.Length]);
        var top = new (int Id, double Logprob)[Math.Min(count, logits.Length)];
        int filled = 0;
        for (int i = 0; i < logits.Length && top.Length > 0; i++)
        {
            if (filled == top.Length && logits[i] <= logits[top[^1].Id])
                continue;
            int at = filled < top.Length ? filled++ : filled - 1;
            for (; at > 0 && logits[i] > logits[top[at - 1].Id]; at--)
                top[at] = top[at - 1];
            top[at] = (i, logits[i] - total);
        }

        return new TokenLogprobs(logits[token] - total, top);
    }
}
