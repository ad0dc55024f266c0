using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>
/// What a quantized type costs to support: how a row becomes codes, scales and minima of its sub-blocks. An element is
/// scale * (code - 128) - minimum: codes are unsigned because the dot product instruction wants one unsigned side.
/// </summary>
/// <remarks>The blocks are ggml's (ggml-common.h); the reference dequantizers of Qwen.Runtime describe each.</remarks>
internal unsafe interface IQuantizedFormat
{
    /// <summary>Elements of a block in memory.</summary>
    static abstract int BlockElements { get; }

    /// <summary>Bytes of a block in memory.</summary>
    static abstract int BlockBytes { get; }

    /// <summary>Elements that share a scale: 32 or 16.</summary>
    static abstract int SubBlock { get; }

    /// <summary>Elements have a minimum; without one, <c>minima</c> is not written.</summary>
    static abstract bool HasMinimum { get; }

    /// <summary>Unpacks one block: BlockElements codes, and BlockElements / SubBlock scales and minima.</summary>
    static abstract void Unpack(byte* block, byte* codes, float* scales, float* minima);
}

internal static unsafe class Unpacking
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Half(byte* p) => (float)BitConverter.UInt16BitsToHalf(Unsafe.ReadUnaligned<ushort>(p));

    /// <summary>16 bytes of nibbles as 32 codes: the low ones first.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Nibbles(byte* p)
    {
        Vector128<byte> packed = Vector128.Load(p);
        return Vector256.Create(packed & Vector128.Create((byte)15), packed >> 4);
    }

    /// <summary>Bit i of a word in byte i: 16 where it is set, else 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> FifthBits(uint word)
    {
        Vector256<byte> bytes = Vector256.Create(
            Vector128.Shuffle(Vector128.CreateScalar(word).AsByte(), Vector128.Create((byte)0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)),
            Vector128.Shuffle(Vector128.CreateScalar(word).AsByte(), Vector128.Create((byte)2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3)));
        Vector256<byte> bit = Vector256.Create(0x8040201008040201ul).AsByte();
        return Vector256.Equals(bytes & bit, bit) & Vector256.Create((byte)16);
    }

    /// <summary>Levels of the non-linear 4-bit types, plus 128.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> Levels(byte* p)
    {
        Vector128<byte> table = Vector128.Create((byte)1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241), packed = Vector128.Load(p);
        return Vector256.Create(Vector128.Shuffle(table, packed & Vector128.Create((byte)15)), Vector128.Shuffle(table, packed >> 4));
    }

    /// <summary>The 6-bit scale and minimum of sub-block s of Q4_K and Q5_K, packed in 12 bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static (int Scale, int Minimum) SixBits(byte* packed, int s) => s < 4
        ? (packed[s] & 63, packed[s + 4] & 63)
        : ((packed[s + 4] & 15) | (packed[s - 4] >> 6 << 4), (packed[s + 4] >> 4) | (packed[s] >> 6 << 4));

    /// <summary>The scales and minima of a super-block of Q4_K or Q5_K, which begins with both halves and the 12 bytes.</summary>
    public static void ScalesAndMinima(byte* block, float* scales, float* minima)
    {
        float d = Half(block), dmin = Half(block + 2);
        for (int s = 0; s < 8; s++)
        {
            (int scale, int minimum) = SixBits(block + 4, s);
            scales[s] = d * scale;
            minima[s] = dmin * minimum;
        }
    }

    /// <summary>2-bit codes of 256 elements in 64 bytes: element e of half h in bits 2 * (e / 32) of byte 32 h + e % 32.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<byte> TwoBits(byte* packed, int sub) => (Vector256.Load(packed + (sub / 4 * 32)) >> (sub % 4 * 2)) & Vector256.Create((byte)3);
}

internal readonly unsafe struct Q4_0 : IQuantizedFormat
{
    public static int BlockElements => 32;

    public static int BlockBytes => 18;

    public static int SubBlock => 32;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        *scales = Unpacking.Half(block);
        (Unpacking.Nibbles(block + 2) + Vector256.Create((byte)(128 - 8))).Store(codes);
    }
}

internal readonly unsafe struct Q4_1 : IQuantizedFormat
{
    public static int BlockElements => 32;

    public static int BlockBytes => 20;

    public static int SubBlock => 32;

    public static bool HasMinimum => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        *scales = Unpacking.Half(block);
        *minima = -Unpacking.Half(block + 2);
        (Unpacking.Nibbles(block + 4) + Vector256.Create((byte)128)).Store(codes);
    }
}

internal readonly unsafe struct Q5_0 : IQuantizedFormat
{
    public static int BlockElements => 32;

    public static int BlockBytes => 22;

    public static int SubBlock => 32;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        *scales = Unpacking.Half(block);
        ((Unpacking.Nibbles(block + 6) | Unpacking.FifthBits(Unsafe.ReadUnaligned<uint>(block + 2))) + Vector256.Create((byte)(128 - 16))).Store(codes);
    }
}

internal readonly unsafe struct Q5_1 : IQuantizedFormat
{
    public static int BlockElements => 32;

    public static int BlockBytes => 24;

    public static int SubBlock => 32;

    public static bool HasMinimum => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        *scales = Unpacking.Half(block);
        *minima = -Unpacking.Half(block + 2);
        ((Unpacking.Nibbles(block + 8) | Unpacking.FifthBits(Unsafe.ReadUnaligned<uint>(block + 4))) + Vector256.Create((byte)128)).Store(codes);
    }
}

internal readonly unsafe struct Q8_0 : IQuantizedFormat
{
    public static int BlockElements => 32;

    public static int BlockBytes => 34;

    public static int SubBlock => 32;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        *scales = Unpacking.Half(block);
        (Vector256.Load(block + 2) ^ Vector256.Create((byte)128)).Store(codes);
    }
}

internal readonly unsafe struct Q2_K : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 84;

    public static int SubBlock => 16;

    public static bool HasMinimum => true;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        float d = Unpacking.Half(block + 80), dmin = Unpacking.Half(block + 82);
        for (int s = 0; s < 16; s++)
        {
            scales[s] = d * (block[s] & 15);
            minima[s] = dmin * (block[s] >> 4);
        }

        for (int i = 0; i < 8; i++)
            (Unpacking.TwoBits(block + 16, i) + Vector256.Create((byte)128)).Store(codes + (i * 32));
    }
}

internal readonly unsafe struct Q3_K : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 110;

    public static int SubBlock => 16;

    public static bool HasMinimum => false;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        float d = Unpacking.Half(block + 108);
        byte* packed = block + 96;
        for (int s = 0; s < 16; s++)
        {
            int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4, high = (packed[8 + (s % 4)] >> (s / 4 * 2)) & 3;
            scales[s] = d * ((low | (high << 4)) - 32);
        }

        Vector256<byte> third = Vector256.Load(block);
        for (int i = 0; i < 8; i++)
        {
            // The third bit takes 4 off where it is not set.
            Vector256<byte> bit = (third >> i) & Vector256<byte>.One;
            (Unpacking.TwoBits(block + 32, i) + (bit << 2) + Vector256.Create((byte)(128 - 4))).Store(codes + (i * 32));
        }
    }
}

internal readonly unsafe struct Q4_K : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 144;

    public static int SubBlock => 32;

    public static bool HasMinimum => true;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        Unpacking.ScalesAndMinima(block, scales, minima);
        for (int pair = 0; pair < 4; pair++)
        {
            Vector256<byte> packed = Vector256.Load(block + 16 + (pair * 32));
            ((packed & Vector256.Create((byte)15)) + Vector256.Create((byte)128)).Store(codes + (pair * 64));
            ((packed >> 4) + Vector256.Create((byte)128)).Store(codes + (pair * 64) + 32);
        }
    }
}

internal readonly unsafe struct Q5_K : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 176;

    public static int SubBlock => 32;

    public static bool HasMinimum => true;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        Unpacking.ScalesAndMinima(block, scales, minima);
        Vector256<byte> fifth = Vector256.Load(block + 16), one = Vector256<byte>.One;
        for (int pair = 0; pair < 4; pair++)
        {
            Vector256<byte> packed = Vector256.Load(block + 48 + (pair * 32));
            Vector256<byte> low = (packed & Vector256.Create((byte)15)) | (((fifth >> (2 * pair)) & one) << 4);
            Vector256<byte> high = (packed >> 4) | (((fifth >> ((2 * pair) + 1)) & one) << 4);
            (low + Vector256.Create((byte)128)).Store(codes + (pair * 64));
            (high + Vector256.Create((byte)128)).Store(codes + (pair * 64) + 32);
        }
    }
}

internal readonly unsafe struct Q6_K : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 210;

    public static int SubBlock => 16;

    public static bool HasMinimum => false;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        float d = Unpacking.Half(block + 208);
        for (int s = 0; s < 16; s++)
            scales[s] = d * (sbyte)block[192 + s];
        Vector256<byte> four = Vector256.Create((byte)15), two = Vector256.Create((byte)3), offset = Vector256.Create((byte)(128 - 32));
        for (int half = 0; half < 2; half++)
        {
            byte* low = block + (half * 64);
            Vector256<byte> a = Vector256.Load(low), b = Vector256.Load(low + 32), high = Vector256.Load(block + 128 + (half * 32));
            byte* to = codes + (half * 128);
            (((a & four) | ((high & two) << 4)) + offset).Store(to);
            (((b & four) | (((high >> 2) & two) << 4)) + offset).Store(to + 32);
            (((a >> 4) | (((high >> 4) & two) << 4)) + offset).Store(to + 64);
            (((b >> 4) | ((high >> 6) << 4)) + offset).Store(to + 96);
        }
    }
}

internal readonly unsafe struct Q8_K : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 292;

    public static int SubBlock => 32;

    public static bool HasMinimum => false;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        for (int i = 0; i < 8; i++)
        {
            scales[i] = Unsafe.ReadUnaligned<float>(block);
            (Vector256.Load(block + 4 + (i * 32)) ^ Vector256.Create((byte)128)).Store(codes + (i * 32));
        }
    }
}

internal readonly unsafe struct IQ4_NL : IQuantizedFormat
{
    public static int BlockElements => 32;

    public static int BlockBytes => 18;

    public static int SubBlock => 32;

    public static bool HasMinimum => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        *scales = Unpacking.Half(block);
        Unpacking.Levels(block + 2).Store(codes);
    }
}

internal readonly unsafe struct IQ4_XS : IQuantizedFormat
{
    public static int BlockElements => 256;

    public static int BlockBytes => 136;

    public static int SubBlock => 32;

    public static bool HasMinimum => false;

    public static void Unpack(byte* block, byte* codes, float* scales, float* minima)
    {
        float d = Unpacking.Half(block);
        int high = Unsafe.ReadUnaligned<ushort>(block + 2);
        for (int s = 0; s < 8; s++)
        {
            int scale = ((block[4 + (s / 2)] >> (s % 2 * 4)) & 15) | (((high >> (2 * s)) & 3) << 4);
            scales[s] = d * (scale - 32);
            Unpacking.Levels(block + 8 + (s * 16)).Store(codes + (s * 32));
        }
    }
}
