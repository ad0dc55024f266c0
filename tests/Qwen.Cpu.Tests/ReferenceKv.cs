namespace Qwen.Cpu.Tests;

/// <summary>Quantized keys and values in plain scalar code.</summary>
internal static class ReferenceKv
{
    /// <summary>The values of the codes, before scaling, and the scale of each vector; rows of unquantized types as they are, with scales of 1.</summary>
    public static (float[][] Codes, float[][] Scales) Quantize(KvType type, float[][] rows, int headDim)
    {
        float[][] codes = new float[rows.Length][], scales = new float[rows.Length][];
        for (int s = 0; s < rows.Length; s++)
        {
            codes[s] = [.. rows[s]];
            scales[s] = [.. Enumerable.Repeat(1f, rows[s].Length / headDim)];
            if (!type.IsQuantized)
                continue;
            float[] levels = Levels(type);
            for (int v = 0; v < scales[s].Length; v++)
            {
                Span<float> vector = codes[s].AsSpan(v * headDim, headDim);
                float max = 0;
                foreach (float x in vector)
                    max = Math.Max(max, Math.Abs(x));
                if (max < 1e-30f)
                {
                    vector.Clear();
                    scales[s][v] = 0;
                    continue;
                }

                scales[s][v] = max / levels[^1];
                for (int i = 0; i < headDim; i++)
                    vector[i] = Nearest(levels, vector[i] * (levels[^1] / max));
            }
        }

        return (codes, scales);
    }

    /// <summary>All magnitudes of a type, rising; those at even places have an even code.</summary>
    public static float[] Levels(KvType type)
    {
        if (type == KvType.Int8)
            return [.. Enumerable.Range(0, 128).Select(i => (float)i)];
        (int fractionBits, int bias, int last) = type == KvType.F8_E4M3 ? (3, 7, 0x7E) : (2, 15, 0x7B);
        return [.. Enumerable.Range(0, last + 1).Select(c =>
        {
            int exponent = c >> fractionBits, fraction = c & ((1 << fractionBits) - 1);
            return exponent == 0 ? MathF.ScaleB(fraction, 1 - bias - fractionBits) : MathF.ScaleB((1 << fractionBits) + fraction, exponent - bias - fractionBits);
        })];
    }

    private static float Nearest(float[] levels, float x)
    {
        double magnitude = Math.Min(Math.Abs((double)x), levels[^1]);
        int upper = Array.FindIndex(levels, level => level >= magnitude);
        int code = upper;
        if (upper > 0)
        {
            double below = magnitude - levels[upper - 1], above = levels[upper] - magnitude;
            code = below < above || (below == above && (upper - 1) % 2 == 0) ? upper - 1 : upper;
        }

        return x < 0 ? -levels[code] : levels[code];
    }
}

/// <summary>What the bias of a key adds to a score.</summary>
internal static class KeyBiases
{
    public static double[] Frequencies(int headDim) => [.. Enumerable.Range(0, headDim / 2).Select(i => Math.Pow(10000, -2.0 * i / headDim))];

    /// <summary>In the order of the kernel: the projections, turned to the start of the chunk, dot the table's row.</summary>
    public static float Score(ReadOnlySpan<float> q, ReadOnlySpan<float> bias, int position, double magnitude)
    {
        int pairs = q.Length / 2;
        double[] frequencies = Frequencies(q.Length);
        float[] turned = new float[q.Length], row = new float[q.Length];
        int start = position / AttentionTile.Chunk * AttentionTile.Chunk;
        for (int i = 0; i < pairs; i++)
        {
            float a = (q[i] * bias[i]) + (q[pairs + i] * bias[pairs + i]), b = (q[pairs + i] * bias[i]) - (q[i] * bias[pairs + i]);
            float cos = (float)Math.Cos(start * frequencies[i]), sin = (float)Math.Sin(start * frequencies[i]);
            turned[i] = (a * cos) + (b * sin);
            turned[pairs + i] = (b * cos) - (a * sin);
            row[i] = (float)(Math.Cos((position - start) * frequencies[i]) * magnitude);
            row[pairs + i] = (float)(Math.Sin((position - start) * frequencies[i]) * magnitude);
        }

        return Canonical.Dot(row, turned);
    }

    /// <summary>target += R(bias).</summary>
    public static void AddRotated(ReadOnlySpan<float> bias, int position, double magnitude, Span<float> target)
    {
        int pairs = bias.Length / 2;
        double[] frequencies = Frequencies(bias.Length);
        for (int i = 0; i < pairs; i++)
        {
            (double sin, double cos) = Math.SinCos(position * frequencies[i]);
            target[i] += (float)(magnitude * ((bias[i] * cos) - (bias[pairs + i] * sin)));
            target[pairs + i] += (float)(magnitude * ((bias[pairs + i] * cos) + (bias[i] * sin)));
        }
    }

    /// <summary>q . R(bias), by rotating the bias to the position.</summary>
    public static double ExactScore(ReadOnlySpan<float> q, ReadOnlySpan<float> bias, int position, double magnitude)
    {
        int pairs = q.Length / 2;
        double[] frequencies = Frequencies(q.Length);
        double score = 0;
        for (int i = 0; i < pairs; i++)
        {
            (double sin, double cos) = Math.SinCos(position * frequencies[i]);
            score += magnitude * ((q[i] * ((bias[i] * cos) - (bias[pairs + i] * sin))) + (q[pairs + i] * ((bias[pairs + i] * cos) + (bias[i] * sin))));
        }

        return score;
    }
}
