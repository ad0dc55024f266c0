using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>The gate of the MLP (Shazeer, "GLU Variants Improve Transformer", 2020): SiLU(gate) * up, with SiLU(x) = x / (1 + e^-x).</summary>
public static unsafe class SwiGlu
{
    /// <summary>y[i] = SiLU(gate[i]) * up[i] for <paramref name="count"/> elements; y may be either input.</summary>
    public static void Apply(float* gate, float* up, float* y, long count)
    {
        long i = 0;
        for (; i <= count - Lanes.Count; i += Lanes.Count)
            Of(Vector512.Load(gate + i), Vector512.Load(up + i)).Store(y + i);
        int tail = (int)(count - i);
        if (tail > 0)
            Lanes.StorePartial(Of(Lanes.LoadPartial(gate + i, tail), Lanes.LoadPartial(up + i, tail)), y + i, tail);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> Of(Vector512<float> gate, Vector512<float> up) => gate / (Vector512<float>.One + Exponential.Of(-gate)) * up;
}
