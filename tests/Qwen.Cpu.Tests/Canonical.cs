namespace Qwen.Cpu.Tests;

/// <summary>The canonical orders of accumulation in plain scalar code: what every kernel must equal bit for bit.</summary>
internal static class Canonical
{
    /// <summary>a[l] += a[l + n] for n = 8, 4, 2, 1.</summary>
    public static float Fold16(ReadOnlySpan<float> lanes)
    {
        float[] a = lanes.ToArray();
        for (int n = 8; n > 0; n /= 2)
        {
            for (int l = 0; l < n; l++)
                a[l] += a[l + n];
        }

        return a[0];
    }

    /// <summary>Lane l sums k = l, l + 16, .. by fused multiply-add; then the fold.</summary>
    public static float Dot(ReadOnlySpan<float> w, ReadOnlySpan<float> x)
    {
        Span<float> lanes = stackalloc float[16];
        for (int k = 0; k < w.Length; k++)
            lanes[k % 16] = MathF.FusedMultiplyAdd(w[k], x[k], lanes[k % 16]);
        return Fold16(lanes);
    }

    /// <summary>Scaled blocks of columns: lane l sums k = l, l + 16, .. of each block; total l = fma(sum, scale, total) block by block; then the fold.</summary>
    public static float ScaledDot(ReadOnlySpan<float> w, ReadOnlySpan<float> x, ReadOnlySpan<float> scales, int blockColumns)
    {
        Span<float> totals = stackalloc float[16], lanes = stackalloc float[16];
        for (int block = 0; block < scales.Length; block++)
        {
            lanes.Clear();
            for (int k = block * blockColumns; k < Math.Min(w.Length, (block + 1) * blockColumns); k++)
                lanes[k % 16] = MathF.FusedMultiplyAdd(w[k], x[k], lanes[k % 16]);
            for (int l = 0; l < 16; l++)
                totals[l] = MathF.FusedMultiplyAdd(lanes[l], scales[block], totals[l]);
        }

        return Fold16(totals);
    }

    /// <summary>The value of an E4M3 code, by its definition.</summary>
    public static float E4M3(byte code)
    {
        int exponent = (code >> 3) & 15, fraction = code & 7;
        double magnitude = (code & 0x7F) == 0x7F ? double.NaN : exponent == 0 ? fraction / 8.0 * Math.Pow(2, -6) : (1 + (fraction / 8.0)) * Math.Pow(2, exponent - 7);
        return (float)Math.CopySign(magnitude, code >= 0x80 ? -1 : 1);
    }

    /// <summary>e^x: range reduction, a polynomial by Horner's rule, two powers of two.</summary>
    public static float Exp(float x)
    {
        float clamped = x < -104f ? -104f : x > 89f ? 89f : x;
        float shifted = MathF.FusedMultiplyAdd(clamped, 1.44269504f, 12582912f);
        float n = shifted - 12582912f;
        float r = MathF.FusedMultiplyAdd(n, 2.12194440e-4f, MathF.FusedMultiplyAdd(n, -0.693359375f, clamped));
        float p = 1.9875691500e-4f;
        foreach (float c in (ReadOnlySpan<float>)[1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1f, 1f])
            p = MathF.FusedMultiplyAdd(p, r, c);
        int exponent = (int)n, half = exponent >> 1;
        return p * MathF.ScaleB(1f, half) * MathF.ScaleB(1f, exponent - half);
    }
}
