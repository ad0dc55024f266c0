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
}
