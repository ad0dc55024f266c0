using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>A value inside a template: a closed set of immutable kinds (a namespace alone can change), none of which reaches into .NET.</summary>
/// <remarks>Lists and dicts are immutable because the sandbox refuses Python's mutating methods, so values can be shared freely and never form a cycle except through a namespace.</remarks>
internal abstract class Value
{
    /// <summary>Python's name of the type, for messages.</summary>
    public abstract string TypeName { get; }

    /// <summary>Python's truth value.</summary>
    public virtual bool IsTrue => true;
}

/// <summary>What a missing name, attribute or item gives. It prints as nothing and is false; any other use is an error that tells <see cref="Reason"/>.</summary>
internal sealed class UndefinedValue(string reason) : Value
{
    public string Reason { get; } = reason;
    public override string TypeName => "Undefined";
    public override bool IsTrue => false;
}

internal sealed class NoneValue : Value
{
    public static readonly NoneValue Instance = new();

    private NoneValue()
    {
    }

    public override string TypeName => "None";
    public override bool IsTrue => false;
}

internal sealed class BoolValue : Value
{
    public static readonly BoolValue True = new(true);
    public static readonly BoolValue False = new(false);

    private readonly bool _value;

    private BoolValue(bool value) => _value = value;

    public static BoolValue Of(bool value) => value ? True : False;

    public override string TypeName => "bool";
    public override bool IsTrue => _value;
}

internal sealed class IntValue(BigInteger number) : Value
{
    public BigInteger Number { get; } = number;
    public override string TypeName => "int";
    public override bool IsTrue => !Number.IsZero;
}

internal sealed class FloatValue(double number) : Value
{
    public double Number { get; } = number;
    public override string TypeName => "float";
    public override bool IsTrue => Number != 0;
}

/// <summary>A string: valid UTF-16 except for the sentinels of control tokens. Lengths and indices in templates count code points.</summary>
internal sealed class StringValue(string text) : Value
{
    public static readonly StringValue Empty = new("");

    public string Text { get; } = text;
    public override string TypeName => "str";
    public override bool IsTrue => Text.Length > 0;
}

/// <summary>A list or a tuple.</summary>
internal abstract class SequenceValue(Value[] items) : Value
{
    public Value[] Items { get; } = items;
    public override bool IsTrue => Items.Length > 0;
}

internal sealed class ListValue(Value[] items) : SequenceValue(items)
{
    public override string TypeName => "list";
}

internal sealed class TupleValue(Value[] items) : SequenceValue(items)
{
    public override string TypeName => "tuple";
}

internal sealed class RangeValue(long start, long stop, long step) : Value
{
    public long Start { get; } = start;
    public long Stop { get; } = stop;
    public long Step { get; } = step;
    public int Count { get; } = (int)Math.Max(0, step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step);
    public override string TypeName => "range";
    public override bool IsTrue => Count > 0;

    public Value At(int index) => new IntValue(Start + (index * Step));
}

/// <summary>A dict: keys in the order they were first set, equal by Python's rules (1, 1.0 and True are one key).</summary>
internal sealed class DictValue(OrderedDictionary<Value, Value> items) : Value
{
    public OrderedDictionary<Value, Value> Items { get; } = items;
    public override string TypeName => "dict";
    public override bool IsTrue => Items.Count > 0;
}

/// <summary>A view of a dict's keys, values or items, such as <c>dict_keys</c>: it has a length and can be looped over, but not indexed.</summary>
internal sealed class ViewValue(string typeName, Value[] items) : Value
{
    public Value[] Items { get; } = items;
    public override string TypeName { get; } = typeName;
    public override bool IsTrue => Items.Length > 0;
}

/// <summary>What lazy filters such as <c>map</c> give: it can be looped over once. The items are already there, as no filter has side effects.</summary>
internal sealed class GeneratorValue(Value[] items) : Value
{
    private Value[] _items = items;

    public override string TypeName => "generator";

    /// <summary>All items that are left.</summary>
    public Value[] Drain() => Interlocked.Exchange(ref _items, []);

    /// <summary>The next item, or null at the end.</summary>
    public Value? Next()
    {
        if (_items.Length == 0)
            return null;
        Value first = _items[0];
        _items = _items[1..];
        return first;
    }
}

/// <summary>What <c>namespace()</c> gives: attributes that inner scopes can set.</summary>
internal sealed class NamespaceValue(Dictionary<string, Value> attributes) : Value
{
    public Dictionary<string, Value> Attributes { get; } = attributes;
    public override string TypeName => "Namespace";
}

/// <summary>The variable <c>loop</c> inside a for loop.</summary>
internal sealed class LoopValue(Value[] items) : Value
{
    public Value[] Items { get; } = items;
    public int Index { get; set; }

    /// <summary>What <c>loop.changed</c> was last called with.</summary>
    public Value? LastChanged { get; set; }

    public override string TypeName => "LoopContext";
}

/// <summary>Something that can be called: a function of the sandbox, a method bound to its object, or a macro.</summary>
internal abstract class CallableValue(string name) : Value
{
    public string Name { get; } = name;

    public abstract Value Call(RenderContext context, Arguments arguments);
}

/// <summary>A function of the sandbox, or with <paramref name="self"/> a method bound to its object.</summary>
internal sealed class BuiltinValue(Builtin function, Value? self = null) : CallableValue(function.Name)
{
    public override string TypeName => "builtin_function_or_method";

    public override Value Call(RenderContext context, Arguments arguments) => function.Call(context, self, arguments);
}
