using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>Sixteen lanes in two 256-bit registers: AVX2 with FMA.</summary>
internal readonly unsafe struct Lanes256(Vector256<float> a, Vector256<float> b) : ILanes<Lanes256>
{
    private readonly Vector256<float> _a = a, _b = b;

    public static bool IsSupported => Avx2.IsSupported && Fma.IsSupported;

    public static Lanes256 Zero => default;

    public static Lanes256 Broadcast(float value)
    {
        Vector256<float> v = Vector256.Create(value);
        return new(v, v);
    }

    public static Lanes256 BroadcastBits(int value) => Broadcast(BitConverter.Int32BitsToSingle(value));

    public static float First(Lanes256 value) => value._a.ToScalar();

    public static Lanes256 Load(float* source) => new(Vector256.Load(source), Vector256.Load(source + 8));

    public static void Store(Lanes256 value, float* target)
    {
        value._a.Store(target);
        value._b.Store(target + 8);
    }

    public static Lanes256 WidenBits(short* source) => Bits(Avx2.ConvertToVector256Int32(source), Avx2.ConvertToVector256Int32(source + 8));

    public static Lanes256 WidenBits(sbyte* source) => Bits(Avx2.ConvertToVector256Int32(source), Avx2.ConvertToVector256Int32(source + 8));

    public static void NarrowBits(Lanes256 value, short* target) => Vector256.Narrow(value._a.AsInt32(), value._b.AsInt32()).Store(target);

    public static Lanes256 operator +(Lanes256 x, Lanes256 y) => new(x._a + y._a, x._b + y._b);

    public static Lanes256 operator -(Lanes256 x, Lanes256 y) => new(x._a - y._a, x._b - y._b);

    public static Lanes256 operator *(Lanes256 x, Lanes256 y) => new(x._a * y._a, x._b * y._b);

    public static Lanes256 operator /(Lanes256 x, Lanes256 y) => new(x._a / y._a, x._b / y._b);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes256 MultiplyAdd(Lanes256 x, Lanes256 y, Lanes256 z) =>
        new(Fma.MultiplyAdd(x._a, y._a, z._a), Fma.MultiplyAdd(x._b, y._b, z._b));

    public static Lanes256 operator &(Lanes256 x, Lanes256 y) => new(x._a & y._a, x._b & y._b);

    public static Lanes256 operator |(Lanes256 x, Lanes256 y) => new(x._a | y._a, x._b | y._b);

    public static Lanes256 operator <<(Lanes256 x, int bits) => Bits(x._a.AsInt32() << bits, x._b.AsInt32() << bits);

    public static Lanes256 operator >>>(Lanes256 x, int bits) => Bits(x._a.AsInt32() >>> bits, x._b.AsInt32() >>> bits);

    public static Lanes256 operator >>(Lanes256 x, int bits) => Bits(x._a.AsInt32() >> bits, x._b.AsInt32() >> bits);

    public static Lanes256 AddBits(Lanes256 x, Lanes256 y) => Bits(x._a.AsInt32() + y._a.AsInt32(), x._b.AsInt32() + y._b.AsInt32());

    public static Lanes256 SubtractBits(Lanes256 x, Lanes256 y) => Bits(x._a.AsInt32() - y._a.AsInt32(), x._b.AsInt32() - y._b.AsInt32());

    public static Lanes256 SelectLess(Lanes256 x, Lanes256 y, Lanes256 then, Lanes256 otherwise) => new(
        Vector256.ConditionalSelect(Vector256.LessThan(x._a, y._a), then._a, otherwise._a),
        Vector256.ConditionalSelect(Vector256.LessThan(x._b, y._b), then._b, otherwise._b));

    public static Lanes256 SelectLessBits(Lanes256 x, Lanes256 y, Lanes256 then, Lanes256 otherwise) => new(
        Vector256.ConditionalSelect(Vector256.LessThan(x._a.AsInt32(), y._a.AsInt32()).AsSingle(), then._a, otherwise._a),
        Vector256.ConditionalSelect(Vector256.LessThan(x._b.AsInt32(), y._b.AsInt32()).AsSingle(), then._b, otherwise._b));

    public static float Fold(Lanes256 x)
    {
        Vector256<float> half = x._a + x._b;
        return Lanes128.Fold(half.GetLower() + half.GetUpper());
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<float> Fold(Lanes256 x, Lanes256 y, Lanes256 z, Lanes256 w) =>
        Fold(x._a + x._b, y._a + y._b, z._a + z._b, w._a + w._b);

    /// <summary>The last three steps of the canonical order, for four sums at once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static Vector128<float> Fold(Vector256<float> x, Vector256<float> y, Vector256<float> z, Vector256<float> w)
    {
        Vector256<float> xy = Avx.Permute2x128(x, y, 0x20) + Avx.Permute2x128(x, y, 0x31);
        Vector256<float> zw = Avx.Permute2x128(z, w, 0x20) + Avx.Permute2x128(z, w, 0x31);
        Vector256<float> xzyw = Avx.Shuffle(xy, zw, 0b01_00_01_00) + Avx.Shuffle(xy, zw, 0b11_10_11_10);
        Vector256<float> sums = xzyw + Avx.Permute(xzyw, 0b10_11_00_01);
        return Sse41.Blend(sums.GetLower(), sums.GetUpper(), 0b1010);
    }

    private static Lanes256 Bits(Vector256<int> a, Vector256<int> b) => new(a.AsSingle(), b.AsSingle());
}
