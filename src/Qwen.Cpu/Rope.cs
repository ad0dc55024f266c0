using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Rotary position embedding (Su et al., "RoFormer", 2021) in the half-split form: pairs (i, i + headDim / 2).</summary>
public static unsafe class Rope
{
    /// <summary>cos and sin [tokens, pairs] of position * frequency, times a magnitude; computed in double precision, once per step.</summary>
    public static void ComputeAngles(int* positions, int tokens, ReadOnlySpan<double> frequencies, double magnitude, float* cos, float* sin)
    {
        for (int t = 0; t < tokens; t++)
        {
            for (int i = 0; i < frequencies.Length; i++)
            {
                (double s, double c) = Math.SinCos(positions[t] * frequencies[i]);
                *cos++ = (float)(c * magnitude);
                *sin++ = (float)(s * magnitude);
            }
        }
    }

    /// <summary>Turns one head in place.</summary>
    /// <param name="head">[headDim].</param>
    /// <param name="headDim">Even.</param>
    /// <param name="cos">[headDim / 2].</param>
    /// <param name="sin">[headDim / 2].</param>
    public static void Head(float* head, int headDim, float* cos, float* sin)
    {
        int pairs = headDim / 2, i = 0;
        float* second = head + pairs;
        for (; i <= pairs - Lanes.Count; i += Lanes.Count)
        {
            Vector512<float> a = Vector512.Load(head + i), b = Vector512.Load(second + i), c = Vector512.Load(cos + i), s = Vector512.Load(sin + i);
            Vector512.FusedMultiplyAdd(-b, s, a * c).Store(head + i);
            Vector512.FusedMultiplyAdd(a, s, b * c).Store(second + i);
        }

        for (; i < pairs; i++)
        {
            float a = head[i], b = second[i];
            head[i] = MathF.FusedMultiplyAdd(-b, sin[i], a * cos[i]);
            second[i] = MathF.FusedMultiplyAdd(a, sin[i], b * cos[i]);
        }
    }
}
