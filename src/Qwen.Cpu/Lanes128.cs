using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Sixteen lanes in four 128-bit registers: runs everywhere (SSE, Arm64, or plain code where there is no SIMD).</summary>
internal readonly unsafe struct Lanes128(Vector128<float> a, Vector128<float> b, Vector128<float> c, Vector128<float> d) : ILanes<Lanes128>
{
    private readonly Vector128<float> _a = a, _b = b, _c = c, _d = d;

    public static bool IsSupported => true;

    public static Lanes128 Zero => default;

    public static Lanes128 Broadcast(float value)
    {
        Vector128<float> v = Vector128.Create(value);
        return new(v, v, v, v);
    }

    public static Lanes128 BroadcastBits(int value) => Broadcast(BitConverter.Int32BitsToSingle(value));

    public static float First(Lanes128 value) => value._a.ToScalar();

    public static Lanes128 Load(float* source) =>
        new(Vector128.Load(source), Vector128.Load(source + 4), Vector128.Load(source + 8), Vector128.Load(source + 12));

    public static void Store(Lanes128 value, float* target)
    {
        value._a.Store(target);
        value._b.Store(target + 4);
        value._c.Store(target + 8);
        value._d.Store(target + 12);
    }

    public static Lanes128 WidenBits(short* source)
    {
        (Vector128<int> a, Vector128<int> b) = Vector128.Widen(Vector128.Load(source));
        (Vector128<int> c, Vector128<int> d) = Vector128.Widen(Vector128.Load(source + 8));
        return Bits(a, b, c, d);
    }

    public static Lanes128 WidenBits(sbyte* source)
    {
        (Vector128<short> low, Vector128<short> high) = Vector128.Widen(Vector128.Load(source));
        (Vector128<int> a, Vector128<int> b) = Vector128.Widen(low);
        (Vector128<int> c, Vector128<int> d) = Vector128.Widen(high);
        return Bits(a, b, c, d);
    }

    public static void NarrowBits(Lanes128 value, short* target)
    {
        Vector128.Narrow(value._a.AsInt32(), value._b.AsInt32()).Store(target);
        Vector128.Narrow(value._c.AsInt32(), value._d.AsInt32()).Store(target + 8);
    }

    public static void NarrowBits(Lanes128 value, sbyte* target) => Vector128.Narrow(
        Vector128.Narrow(value._a.AsInt32(), value._b.AsInt32()), Vector128.Narrow(value._c.AsInt32(), value._d.AsInt32())).Store(target);

    public static Lanes128 ConvertToSingle(Lanes128 bits) => new(
        Vector128.ConvertToSingle(bits._a.AsInt32()), Vector128.ConvertToSingle(bits._b.AsInt32()),
        Vector128.ConvertToSingle(bits._c.AsInt32()), Vector128.ConvertToSingle(bits._d.AsInt32()));

    public static Lanes128 operator +(Lanes128 x, Lanes128 y) => new(x._a + y._a, x._b + y._b, x._c + y._c, x._d + y._d);

    public static Lanes128 operator -(Lanes128 x, Lanes128 y) => new(x._a - y._a, x._b - y._b, x._c - y._c, x._d - y._d);

    public static Lanes128 operator *(Lanes128 x, Lanes128 y) => new(x._a * y._a, x._b * y._b, x._c * y._c, x._d * y._d);

    public static Lanes128 operator /(Lanes128 x, Lanes128 y) => new(x._a / y._a, x._b / y._b, x._c / y._c, x._d / y._d);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Lanes128 MultiplyAdd(Lanes128 x, Lanes128 y, Lanes128 z) => new(
        Vector128.FusedMultiplyAdd(x._a, y._a, z._a),
        Vector128.FusedMultiplyAdd(x._b, y._b, z._b),
        Vector128.FusedMultiplyAdd(x._c, y._c, z._c),
        Vector128.FusedMultiplyAdd(x._d, y._d, z._d));

    public static Lanes128 operator &(Lanes128 x, Lanes128 y) => new(x._a & y._a, x._b & y._b, x._c & y._c, x._d & y._d);

    public static Lanes128 operator |(Lanes128 x, Lanes128 y) => new(x._a | y._a, x._b | y._b, x._c | y._c, x._d | y._d);

    public static Lanes128 operator <<(Lanes128 x, int bits) =>
        Bits(x._a.AsInt32() << bits, x._b.AsInt32() << bits, x._c.AsInt32() << bits, x._d.AsInt32() << bits);

    public static Lanes128 operator >>>(Lanes128 x, int bits) =>
        Bits(x._a.AsInt32() >>> bits, x._b.AsInt32() >>> bits, x._c.AsInt32() >>> bits, x._d.AsInt32() >>> bits);

    public static Lanes128 operator >>(Lanes128 x, int bits) =>
        Bits(x._a.AsInt32() >> bits, x._b.AsInt32() >> bits, x._c.AsInt32() >> bits, x._d.AsInt32() >> bits);

    public static Lanes128 AddBits(Lanes128 x, Lanes128 y) => Bits(
        x._a.AsInt32() + y._a.AsInt32(), x._b.AsInt32() + y._b.AsInt32(), x._c.AsInt32() + y._c.AsInt32(), x._d.AsInt32() + y._d.AsInt32());

    public static Lanes128 SubtractBits(Lanes128 x, Lanes128 y) => Bits(
        x._a.AsInt32() - y._a.AsInt32(), x._b.AsInt32() - y._b.AsInt32(), x._c.AsInt32() - y._c.AsInt32(), x._d.AsInt32() - y._d.AsInt32());

    public static Lanes128 SelectLess(Lanes128 x, Lanes128 y, Lanes128 then, Lanes128 otherwise) => new(
        Vector128.ConditionalSelect(Vector128.LessThan(x._a, y._a), then._a, otherwise._a),
        Vector128.ConditionalSelect(Vector128.LessThan(x._b, y._b), then._b, otherwise._b),
        Vector128.ConditionalSelect(Vector128.LessThan(x._c, y._c), then._c, otherwise._c),
        Vector128.ConditionalSelect(Vector128.LessThan(x._d, y._d), then._d, otherwise._d));

    public static Lanes128 SelectLessBits(Lanes128 x, Lanes128 y, Lanes128 then, Lanes128 otherwise) => new(
        Vector128.ConditionalSelect(Vector128.LessThan(x._a.AsInt32(), y._a.AsInt32()).AsSingle(), then._a, otherwise._a),
        Vector128.ConditionalSelect(Vector128.LessThan(x._b.AsInt32(), y._b.AsInt32()).AsSingle(), then._b, otherwise._b),
        Vector128.ConditionalSelect(Vector128.LessThan(x._c.AsInt32(), y._c.AsInt32()).AsSingle(), then._c, otherwise._c),
        Vector128.ConditionalSelect(Vector128.LessThan(x._d.AsInt32(), y._d.AsInt32()).AsSingle(), then._d, otherwise._d));

    public static float Fold(Lanes128 x) => Fold((x._a + x._c) + (x._b + x._d));

    public static Vector128<float> Fold(Lanes128 x, Lanes128 y, Lanes128 z, Lanes128 w) =>
        Vector128.Create(Fold(x), Fold(y), Fold(z), Fold(w));

    /// <summary>The last two steps of the canonical order.</summary>
    internal static float Fold(Vector128<float> quarter) =>
        (quarter.GetElement(0) + quarter.GetElement(2)) + (quarter.GetElement(1) + quarter.GetElement(3));

    private static Lanes128 Bits(Vector128<int> a, Vector128<int> b, Vector128<int> c, Vector128<int> d) =>
        new(a.AsSingle(), b.AsSingle(), c.AsSingle(), d.AsSingle());
}
