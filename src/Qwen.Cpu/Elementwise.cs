using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>Operations that treat each element by itself.</summary>
public static unsafe class Elementwise
{
    private interface IOperation
    {
        static abstract TLanes Invoke<TLanes>(TLanes a, TLanes b)
            where TLanes : unmanaged, ILanes<TLanes>;
    }

    /// <summary>result[i] = a[i] + b[i], i in [0, count). The result may be one of the operands.</summary>
    public static void Add(float* a, float* b, float* result, int count) => Run<AddOperation>(a, b, result, count);

    /// <summary>result[i] = silu(gate[i]) * up[i], i in [0, count); silu(g) = g / (1 + e^-g). The result may be one of the operands.</summary>
    /// <remarks>
    /// With e = e^-|g|, silu(g) is g / (1 + e) for g of at least 0 and g e / (1 + e) below, so no intermediate overflows. Then times up.
    /// </remarks>
    public static void SwiGlu(float* gate, float* up, float* result, int count) => Run<SwiGluOperation>(gate, up, result, count);

    internal static void Add<TLanes>(float* a, float* b, float* result, int count)
        where TLanes : unmanaged, ILanes<TLanes> => Run<TLanes, AddOperation>(a, b, result, count);

    internal static void SwiGlu<TLanes>(float* gate, float* up, float* result, int count)
        where TLanes : unmanaged, ILanes<TLanes> => Run<TLanes, SwiGluOperation>(gate, up, result, count);

    private static void Run<TOperation>(float* a, float* b, float* result, int count)
        where TOperation : struct, IOperation
    {
        if (Lanes512.IsSupported)
            Run<Lanes512, TOperation>(a, b, result, count);
        else if (Lanes256.IsSupported)
            Run<Lanes256, TOperation>(a, b, result, count);
        else
            Run<Lanes128, TOperation>(a, b, result, count);
    }

    private static void Run<TLanes, TOperation>(float* a, float* b, float* result, int count)
        where TLanes : unmanaged, ILanes<TLanes>
        where TOperation : struct, IOperation
    {
        int i = 0;
        for (; i <= count - 16; i += 16)
            TLanes.Store(TOperation.Invoke(TLanes.Load(a + i), TLanes.Load(b + i)), result + i);
        if (i < count)
        {
            float* stage = stackalloc float[16];
            TLanes x = Tail.Load<TLanes, F32Element>((byte*)(a + i), count - i, 0f, (byte*)stage);
            TLanes y = Tail.Load<TLanes, F32Element>((byte*)(b + i), count - i, 0f, (byte*)stage);
            TLanes.Store(TOperation.Invoke(x, y), stage);
            Buffer.MemoryCopy(stage, result + i, 64, (count - i) * sizeof(float));
        }
    }

    private readonly struct AddOperation : IOperation
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TLanes Invoke<TLanes>(TLanes a, TLanes b)
            where TLanes : unmanaged, ILanes<TLanes> => a + b;
    }

    private readonly struct SwiGluOperation : IOperation
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public static TLanes Invoke<TLanes>(TLanes gate, TLanes up)
            where TLanes : unmanaged, ILanes<TLanes>
        {
            TLanes e = Exponential.Exp(gate | TLanes.Broadcast(-0f)); // The sign bit set: -|gate|.
            TLanes numerator = TLanes.SelectLess(gate, TLanes.Zero, gate * e, gate);
            return (numerator / (TLanes.Broadcast(1f) + e)) * up;
        }
    }
}
