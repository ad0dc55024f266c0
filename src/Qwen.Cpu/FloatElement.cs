using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>A float storage type, of weights or of the KV cache: how sixteen stored elements become F32 lanes.</summary>
internal unsafe interface IFloatElement
{
    /// <summary>Bytes of an element.</summary>
    static abstract int Bytes { get; }

    /// <summary>Whether the elements lie in main memory, so that asking for them in advance pays.</summary>
    static virtual bool InMemory => true;

    /// <summary>The largest element, where vectors are scaled to fit; 0 where elements stand for themselves.</summary>
    static virtual float Limit => 0;

    /// <summary>Whether blocks of columns have scales (<see cref="ScaleGrid"/>), which sums are multiplied with.</summary>
    static virtual bool IsScaled => false;

    /// <summary>Up to this many tokens, converting the stored elements again for each tile of tokens is cheaper than writing a panel.</summary>
    static virtual int DirectTokens => 32;

    /// <summary>Sixteen elements to F32; exact.</summary>
    static abstract TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes>;

    /// <summary>Converts as much of the start of a run as the type has a faster way for than sixteen at a time; returns how much.</summary>
    static virtual int WidenRun<TLanes>(byte* source, float* target, int count)
        where TLanes : unmanaged, ILanes<TLanes> => 0;
}

/// <summary>A float storage type that is also written: how F32 lanes become stored elements.</summary>
internal unsafe interface IWritableElement : IFloatElement
{
    /// <summary>Sixteen F32 to elements, rounded to nearest even.</summary>
    static abstract void Store<TLanes>(TLanes value, byte* target)
        where TLanes : unmanaged, ILanes<TLanes>;
}

/// <summary>IEEE binary32.</summary>
internal readonly unsafe struct F32Element : IWritableElement
{
    public static int Bytes => 4;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((float*)source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TLanes>(TLanes value, byte* target)
        where TLanes : unmanaged, ILanes<TLanes> => TLanes.Store(value, (float*)target);
}

/// <summary>F32 that was just written to a panel and still lies in a cache.</summary>
internal readonly unsafe struct PanelElement : IFloatElement
{
    public static int Bytes => 4;

    public static bool InMemory => false;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => TLanes.Load((float*)source);
}

/// <summary>IEEE binary16.</summary>
internal readonly unsafe struct F16Element : IWritableElement
{
    public static int Bytes => 2;

    public static int DirectTokens => 6;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => HalfConversion.WidenF16<TLanes>((short*)source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TLanes>(TLanes value, byte* target)
        where TLanes : unmanaged, ILanes<TLanes> => HalfConversion.NarrowF16(value, (short*)target);
}

/// <summary>The upper half of a binary32.</summary>
internal readonly unsafe struct BF16Element : IWritableElement
{
    public static int Bytes => 2;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => HalfConversion.WidenBF16<TLanes>((short*)source);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<TLanes>(TLanes value, byte* target)
        where TLanes : unmanaged, ILanes<TLanes> => HalfConversion.NarrowBF16(value, (short*)target);
}

/// <summary>OCP E4M3, without its scale.</summary>
internal readonly unsafe struct F8E4M3Element : IFloatElement
{
    public static int Bytes => 1;

    public static bool IsScaled => true;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TLanes Load<TLanes>(byte* source)
        where TLanes : unmanaged, ILanes<TLanes> => Float8Conversion.Widen<TLanes>(source);

    public static int WidenRun<TLanes>(byte* source, float* target, int count)
        where TLanes : unmanaged, ILanes<TLanes> => Float8Conversion.WidenRun<TLanes>(source, target, count);
}

/// <summary>Converts runs of any length.</summary>
internal static unsafe class FloatElements
{
    /// <summary>target[i] = F32 of source[i], i in [0, count).</summary>
    public static void Widen<TLanes, TElement>(byte* source, float* target, int count)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        int i = TElement.WidenRun<TLanes>(source, target, count);
        for (; i <= count - 16; i += 16)
            TLanes.Store(TElement.Load<TLanes>(source + ((long)i * TElement.Bytes)), target + i);
        if (i < count)
        {
            ulong* stage = stackalloc ulong[8], wide = stackalloc ulong[8];
            Buffer.MemoryCopy(source + ((long)i * TElement.Bytes), stage, 64, (count - i) * TElement.Bytes);
            TLanes.Store(TElement.Load<TLanes>((byte*)stage), (float*)wide);
            Buffer.MemoryCopy(wide, target + i, 64, (count - i) * sizeof(float));
        }
    }

    /// <summary>target[i] = source[i] rounded to the element type, i in [0, count).</summary>
    public static void Narrow<TLanes, TElement>(float* source, byte* target, int count)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IWritableElement
    {
        int i = 0;
        for (; i <= count - 16; i += 16)
            TElement.Store(TLanes.Load(source + i), target + ((long)i * TElement.Bytes));
        if (i < count)
        {
            ulong* stage = stackalloc ulong[8], narrow = stackalloc ulong[8];
            Buffer.MemoryCopy(source + i, stage, 64, (count - i) * sizeof(float));
            TElement.Store(TLanes.Load((float*)stage), (byte*)narrow);
            Buffer.MemoryCopy(narrow, target + ((long)i * TElement.Bytes), 64, (count - i) * TElement.Bytes);
        }
    }
}
