using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>OCP E4M3 (finite and NaN, no infinities) to F32; exact.</summary>
/// <remarks>
/// An E4M3 value has few enough bits to be a BF16. Long runs look its two bytes up, 64 or 32 codes at a time, and interleave them with zeros:
/// with a table of all 128 magnitudes where there is a byte permute over two registers (VBMI), else by tables of 16. Shifting the code's
/// bits to their place and multiplying by 2^120 would take no more instructions, but operands that are subnormal cost a hundred cycles each,
/// and in weights scaled per tensor E4M3's own subnormals are not rare.
/// </remarks>
internal static unsafe class Float8Conversion
{
    private const int NaN = 0x7F;

    private static readonly byte[] UpperBytes = [.. Enumerable.Range(0, 128).Select(code => (byte)(Magnitude(code) >> 24))];
    private static readonly byte[] LowerBytes = [.. Enumerable.Range(0, 128).Select(code => (byte)(Magnitude(code) >> 16))];

    /// <summary>Sixteen codes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Widen<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        TLanes codes = TLanes.WidenBits((sbyte*)source);
        TLanes magnitude = (codes << 20) & TLanes.BroadcastBits(NaN << 20);
        // A subnormal gets the exponent of 2^-7 and an implied one: twice the value, less 2^-6, is without.
        TLanes value = TLanes.AddBits(magnitude, TLanes.BroadcastBits((127 - 7) << 23));
        TLanes subnormal = value + (value - TLanes.Broadcast(0.015625f));
        value = TLanes.SelectLessBits(magnitude, TLanes.BroadcastBits(1 << 23), subnormal, value);
        value = TLanes.SelectLessBits(magnitude, TLanes.BroadcastBits(NaN << 20), value, TLanes.Broadcast(float.NaN));
        return value | (codes & TLanes.BroadcastBits(int.MinValue));
    }

    /// <summary>The first codes of a run, in steps of 64 or 32; returns how many.</summary>
    public static int WidenRun<TLanes>(byte* source, float* target, int count)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        if (typeof(TLanes) == typeof(Lanes512) && Avx512Vbmi.IsSupported)
            return Widen512(source, target, count);
        return typeof(TLanes) != typeof(Lanes128) && Avx2.IsSupported ? Widen256(source, target, count) : 0;
    }

    /// <summary>The bytes of the 128 magnitudes, for <see cref="Widen(byte*, Vector512{byte}, Vector512{byte}, Vector512{byte}, Vector512{byte}, out Vector512{float}, out Vector512{float}, out Vector512{float}, out Vector512{float})"/>.</summary>
    public static void Tables(out Vector512<byte> upper0, out Vector512<byte> upper1, out Vector512<byte> lower0, out Vector512<byte> lower1)
    {
        upper0 = Vector512.Create(UpperBytes);
        upper1 = Vector512.Create(UpperBytes, 64);
        lower0 = Vector512.Create(LowerBytes);
        lower1 = Vector512.Create(LowerBytes, 64);
    }

    /// <summary>64 codes, with VBMI.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Widen(
        byte* source, Vector512<byte> upper0, Vector512<byte> upper1, Vector512<byte> lower0, Vector512<byte> lower1,
        out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d)
    {
        // Bytes are interleaved within 128 bits, and words then taken apart by parity: what is to end up in a lane is brought there first.
        Vector512<byte> codes = Avx512Vbmi.PermuteVar64x8(Vector512.Load(source), Vector512.Create(
            (byte)0, 16, 1, 17, 2, 18, 3, 19, 32, 48, 33, 49, 34, 50, 35, 51, 4, 20, 5, 21, 6, 22, 7, 23, 36, 52, 37, 53, 38, 54, 39, 55,
            8, 24, 9, 25, 10, 26, 11, 27, 40, 56, 41, 57, 42, 58, 43, 59, 12, 28, 13, 29, 14, 30, 15, 31, 44, 60, 45, 61, 46, 62, 47, 63));
        Vector512<byte> upper = Avx512Vbmi.PermuteVar64x8x2(upper0, codes, upper1) | (codes & Vector512.Create((byte)0x80));
        Vector512<byte> lower = Avx512Vbmi.PermuteVar64x8x2(lower0, codes, lower1);
        Vector512<int> ab = Avx512BW.UnpackLow(lower, upper).AsInt32(), cd = Avx512BW.UnpackHigh(lower, upper).AsInt32();
        a = (ab << 16).AsSingle();
        b = (ab & Vector512.Create(-1 << 16)).AsSingle();
        c = (cd << 16).AsSingle();
        d = (cd & Vector512.Create(-1 << 16)).AsSingle();
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static int Widen512(byte* source, float* target, int count)
    {
        Tables(out Vector512<byte> upper0, out Vector512<byte> upper1, out Vector512<byte> lower0, out Vector512<byte> lower1);
        int i = 0;
        for (; i <= count - 64; i += 64)
        {
            Widen(source + i, upper0, upper1, lower0, lower1, out Vector512<float> a, out Vector512<float> b, out Vector512<float> c, out Vector512<float> d);
            a.Store(target + i);
            b.Store(target + i + 16);
            c.Store(target + i + 32);
            d.Store(target + i + 48);
        }

        return i;
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static int Widen256(byte* source, float* target, int count)
    {
        // Code and BF16 have the same fraction. The upper byte follows from the upper nibble, for subnormals less what a table says by the
        // whole code; their lower bytes another table mends.
        Vector256<byte> upperOfNibble = Twice(Vector128.Create((byte)60, 61, 62, 63, 64, 65, 66, 67, 188, 189, 190, 191, 192, 193, 194, 195));
        Vector256<byte> upperOfSubnormal = Twice(Vector128.Create((byte)60, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0));
        Vector256<byte> lowerOfSubnormal = Twice(Vector128.Create((byte)0, 0x10, 0xA0, 0xF0, 0x40, 0x70, 0x20, 0x10, 0, 0, 0, 0, 0, 0, 0, 0));
        Vector256<int> transpose = Vector256.Create(0, 2, 4, 6, 1, 3, 5, 7);
        Vector256<byte> nibble = Vector256.Create((byte)0x0F), nan = Vector256.Create((byte)NaN);
        int i = 0;
        for (; i <= count - 32; i += 32)
        {
            Vector256<byte> codes = Avx2.PermuteVar8x32(Vector256.Load((int*)(source + i)), transpose).AsByte();
            Vector256<byte> magnitude = codes & nan;
            Vector256<byte> below16 = Avx2.AddSaturate(magnitude, Vector256.Create((byte)0x70)); // others select nothing, by their top bit
            Vector256<byte> lower = (codes.AsUInt16() << 4).AsByte() & ~nibble;
            lower ^= Avx2.Shuffle(lowerOfSubnormal, below16);
            Vector256<byte> upper = Avx2.Shuffle(upperOfNibble, (codes.AsUInt16() >> 4).AsByte() & nibble);
            upper = (upper - Avx2.Shuffle(upperOfSubnormal, below16)) | Vector256.Equals(magnitude, nan);
            Vector256<short> first = Avx2.UnpackLow(lower, upper).AsInt16(), second = Avx2.UnpackHigh(lower, upper).AsInt16();
            Avx2.UnpackLow(Vector256<short>.Zero, first).AsSingle().Store(target + i);
            Avx2.UnpackHigh(Vector256<short>.Zero, first).AsSingle().Store(target + i + 8);
            Avx2.UnpackLow(Vector256<short>.Zero, second).AsSingle().Store(target + i + 16);
            Avx2.UnpackHigh(Vector256<short>.Zero, second).AsSingle().Store(target + i + 24);
        }

        return i;

        static Vector256<byte> Twice(Vector128<byte> table) => Vector256.Create(table, table);
    }

    /// <summary>The F32 bits of a code without its sign.</summary>
    private static uint Magnitude(int code)
    {
        int exponent = code >> 3, fraction = code & 7;
        float value = code == NaN ? float.NaN : exponent == 0 ? MathF.ScaleB(fraction, -9) : MathF.ScaleB(8 + fraction, exponent - 10);
        return BitConverter.SingleToUInt32Bits(value) & int.MaxValue;
    }
}
