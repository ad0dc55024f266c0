using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>Dicts by Python's rules for keys: scalars only, and numbers that are equal are one key whatever their type.</summary>
internal sealed class Dicts : IEqualityComparer<Value>
{
    private static readonly Dicts Comparer = new();

    public static OrderedDictionary<Value, Value> Create(int capacity = 0) => new(capacity, Comparer);

    public static HashSet<Value> CreateSet() => new(Comparer);

    /// <summary>Whether a value can be a key. Python also takes tuples, which no chat template needs.</summary>
    public static bool IsKey(Value value) => value is StringValue or IntValue or FloatValue or BoolValue or NoneValue;

    public static void RequireKey(RenderContext context, Value key)
    {
        if (!IsKey(key))
            throw context.Error($"a {key.TypeName} cannot be a key");
    }

    /// <summary>The value of a key, or null where there is none; asking for a list or a dict is an error, as in Python.</summary>
    public static Value? Find(RenderContext context, DictValue dict, Value key)
    {
        if (key is ListValue or DictValue)
            throw context.Error($"a {key.TypeName} cannot be a key");
        return IsKey(key) ? dict.Items.GetValueOrDefault(key) : null;
    }

    public bool Equals(Value? x, Value? y) => (x, y) switch
    {
        (StringValue a, StringValue b) => a.Text == b.Text,
        (NoneValue, NoneValue) => true,
        _ => Operators.IsNumber(x!) && Operators.IsNumber(y!) && Operators.NumbersEqual(x!, y!),
    };

    public int GetHashCode(Value obj) => obj switch
    {
        StringValue s => s.Text.GetHashCode(StringComparison.Ordinal),
        FloatValue { Number: double n } when Math.Floor(n) != n || double.IsInfinity(n) => n.GetHashCode(),
        FloatValue f => new BigInteger(f.Number).GetHashCode(),
        _ => Operators.TryInteger(obj, out BigInteger i) ? i.GetHashCode() : 0,
    };
}
