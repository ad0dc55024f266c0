using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>Sixteen 32-bit lanes: the width in which every float kernel is defined, whatever the machine's registers.</summary>
/// <remarks>
/// A kernel is written once over this interface and compiled per instruction set: one 512-bit register (<see cref="Lanes512"/>),
/// two of 256 bits (<see cref="Lanes256"/>) or four of 128 (<see cref="Lanes128"/>, any machine). Each operation is one correctly
/// rounded IEEE operation per lane, and <see cref="Fold(TSelf)"/> has one order, so all levels give the same bits.
/// Bit operations see a lane as a 32-bit integer. Pointers need no alignment.
/// </remarks>
internal unsafe interface ILanes<TSelf>
    where TSelf : unmanaged, ILanes<TSelf>
{
    static abstract bool IsSupported { get; }

    static abstract TSelf Zero { get; }

    static abstract TSelf Broadcast(float value);

    static abstract TSelf BroadcastBits(int value);

    static abstract float First(TSelf value);

    static abstract TSelf Load(float* source);

    static abstract void Store(TSelf value, float* target);

    /// <summary>Sixteen 16-bit elements, each sign-extended to its lane.</summary>
    static abstract TSelf WidenBits(short* source);

    /// <summary>Sixteen 8-bit elements, each sign-extended to its lane.</summary>
    static abstract TSelf WidenBits(sbyte* source);

    /// <summary>Stores the low 16 bits of each lane.</summary>
    static abstract void NarrowBits(TSelf value, short* target);

    /// <summary>Stores the low 8 bits of each lane.</summary>
    static abstract void NarrowBits(TSelf value, sbyte* target);

    /// <summary>Signed integers to floats, rounded to nearest even.</summary>
    static abstract TSelf ConvertToSingle(TSelf bits);

    static abstract TSelf operator +(TSelf a, TSelf b);

    static abstract TSelf operator -(TSelf a, TSelf b);

    static abstract TSelf operator *(TSelf a, TSelf b);

    static abstract TSelf operator /(TSelf a, TSelf b);

    /// <summary>a * b + c, rounded once.</summary>
    static abstract TSelf MultiplyAdd(TSelf a, TSelf b, TSelf c);

    static abstract TSelf operator &(TSelf a, TSelf b);

    static abstract TSelf operator |(TSelf a, TSelf b);

    static abstract TSelf operator <<(TSelf a, int bits);

    /// <summary>Shifts zeros in.</summary>
    static abstract TSelf operator >>>(TSelf a, int bits);

    /// <summary>Shifts the sign in.</summary>
    static abstract TSelf operator >>(TSelf a, int bits);

    static abstract TSelf AddBits(TSelf a, TSelf b);

    static abstract TSelf SubtractBits(TSelf a, TSelf b);

    /// <summary>x where a &lt; b as floats (never for NaN), else y.</summary>
    static abstract TSelf SelectLess(TSelf a, TSelf b, TSelf x, TSelf y);

    /// <summary>x where a &lt; b as signed integers, else y.</summary>
    static abstract TSelf SelectLessBits(TSelf a, TSelf b, TSelf x, TSelf y);

    /// <summary>The sum of the lanes in the one canonical order: a[l] += a[l + n] for n = 8, 4, 2, 1.</summary>
    static abstract float Fold(TSelf a);

    /// <summary>The four sums of four lane vectors, each in the order of <see cref="Fold(TSelf)"/>.</summary>
    static abstract Vector128<float> Fold(TSelf a, TSelf b, TSelf c, TSelf d);
}
