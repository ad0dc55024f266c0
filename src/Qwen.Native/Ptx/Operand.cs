using System.Globalization;

namespace Qwen.Native.Ptx;

/// <summary>What stands in an instruction: a register, or a constant (which belongs to no builder).</summary>
/// <param name="Builder">Whose register it is; null for a constant.</param>
/// <param name="Text">As PTX writes it.</param>
/// <param name="Bits">The constant's bits; 0 for a register.</param>
public readonly record struct Operand(PtxBuilder? Builder, string Text, ulong Bits = 0)
{
    /// <summary>Whether it is a constant.</summary>
    public bool IsConstant => Builder is null;

    /// <inheritdoc/>
    public override string ToString() => Text;

    internal static Operand Constant(uint value) => new(null, value.ToString(CultureInfo.InvariantCulture), value);

    internal static Operand Constant(int value) => new(null, value.ToString(CultureInfo.InvariantCulture), unchecked((uint)value));

    internal static Operand Constant(ulong value) => new(null, value.ToString(CultureInfo.InvariantCulture), value);

    internal static Operand Constant(float value) => new(null, $"0f{BitConverter.SingleToUInt32Bits(value):X8}", BitConverter.SingleToUInt32Bits(value));
}

/// <summary>A register's C# type: it says which instructions make sense of its bits.</summary>
/// <typeparam name="TSelf">The type.</typeparam>
public interface IRegister<TSelf>
    where TSelf : struct, IRegister<TSelf>
{
    /// <summary>Its PTX type, as loads, stores and moves write it.</summary>
    static abstract string Type { get; }

    /// <summary>Its bytes in memory; 0 for a predicate.</summary>
    static abstract int Bytes { get; }

    /// <summary>The letters its names begin with, one set of names for each PTX declaration.</summary>
    static abstract string Prefix { get; }

    /// <summary>As this type.</summary>
    static abstract TSelf From(Operand operand);

    /// <summary>What stands in instructions.</summary>
    Operand Operand { get; }
}
