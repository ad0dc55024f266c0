using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>The gate of the MLP (Shazeer, "GLU Variants Improve Transformer", 2020): silu(gate) * up, silu(g) = g / (1 + e^-g).</summary>
public static unsafe class SwiGlu
{
    /// <summary>y[i] = silu(gate[i]) * up[i], i in [0, count); y may be either input.</summary>
    public static void Apply(float* gate, float* up, float* y, long count)
    {
        if (Lanes512.IsSupported)
            Apply<Lanes512>(gate, up, y, count);
        else if (Lanes256.IsSupported)
            Apply<Lanes256>(gate, up, y, count);
        else
            Apply<Lanes128>(gate, up, y, count);
    }

    internal static void Apply<TLanes>(float* gate, float* up, float* y, long count)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        long i = 0;
        for (; i <= count - 16; i += 16)
            TLanes.Store(Invoke(TLanes.Load(gate + i), TLanes.Load(up + i)), y + i);
        int tail = (int)(count - i);
        if (tail != 0)
        {
            float* stage = stackalloc float[16];
            TLanes g = Tail.Load<TLanes, F32Element>((byte*)(gate + i), tail, 0f, (byte*)stage);
            TLanes u = Tail.Load<TLanes, F32Element>((byte*)(up + i), tail, 0f, (byte*)stage);
            TLanes.Store(Invoke(g, u), stage);
            Buffer.MemoryCopy(stage, y + i, 64, tail * sizeof(float));
        }
    }

    /// <summary>With e = e^-|g|, silu(g) is g / (1 + e) for g of at least 0 and g e / (1 + e) below: nothing overflows. Then times up.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TLanes Invoke<TLanes>(TLanes gate, TLanes up)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        TLanes e = Exponential.Exp(gate | TLanes.Broadcast(-0f)); // The sign bit set: -|gate|.
        TLanes numerator = TLanes.SelectLess(gate, TLanes.Zero, gate * e, gate);
        return (numerator / (TLanes.Broadcast(1f) + e)) * up;
    }
}
