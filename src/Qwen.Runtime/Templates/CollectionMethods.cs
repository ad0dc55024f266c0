using System.Collections.Frozen;
using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>The methods of dicts, lists and tuples. Those that would change the value are refused, as in Jinja2's immutable sandbox.</summary>
internal static class CollectionMethods
{
    public static FrozenSet<string> RefusedOfDict { get; } = ["clear", "pop", "popitem", "setdefault", "update"];

    public static FrozenSet<string> RefusedOfList { get; } = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

    public static FrozenDictionary<string, Builtin> Dict { get; } = new Builtin[]
    {
        new("copy", "self", (_, a) => a[0]!),
        new("get", "self key default?", Get),
        new("items", "self", (c, a) => new ViewValue("dict_items", Pairs(c, (DictValue)a[0]!))),
        new("keys", "self", (c, a) => new ViewValue("dict_keys", Sequences.Items(c, a[0]!))),
        new("values", "self", Values),
    }.ToFrozenDictionary(m => m.Name);

    public static FrozenDictionary<string, Builtin> Sequence { get; } = new Builtin[]
    {
        new("count", "self value", (c, a) => new IntValue(((SequenceValue)a[0]!).Items.Count(item => Operators.AreEqual(c, item, a[1]!)))),
        new("index", "self value", Index),
    }.ToFrozenDictionary(m => m.Name);

    /// <summary>The items of a dict, as tuples of key and value.</summary>
    public static Value[] Pairs(RenderContext context, DictValue dict)
    {
        context.ChargeItems(3L * dict.Items.Count);
        return [.. dict.Items.Select(pair => new TupleValue([pair.Key, pair.Value]))];
    }

    private static Value Get(RenderContext context, Value?[] a) => Dicts.Find(context, (DictValue)a[0]!, a[1]!) ?? a[2] ?? NoneValue.Instance;

    private static ViewValue Values(RenderContext context, Value?[] a)
    {
        var dict = (DictValue)a[0]!;
        context.ChargeItems(dict.Items.Count);
        return new ViewValue("dict_values", [.. dict.Items.Values]);
    }

    private static IntValue Index(RenderContext context, Value?[] a)
    {
        int index = Array.FindIndex(((SequenceValue)a[0]!).Items, item => Operators.AreEqual(context, item, a[1]!));
        return index >= 0 ? new IntValue(new BigInteger(index)) : throw context.Error("the value is not in the list");
    }
}
