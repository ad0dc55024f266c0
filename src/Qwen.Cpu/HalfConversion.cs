using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>F16 and BF16 to and from F32, sixteen lanes at a time, by integer arithmetic on the bit patterns.</summary>
/// <remarks>
/// Widening is exact for every pattern. Narrowing rounds to nearest even, overflows to infinity and reaches subnormals.
/// NaN stays NaN: widening keeps its payload, narrowing keeps its upper bits and makes it quiet.
/// (.NET does not expose F16C, and these few operations hide behind the loads of a kernel bound by memory.)
/// </remarks>
internal static unsafe class HalfConversion
{
    /// <summary>Sixteen binary16 values to F32.</summary>
    /// <remarks>
    /// The half's exponent and fraction, moved to their place in a float, are a float smaller by 2^112 (the difference of the biases):
    /// one exact multiplication mends normals and subnormals alike. Infinity and NaN come out at 2^16 or more; they get all exponent bits.
    /// </remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes WidenF16<TLanes>(short* source)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        if (typeof(TLanes) == typeof(Lanes512))
            return Unsafe.BitCast<Vector512<float>, TLanes>(WidenF16(source));
        TLanes moved = (TLanes.WidenBits(source) << 13) & TLanes.BroadcastBits(unchecked((int)0x8FFFE000));
        TLanes value = moved * TLanes.BroadcastBits((127 + 112) << 23);
        TLanes magnitude = moved & TLanes.BroadcastBits(0x0FFFFFFF);
        return TLanes.SelectLessBits(magnitude, TLanes.BroadcastBits(31 << 23), value, value | TLanes.BroadcastBits(0x7F800000));
    }

    /// <remarks>The same, in so few steps that the JIT keeps the sums of a tile in registers around four of them: it follows only so many values in a method.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector512<float> WidenF16(short* source)
    {
        Vector512<int> moved = (Avx512F.ConvertToVector512Int32(Vector256.Load(source)) << 13) & Vector512.Create(unchecked((int)0x8FFFE000));
        Vector512<float> value = moved.AsSingle() * Vector512.Create((127 + 112) << 23).AsSingle();
        Vector512<float> isFinite = Vector512.LessThan(moved & Vector512.Create(0x0FFFFFFF), Vector512.Create(31 << 23)).AsSingle();
        return Vector512.ConditionalSelect(isFinite, value, value | Vector512.Create(0x7F800000).AsSingle());
    }

    /// <summary>Sixteen BF16 values to F32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes WidenBF16<TLanes>(short* source)
        where TLanes : unmanaged, ILanes<TLanes> => TLanes.WidenBits(source) << 16;

    /// <summary>Sixteen F32 values to binary16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void NarrowF16<TLanes>(TLanes value, short* target)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        TLanes one = TLanes.BroadcastBits(1);
        TLanes magnitude = value & TLanes.BroadcastBits(0x7FFFFFFF);

        // Normal results: rebias the exponent, round half to even at bit 13. A carry into the exponent is the right answer.
        TLanes odd = (magnitude >>> 13) & one;
        TLanes rounded = TLanes.AddBits(TLanes.AddBits(magnitude, TLanes.BroadcastBits(((15 - 127) << 23) + 0xFFF)), odd) >>> 13;

        // Subnormal results (below 2^-14): adding 0.5 lets the float adder round at 2^-24 and leaves the code in the low bits.
        TLanes half = TLanes.Broadcast(0.5f);
        TLanes subnormal = TLanes.SubtractBits(magnitude + half, half);

        TLanes infinity = TLanes.BroadcastBits(0x7C00);
        TLanes nan = ((magnitude >>> 13) & TLanes.BroadcastBits(0x1FF)) | TLanes.BroadcastBits(0x7E00);

        TLanes code = TLanes.SelectLessBits(magnitude, TLanes.BroadcastBits((127 - 14) << 23), subnormal, rounded);
        code = TLanes.SelectLessBits(magnitude, TLanes.BroadcastBits((127 + 16) << 23), code, infinity);
        code = TLanes.SelectLessBits(TLanes.BroadcastBits(0x7F800000), magnitude, nan, code);
        TLanes.NarrowBits(code | ((value >>> 16) & TLanes.BroadcastBits(0x8000)), target);
    }

    /// <summary>Sixteen F32 values to BF16.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void NarrowBF16<TLanes>(TLanes value, short* target)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        TLanes upper = value >>> 16;
        TLanes odd = upper & TLanes.BroadcastBits(1);
        TLanes rounded = TLanes.AddBits(TLanes.AddBits(value, TLanes.BroadcastBits(0x7FFF)), odd) >>> 16;
        TLanes magnitude = value & TLanes.BroadcastBits(0x7FFFFFFF);
        TLanes nan = upper | TLanes.BroadcastBits(0x40);
        TLanes.NarrowBits(TLanes.SelectLessBits(TLanes.BroadcastBits(0x7F800000), magnitude, nan, rounded), target);
    }
}
