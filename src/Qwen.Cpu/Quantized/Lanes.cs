using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu.Quantized;

/// <summary>The 16 lanes in which every output is accumulated. Where there is no AVX-512, the JIT makes each operation of two or four narrower ones.</summary>
internal static unsafe class Lanes
{
    /// <summary>Lanes of an accumulator.</summary>
    public const int Count = 16;

    /// <summary>The scales of the activations of the 16 sub-blocks from <paramref name="first"/> (a multiple of 16) on.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> ActivationScales<TFormat>(float* scales, int first)
        where TFormat : struct, IQuantizedFormat
    {
        if (TFormat.SubBlock == QuantizedActivations.BlockColumns)
            return Vector512.Load(scales + first);
        Vector256<float> eight = Vector256.Load(scales + (first / 2));
        return Join(
            Vector256.Shuffle(eight, Vector256.Create(0, 0, 1, 1, 2, 2, 3, 3)),
            Vector256.Shuffle(eight, Vector256.Create(4, 4, 5, 5, 6, 6, 7, 7)));
    }

    /// <summary>Both halves of a vector.</summary>
    /// <remarks>Vector512.Create(lower, upper) inserts both into a third register that the JIT keeps alive around loops.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<T> Join<T>(Vector256<T> lower, Vector256<T> upper) => lower.ToVector512Unsafe().WithUpper(upper);

    /// <summary>The dots of 16 sub-blocks as floats, once the offset of the codes, times the sum of the activations, is taken off.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Floats<TFormat>(Vector512<int> dots, Vector512<int> sums)
        where TFormat : struct, IQuantizedFormat =>
        Vector512.ConvertToSingle(TFormat.Offset == 0 ? dots : dots - (sums << BitOperations.Log2((uint)TFormat.Offset)));
}
