namespace Qwen.Runtime.Sampling;

/// <summary>The network gave NaN or infinity: its weights are damaged, or its activations overflow.</summary>
/// <param name="token">The id whose logit it is.</param>
/// <param name="logit">The value; null where it is no longer known.</param>
public sealed class NonFiniteLogitException(int token, float? logit)
    : ArithmeticException($"The model gave {(logit is { } value ? $"the logit {value}" : "a logit that is not finite")} for token {token}; its weights are damaged, or its activations overflow.")
{
    /// <summary>The id whose logit it is.</summary>
    public int Token { get; } = token;
}
