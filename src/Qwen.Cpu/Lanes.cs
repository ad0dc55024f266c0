using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>
/// The 16 F32 lanes every float kernel is written in. <see cref="Vector512{T}"/> is one register with AVX-512, two with AVX2, four
/// with Vector128: the same operations on the same lanes, so every instruction set gives the same bits.
/// </summary>
internal static unsafe class Lanes
{
    public const int Count = 16;

    /// <summary>The sum of the lanes in the one order of this engine: halves are added until one is left (l + 8, l + 4, l + 2, l + 1).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Fold(Vector512<float> v)
    {
        Vector256<float> eight = v.GetLower() + v.GetUpper();
        Vector128<float> four = eight.GetLower() + eight.GetUpper();
        four += Vector128.Shuffle(four, Vector128.Create(2, 3, 0, 1));
        return four.ToScalar() + four.GetElement(1);
    }

    /// <summary>The first <paramref name="count"/> (0 to 15) floats at <paramref name="p"/>, the other lanes zero.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static Vector512<float> LoadPartial(float* p, int count)
    {
        Vector512<float> v = default;
        Unsafe.CopyBlockUnaligned(&v, p, (uint)count * sizeof(float));
        return v;
    }

    /// <summary>Stores the first <paramref name="count"/> (0 to 15) lanes.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    public static void StorePartial(Vector512<float> v, float* p, int count) => Unsafe.CopyBlockUnaligned(p, &v, (uint)count * sizeof(float));

    /// <summary>16 unsigned shorts, widened.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<uint> Widen(ushort* p)
    {
        if (Avx512F.IsSupported)
            return Avx512F.ConvertToVector512UInt32(Vector256.Load(p));
        if (Avx2.IsSupported)
            return Vector512.Create(Avx2.ConvertToVector256Int32(p), Avx2.ConvertToVector256Int32(p + 8)).AsUInt32();
        (Vector256<uint> low, Vector256<uint> high) = Vector256.Widen(Vector256.Load(p));
        return Vector512.Create(low, high);
    }

    /// <summary>Stores the low halves of 16 unsigned integers.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void StoreNarrow(Vector512<uint> v, ushort* p)
    {
        if (Avx512F.IsSupported)
            Avx512F.ConvertToVector256UInt16(v).Store(p);
        else
            Vector256.Narrow(v.GetLower(), v.GetUpper()).Store(p);
    }
}
