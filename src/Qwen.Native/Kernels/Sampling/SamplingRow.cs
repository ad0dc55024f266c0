using System.Runtime.InteropServices;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>How a row's token is drawn, as <see cref="SampleKernels"/> read it.</summary>
[StructLayout(LayoutKind.Sequential, Size = Bytes)]
public readonly record struct SamplingRow
{
    /// <summary>Its size in device memory.</summary>
    public const int Bytes = 32;

    private readonly float _temperature, _minP;
    private readonly int _topK, _unused;
    private readonly ulong _topP, _uniform; // times 2^64

    /// <summary>Takes the values.</summary>
    /// <param name="temperature">0 takes the likeliest token.</param>
    /// <param name="topK">Only the k likeliest; 0 for all.</param>
    /// <param name="topP">Only the likeliest whose probabilities reach this sum; 1 for all.</param>
    /// <param name="minP">Only tokens at least this fraction as likely as the likeliest; 0 for all.</param>
    /// <param name="uniform">A random number in [0, 1).</param>
    public SamplingRow(float temperature, int topK, float topP, float minP, double uniform)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(topK);
        (_temperature, _topK, _minP) = (temperature, topK, minP);
        _topP = topP >= 1 ? ulong.MaxValue : Scaled(topP);
        _uniform = Scaled(uniform);
    }

    // Fractions of 53 bits at most, so that the product is exact.
    private static ulong Scaled(double fraction) => (ulong)Math.ScaleB(fraction, 64);
}
