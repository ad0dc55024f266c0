namespace Qwen.Runtime.Engine;

/// <summary>How far loading has come.</summary>
/// <param name="Stage">What is being done, for people.</param>
/// <param name="Fraction">0 to 1, of this stage.</param>
public readonly record struct LoadProgress(string Stage, double Fraction);
