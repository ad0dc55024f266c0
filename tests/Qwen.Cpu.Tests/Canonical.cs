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

}
