using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Sixteen lanes in one 512-bit register: AVX-512 F, BW, DQ and VL.</summary>
internal readonly unsafe struct Lanes512(Vector512<float> lanes) : ILanes<Lanes512>
{
    private readonly Vector512<float> _v = lanes;

    public static bool IsSupported => Avx512BW.VL.IsSupported && Avx512DQ.IsSupported;

    public static Lanes512 Zero => default;

    public static Lanes512 Broadcast(float value) => new(Vector512.Create(value));

    public static Lanes512 BroadcastBits(int value) => Bits(Vector512.Create(value));

    public static float First(Lanes512 value) => value._v.ToScalar();

    public static Lanes512 Load(float* source) => new(Vector512.Load(source));

    public static void Store(Lanes512 value, float* target) => value._v.Store(target);

    public static Lanes512 WidenBits(short* source) => Bits(Avx512F.ConvertToVector512Int32(Vector256.Load(source)));

    public static Lanes512 WidenBits(sbyte* source) => Bits(Avx512F.ConvertToVector512Int32(Vector128.Load(source)));

    public static void NarrowBits(Lanes512 value, short* target) => Avx512F.ConvertToVector256Int16(value._v.AsInt32()).Store(target);

    public static Lanes512 operator +(Lanes512 x, Lanes512 y) => new(x._v + y._v);

    public static Lanes512 operator -(Lanes512 x, Lanes512 y) => new(x._v - y._v);

    public static Lanes512 operator *(Lanes512 x, Lanes512 y) => new(x._v * y._v);

    public static Lanes512 operator /(Lanes512 x, Lanes512 y) => new(x._v / y._v);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes512 MultiplyAdd(Lanes512 x, Lanes512 y, Lanes512 z) => new(Avx512F.FusedMultiplyAdd(x._v, y._v, z._v));

    public static Lanes512 operator &(Lanes512 x, Lanes512 y) => new(x._v & y._v);

    public static Lanes512 operator |(Lanes512 x, Lanes512 y) => new(x._v | y._v);

    public static Lanes512 operator <<(Lanes512 x, int bits) => Bits(x._v.AsInt32() << bits);

    public static Lanes512 operator >>>(Lanes512 x, int bits) => Bits(x._v.AsInt32() >>> bits);

    public static Lanes512 operator >>(Lanes512 x, int bits) => Bits(x._v.AsInt32() >> bits);

    public static Lanes512 AddBits(Lanes512 x, Lanes512 y) => Bits(x._v.AsInt32() + y._v.AsInt32());

    public static Lanes512 SubtractBits(Lanes512 x, Lanes512 y) => Bits(x._v.AsInt32() - y._v.AsInt32());

    public static Lanes512 SelectLess(Lanes512 x, Lanes512 y, Lanes512 then, Lanes512 otherwise) =>
        new(Vector512.ConditionalSelect(Vector512.LessThan(x._v, y._v), then._v, otherwise._v));

    public static Lanes512 SelectLessBits(Lanes512 x, Lanes512 y, Lanes512 then, Lanes512 otherwise) =>
        Bits(Vector512.ConditionalSelect(Vector512.LessThan(x._v.AsInt32(), y._v.AsInt32()), then._v.AsInt32(), otherwise._v.AsInt32()));

    public static float Fold(Lanes512 x)
    {
        Vector256<float> half = x._v.GetLower() + x._v.GetUpper();
        return Lanes128.Fold(half.GetLower() + half.GetUpper());
    }

    /// <remarks>Four folds share their shuffles: 13 operations in place of 4 x 8.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Lanes512 x, Lanes512 y, Lanes512 z, Lanes512 w)
    {
        Vector512<float> xy = Avx512F.Shuffle4x128(x._v, y._v, 0b01_00_01_00) + Avx512F.Shuffle4x128(x._v, y._v, 0b11_10_11_10);
        Vector512<float> zw = Avx512F.Shuffle4x128(z._v, w._v, 0b01_00_01_00) + Avx512F.Shuffle4x128(z._v, w._v, 0b11_10_11_10);
        Vector512<float> xyzw = Avx512F.Shuffle4x128(xy, zw, 0b10_00_10_00) + Avx512F.Shuffle4x128(xy, zw, 0b11_01_11_01);
        Vector512<float> pairs = xyzw + Avx512F.Permute4x32(xyzw, 0b01_00_11_10);
        Vector512<float> sums = pairs + Avx512F.Permute4x32(pairs, 0b10_11_00_01);
        return Avx512F.PermuteVar16x32(sums, Vector512.Create(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12)).GetLower().GetLower();
    }

    private static Lanes512 Bits(Vector512<int> v) => new(v.AsSingle());
}
