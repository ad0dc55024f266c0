namespace Qwen.Cpu;

/// <summary>Rotary position embedding (Su et al., 2021), pairs (i, i + rotaryDim / 2) as in GPT-NeoX and Hugging Face.</summary>
public static unsafe class Rope
{
    /// <summary>Cosines and sines of all pairs at all positions: once per step, for all layers.</summary>
    /// <remarks>The angle position * inverseFrequency and its functions are computed in double precision and rounded once, at the end.</remarks>
    /// <param name="positions">[tokens].</param>
    /// <param name="tokens">Tokens.</param>
    /// <param name="inverseFrequencies">[rotaryDim / 2], radians per position, any scaling (YaRN, linear, NTK) already applied.</param>
    /// <param name="magnitude">Factor on cosine and sine: YaRN's attention factor, else 1.</param>
    /// <param name="cos">[tokens, rotaryDim / 2], written.</param>
    /// <param name="sin">[tokens, rotaryDim / 2], written.</param>
    public static void ComputeAngles(int* positions, int tokens, ReadOnlySpan<double> inverseFrequencies, double magnitude, float* cos, float* sin)
    {
        for (int t = 0; t < tokens; t++)
        {
            foreach (double inverseFrequency in inverseFrequencies)
            {
                (double s, double c) = Math.SinCos(positions[t] * inverseFrequency);
                *cos++ = (float)(c * magnitude);
                *sin++ = (float)(s * magnitude);
            }
        }
    }

    /// <summary>Rotates a head in place: a, b = a cos - b sin, b cos + a sin; each operation rounds.</summary>
    /// <param name="head">[rotaryDim], and more that stays as it is where only a part of the head is rotated.</param>
    /// <param name="rotaryDim">Even.</param>
    /// <param name="cos">[rotaryDim / 2], of the head's token.</param>
    /// <param name="sin">[rotaryDim / 2], of the head's token.</param>
    public static void Head(float* head, int rotaryDim, float* cos, float* sin)
    {
        if (Lanes512.IsSupported)
            Head<Lanes512>(head, rotaryDim / 2, cos, sin);
        else if (Lanes256.IsSupported)
            Head<Lanes256>(head, rotaryDim / 2, cos, sin);
        else
            Head<Lanes128>(head, rotaryDim / 2, cos, sin);
    }

    internal static void Head<TLanes>(float* head, int pairs, float* cos, float* sin)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        int i = 0;
        for (; i <= pairs - 16; i += 16)
        {
            TLanes a = TLanes.Load(head + i), b = TLanes.Load(head + pairs + i);
            TLanes c = TLanes.Load(cos + i), s = TLanes.Load(sin + i);
            TLanes.Store((a * c) - (b * s), head + i);
            TLanes.Store((b * c) + (a * s), head + pairs + i);
        }

        for (; i < pairs; i++)
        {
            float a = head[i], b = head[pairs + i];
            head[i] = (a * cos[i]) - (b * sin[i]);
            head[pairs + i] = (b * cos[i]) + (a * sin[i]);
        }
    }
}
