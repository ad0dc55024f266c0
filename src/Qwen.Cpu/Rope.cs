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

    /// <summary>Rotates the first rotaryDim elements of every head in place: a, b = a cos - b sin, b cos + a sin; each operation rounds.</summary>
    /// <param name="x">[tokens, heads, headDim]; heads follow each other, tokens are xStride elements apart.</param>
    /// <param name="xStride">Elements from a token to the next.</param>
    /// <param name="tokens">Tokens.</param>
    /// <param name="heads">Heads of a token.</param>
    /// <param name="headDim">Elements of a head.</param>
    /// <param name="rotaryDim">Even, at most headDim; the elements beyond it stay.</param>
    /// <param name="cos">[tokens, rotaryDim / 2].</param>
    /// <param name="sin">[tokens, rotaryDim / 2].</param>
    public static void Apply(float* x, long xStride, int tokens, int heads, int headDim, int rotaryDim, float* cos, float* sin)
    {
        if (Lanes512.IsSupported)
            Apply<Lanes512>(x, xStride, tokens, heads, headDim, rotaryDim, cos, sin);
        else if (Lanes256.IsSupported)
            Apply<Lanes256>(x, xStride, tokens, heads, headDim, rotaryDim, cos, sin);
        else
            Apply<Lanes128>(x, xStride, tokens, heads, headDim, rotaryDim, cos, sin);
    }

    internal static void Apply<TLanes>(float* x, long xStride, int tokens, int heads, int headDim, int rotaryDim, float* cos, float* sin)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        int pairs = rotaryDim / 2;
        for (int t = 0; t < tokens; t++)
        {
            for (int h = 0; h < heads; h++)
                Rotate<TLanes>(x + (t * xStride) + (h * headDim), pairs, cos + ((long)t * pairs), sin + ((long)t * pairs));
        }
    }

    private static void Rotate<TLanes>(float* head, int pairs, float* cos, float* sin)
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
