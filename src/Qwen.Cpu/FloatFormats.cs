using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>A float type in memory and its 16 lanes in registers. Widening is exact; narrowing rounds to nearest, ties to even.</summary>
internal unsafe interface IFloatFormat
{
    /// <summary>Bytes of an element.</summary>
    static abstract int Bytes { get; }

    /// <summary>16 elements at index <paramref name="i"/>.</summary>
    static abstract Vector512<float> Load(byte* p, long i);

    /// <summary>Stores 16 elements at index <paramref name="i"/>.</summary>
    static abstract void Store(Vector512<float> v, byte* p, long i);

    /// <summary><paramref name="count"/> elements from index <paramref name="i"/> on, the other lanes zero.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    static Vector512<float> LoadPartial<T>(byte* p, long i, int count)
        where T : struct, IFloatFormat
    {
        byte* buffer = stackalloc byte[Lanes.Count * sizeof(float)];
        Unsafe.InitBlockUnaligned(buffer, 0, Lanes.Count * sizeof(float));
        Unsafe.CopyBlockUnaligned(buffer, p + (i * T.Bytes), (uint)(count * T.Bytes));
        return T.Load(buffer, 0);
    }

    /// <summary>Stores the first <paramref name="count"/> lanes from index <paramref name="i"/> on.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    static void StorePartial<T>(Vector512<float> v, byte* p, long i, int count)
        where T : struct, IFloatFormat
    {
        byte* buffer = stackalloc byte[Lanes.Count * sizeof(float)];
        T.Store(v, buffer, 0);
        Unsafe.CopyBlockUnaligned(p + (i * T.Bytes), buffer, (uint)(count * T.Bytes));
    }

    /// <summary>Widens <paramref name="count"/> elements.</summary>
    static void Widen<T>(byte* from, float* to, int count)
        where T : struct, IFloatFormat
    {
        int i = 0;
        for (; i <= count - Lanes.Count; i += Lanes.Count)
            T.Load(from, i).Store(to + i);
        if (i < count)
            Lanes.StorePartial(LoadPartial<T>(from, i, count - i), to + i, count - i);
    }

    /// <summary>Narrows <paramref name="count"/> elements.</summary>
    static void Narrow<T>(float* from, byte* to, int count)
        where T : struct, IFloatFormat
    {
        int i = 0;
        for (; i <= count - Lanes.Count; i += Lanes.Count)
            T.Store(Vector512.Load(from + i), to, i);
        if (i < count)
            StorePartial<T>(Lanes.LoadPartial(from + i, count - i), to, i, count - i);
    }
}

/// <summary>IEEE binary32.</summary>
internal readonly unsafe struct F32 : IFloatFormat
{
    public static int Bytes => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(byte* p, long i) => Vector512.Load((float*)p + i);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store(Vector512<float> v, byte* p, long i) => v.Store((float*)p + i);
}

/// <summary>bfloat16: the upper half of a binary32.</summary>
internal readonly unsafe struct BF16 : IFloatFormat
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(byte* p, long i) => (Lanes.Widen((ushort*)p + i) << 16).AsSingle();

    public static void Store(Vector512<float> v, byte* p, long i)
    {
        Vector512<uint> bits = v.AsUInt32();
        Vector512<uint> rounded = (bits + Vector512.Create(0x7fffu) + ((bits >> 16) & Vector512<uint>.One)) >> 16;
        Vector512<uint> quiet = (bits >> 16) | Vector512.Create(0x40u); // a NaN must not round to infinity
        Vector512<uint> isNan = ~Vector512.Equals(v, v).AsUInt32();
        Lanes.StoreNarrow(Vector512.ConditionalSelect(isNan, quiet, rounded), (ushort*)p + i);
    }
}

/// <summary>IEEE binary16. .NET exposes no conversion instruction, so these are the integer forms (F. Giesen, "Float to half").</summary>
internal readonly unsafe struct F16 : IFloatFormat
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<float> Load(byte* p, long i)
    {
        Vector512<uint> half = Lanes.Widen((ushort*)p + i);
        Vector512<uint> magnitude = (half & Vector512.Create(0x7fffu)) << 13;
        // Multiplying by 2^112 rebases the exponent, and makes subnormals exact.
        Vector512<uint> finite = (magnitude.AsSingle() * Vector512.Create(5.192296858534828e33f)).AsUInt32();
        Vector512<uint> special = magnitude | Vector512.Create(0x7f800000u);
        Vector512<uint> isSpecial = Vector512.GreaterThan(magnitude.AsInt32(), Vector512.Create(0x0f7fffff)).AsUInt32();
        return (Vector512.ConditionalSelect(isSpecial, special, finite) | ((half & Vector512.Create(0x8000u)) << 16)).AsSingle();
    }

    public static void Store(Vector512<float> v, byte* p, long i)
    {
        Vector512<uint> bits = v.AsUInt32(), sign = bits & Vector512.Create(0x80000000u), magnitude = bits ^ sign;
        Vector512<uint> odd = (magnitude >> 13) & Vector512<uint>.One;
        Vector512<uint> normal = (magnitude + Vector512.Create(0xc8000fffu) + odd) >> 13; // exponent less 112, half an ulp more
        Vector512<uint> small = (magnitude.AsSingle() + Vector512.Create(0.5f)).AsUInt32() - Vector512.Create(0x3f000000u); // the adder rounds
        Vector512<uint> special = Vector512.ConditionalSelect(
            Vector512.GreaterThan(magnitude.AsInt32(), Vector512.Create(0x7f800000)).AsUInt32(),
            Vector512.Create(0x7e00u) | ((magnitude >> 13) & Vector512.Create(0x3ffu)),
            Vector512.Create(0x7c00u));
        Vector512<uint> result = Vector512.ConditionalSelect(Vector512.LessThan(magnitude.AsInt32(), Vector512.Create(0x38800000)).AsUInt32(), small, normal);
        result = Vector512.ConditionalSelect(Vector512.GreaterThan(magnitude.AsInt32(), Vector512.Create(0x477fffff)).AsUInt32(), special, result);
        Lanes.StoreNarrow(result | (sign >> 16), (ushort*)p + i);
    }
}
