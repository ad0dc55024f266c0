using System.Collections.Frozen;
using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>The functions that every template can call.</summary>
internal static class Globals
{
    // The bound of Jinja2's own sandbox.
    private const int MaxRange = 100_000;

    public static FrozenDictionary<string, Value> Table { get; } = new Builtin[]
    {
        new("dict", "mapping? **", (c, a) => MakeDict(c, a[0], (DictValue)a[1]!)),
        new("namespace", "mapping? **", Namespace),
        new("raise_exception", "message", (c, a) => throw c.Raised(ValueText.Str(c, a[0]!))),
        new("range", "start stop? step?", Range),
        new("strftime_now", "format", (c, a) => new StringValue(Strftime.Format(c, ValueText.Str(c, a[0]!), c.Options.Clock.GetLocalNow()))),
    }.ToFrozenDictionary(f => f.Name, f => (Value)new BuiltinValue(f));

    private static DictValue MakeDict(RenderContext context, Value? source, DictValue named)
    {
        OrderedDictionary<Value, Value> items = Dicts.Create();
        if (source is DictValue dict)
        {
            context.ChargeItems(dict.Items.Count);
            foreach ((Value key, Value value) in dict.Items)
                items[key] = value;
        }
        else if (source is not null)
        {
            foreach (Value pair in Sequences.Items(context, source))
            {
                if (Sequences.Items(context, pair) is not [Value key, Value value])
                    throw context.Error("a dict is made from a mapping or from pairs");
                Dicts.RequireKey(context, key);
                items[key] = value;
            }
        }
        foreach ((Value key, Value value) in named.Items)
            items[key] = value;
        return new DictValue(items);
    }

    private static NamespaceValue Namespace(RenderContext context, Value?[] a)
    {
        var attributes = new Dictionary<string, Value>();
        foreach ((Value key, Value value) in MakeDict(context, a[0], (DictValue)a[1]!).Items)
            attributes[key is StringValue name ? name.Text : throw context.Error($"an attribute's name is a string, not '{key.TypeName}'")] = value;
        return new NamespaceValue(attributes);
    }

    private static RangeValue Range(RenderContext context, Value?[] a)
    {
        BigInteger start = a[1] is null ? BigInteger.Zero : Integer(context, a[0]!);
        BigInteger stop = Integer(context, a[1] ?? a[0]!);
        BigInteger step = a[2] is null ? BigInteger.One : Integer(context, a[2]!);
        if (step.IsZero)
            throw context.Error("the step of a range cannot be zero");
        if (BigInteger.Abs(start) > int.MaxValue || BigInteger.Abs(stop) > int.MaxValue || BigInteger.Abs(step) > int.MaxValue)
            throw context.Error("a range is of 32-bit integers");
        var range = new RangeValue((long)start, (long)stop, (long)step);
        return range.Count <= MaxRange ? range : throw context.Error($"a range has at most {MaxRange} elements, not {range.Count}");
    }

    private static BigInteger Integer(RenderContext context, Value value) =>
        Operators.TryInteger(value, out BigInteger integer) ? integer : throw context.Error($"a range needs integers, not '{value.TypeName}'");
}
