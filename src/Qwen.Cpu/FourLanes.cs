using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Four lane vectors that are kept in registers together: a row of a register tile.</summary>
/// <remarks>Where <typeparamref name="TLanes"/> is one register. The JIT keeps no struct of structs of several vectors in registers.</remarks>
internal unsafe struct FourLanes<TLanes>(TLanes a, TLanes b, TLanes c, TLanes d)
    where TLanes : unmanaged, ILanes<TLanes>
{
    private TLanes _a = a, _b = b, _c = c, _d = d;

    /// <summary>64 floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static FourLanes<TLanes> Load(float* source) =>
        new(TLanes.Load(source), TLanes.Load(source + 16), TLanes.Load(source + 32), TLanes.Load(source + 48));

    /// <summary>64 floats.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly void Store(float* target)
    {
        TLanes.Store(_a, target);
        TLanes.Store(_b, target + 16);
        TLanes.Store(_c, target + 32);
        TLanes.Store(_d, target + 48);
    }

    /// <summary>Adds the products of each of four with one, in fused steps.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void MultiplyAdd(TLanes a, TLanes b, TLanes c, TLanes d, TLanes factor)
    {
        _a = TLanes.MultiplyAdd(a, factor, _a);
        _b = TLanes.MultiplyAdd(b, factor, _b);
        _c = TLanes.MultiplyAdd(c, factor, _c);
        _d = TLanes.MultiplyAdd(d, factor, _d);
    }

    /// <summary>Multiplies each by its scale and adds, fused, the 64 floats of <paramref name="totals"/> (zeros where null).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void ScaleAdd(Vector128<float> scales, float* totals)
    {
        FourLanes<TLanes> sums = totals is null ? default : Load(totals);
        _a = TLanes.MultiplyAdd(_a, TLanes.Broadcast(scales[0]), sums._a);
        _b = TLanes.MultiplyAdd(_b, TLanes.Broadcast(scales[1]), sums._b);
        _c = TLanes.MultiplyAdd(_c, TLanes.Broadcast(scales[2]), sums._c);
        _d = TLanes.MultiplyAdd(_d, TLanes.Broadcast(scales[3]), sums._d);
    }

    /// <summary>The four canonical sums.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public readonly Vector128<float> Fold() => TLanes.Fold(_a, _b, _c, _d);
}
