using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>An 8-bit float format of the Open Compute Project: a sign, 7 - FractionBits bits of exponent, FractionBits of fraction.</summary>
internal interface IFloat8Format
{
    static abstract int FractionBits { get; }

    static abstract int ExponentBias { get; }

    /// <summary>The largest finite value.</summary>
    static abstract float Limit { get; }
}

internal readonly struct E4M3 : IFloat8Format
{
    public static int FractionBits => 3;

    public static int ExponentBias => 7;

    public static float Limit => 448f;
}

internal readonly struct E5M2 : IFloat8Format
{
    public static int FractionBits => 2;

    public static int ExponentBias => 15;

    public static float Limit => 57344f;
}

/// <summary>Codes of an 8-bit float format, all of them finite.</summary>
internal readonly unsafe struct Float8Element<TFormat> : IWritableElement
    where TFormat : struct, IFloat8Format
{
    public static int Bytes => 1;

    public static float Limit => TFormat.Limit;

    /// <summary>2^(127 - bias): what <see cref="LoadUnscaled{TLanes}"/> is short of.</summary>
    public static float Unit => BitConverter.Int32BitsToSingle((254 - TFormat.ExponentBias) << 23);

    private static int Shift => 23 - TFormat.FractionBits;

    /// <summary>Sixteen codes with their seven low bits where a float has its exponent and fraction: their values / Unit, exactly.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes LoadUnscaled<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> =>
        (TLanes.WidenBits((sbyte*)source) << Shift) & TLanes.BroadcastBits((0x7F << Shift) | int.MinValue);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => LoadUnscaled<TLanes>(source) * TLanes.Broadcast(Unit);

    /// <remarks>For magnitudes that round to the limit at most.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TLanes>(TLanes value, byte* target)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        TLanes magnitude = value & TLanes.BroadcastBits(0x7FFFFFFF);

        // Normal results: round half to even at the last bit of fraction, rebias. A carry into the exponent is the right answer.
        TLanes odd = (magnitude >>> Shift) & TLanes.BroadcastBits(1);
        TLanes rounded = TLanes.AddBits(TLanes.AddBits(magnitude, TLanes.BroadcastBits((1 << (Shift - 1)) - 1)), odd) >>> Shift;
        TLanes normal = TLanes.SubtractBits(rounded, TLanes.BroadcastBits((127 - TFormat.ExponentBias) << TFormat.FractionBits));

        // Subnormal results: added to a number whose last bit is the smallest subnormal, which leaves the code in the low bits.
        TLanes anchor = TLanes.BroadcastBits((127 + 24 - TFormat.ExponentBias - TFormat.FractionBits) << 23);
        TLanes subnormal = TLanes.SubtractBits(magnitude + anchor, anchor);

        TLanes code = TLanes.SelectLessBits(magnitude, TLanes.BroadcastBits((128 - TFormat.ExponentBias) << 23), subnormal, normal);
        TLanes.NarrowBits(code | ((value >>> 24) & TLanes.BroadcastBits(0x80)), (sbyte*)target);
    }
}

/// <summary>Integers from -127 to 127.</summary>
internal readonly unsafe struct Int8Element : IWritableElement
{
    public static int Bytes => 1;

    public static float Limit => 127f;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => TLanes.ConvertToSingle(TLanes.WidenBits((sbyte*)source));

    /// <remarks>1.5 * 2^23 has no bits of fraction: adding it rounds to an integer, half to even, in the low bits.</remarks>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TLanes>(TLanes value, byte* target)
        where TLanes : unmanaged, ILanes<TLanes> => TLanes.NarrowBits(value + TLanes.Broadcast(12582912f), (sbyte*)target);
}
