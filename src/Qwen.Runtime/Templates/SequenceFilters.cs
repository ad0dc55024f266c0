namespace Qwen.Runtime.Templates;

/// <summary>The filters on sequences.</summary>
internal static class SequenceFilters
{
    public static Builtin[] All { get; } =
    [
        new("dictsort", "value case_sensitive? by? reverse?", DictSort),
        new("first", "seq", First),
        new("items", "value", Items),
        new("join", "value d? attribute?", Join),
        new("last", "seq", Last),
        new("list", "value", (c, a) => new ListValue(Sequences.Items(c, a[0]!))),
        new("map", "seq * **", Map),
        new("max", "value case_sensitive? attribute?", (c, a) => Extreme(c, a, sign: 1)),
        new("min", "value case_sensitive? attribute?", (c, a) => Extreme(c, a, sign: -1)),
        new("reject", "seq * **", (c, a) => Select(c, a, byAttribute: false, keep: false)),
        new("rejectattr", "seq * **", (c, a) => Select(c, a, byAttribute: true, keep: false)),
        new("reverse", "value", Reverse),
        new("select", "seq * **", (c, a) => Select(c, a, byAttribute: false, keep: true)),
        new("selectattr", "seq * **", (c, a) => Select(c, a, byAttribute: true, keep: true)),
        new("sort", "value reverse? case_sensitive? attribute?", Sort),
        new("sum", "iterable attribute? start?", Sum),
        new("unique", "value case_sensitive? attribute?", Unique),
    ];

    private static Value First(RenderContext context, Value?[] a)
    {
        Value? first = a[0] is GeneratorValue generator ? generator.Next() : Sequences.Items(context, a[0]!).FirstOrDefault();
        return first ?? new UndefinedValue("there is no first item, the sequence is empty");
    }

    private static Value Last(RenderContext context, Value?[] a)
    {
        if (a[0] is GeneratorValue)
            throw context.Error("a generator has no last item; make it a list first");
        return Sequences.Items(context, a[0]!).LastOrDefault() ?? new UndefinedValue("there is no last item, the sequence is empty");
    }

    private static GeneratorValue Items(RenderContext context, Value?[] a) => a[0] switch
    {
        UndefinedValue => new GeneratorValue([]),
        DictValue dict => new GeneratorValue(CollectionMethods.Pairs(context, dict)),
        _ => throw context.Error($"only a mapping has items, not '{a[0]!.TypeName}'"),
    };

    private static ListValue DictSort(RenderContext context, Value?[] a)
    {
        if (a[0] is not DictValue dict)
            throw context.Error($"only a mapping has items, not '{a[0]!.TypeName}'");
        int by = a[2] switch
        {
            null or StringValue { Text: "key" } => 0,
            StringValue { Text: "value" } => 1,
            _ => throw context.Error("a dict is sorted by 'key' or by 'value'"),
        };
        return new ListValue(Ordering.Sort(context, CollectionMethods.Pairs(context, dict), pair => Ordering.Key(context, ((TupleValue)pair).Items[by], null, a[1]), a[3] is { IsTrue: true }));
    }

    private static StringValue Join(RenderContext context, Value?[] a)
    {
        Value[] items = Sequences.Items(context, a[0]!);
        if (a[2] is not (null or NoneValue))
            items = Array.ConvertAll(items, item => Members.Path(context, item, a[2]!));
        return StringMethods.Join(context, a[1] is null ? "" : ValueText.Str(context, a[1]!), Array.ConvertAll(items, item => ValueText.Str(context, item)));
    }

    private static GeneratorValue Map(RenderContext context, Value?[] a)
    {
        if (!a[0]!.IsTrue)
            return new GeneratorValue([]); // Jinja2 looks at nothing else then, not even whether it can be looped over.
        Value[] rest = ((TupleValue)a[1]!).Items;
        OrderedDictionary<Value, Value> named = ((DictValue)a[2]!).Items;
        Value[] items = Sequences.Items(context, a[0]!);
        context.ChargeItems(items.Length);
        if (rest.Length == 0)
        {
            if (!named.TryGetValue(new StringValue("attribute"), out Value? attribute))
                throw context.Error("map needs a filter or an attribute");
            Value? otherwise = named.GetValueOrDefault(new StringValue("default"));
            return new GeneratorValue(Array.ConvertAll(items, item => Members.Path(context, item, attribute) is var found && found is UndefinedValue ? otherwise ?? found : found));
        }
        (string filter, Arguments arguments) = ByName(context, rest, named);
        return new GeneratorValue(Array.ConvertAll(items, item => Filters.Call(context, filter, item, arguments)));
    }

    /// <summary>A filter or test given as an argument: its name, then its own arguments.</summary>
    private static (string Name, Arguments Arguments) ByName(RenderContext context, ReadOnlySpan<Value> rest, OrderedDictionary<Value, Value> named)
    {
        if (rest[0] is not StringValue name)
            throw context.Error($"the name of a filter or test is a string, not '{rest[0].TypeName}'");
        return (name.Text, new Arguments(rest[1..].ToArray(), [.. named.Select(p => (((StringValue)p.Key).Text, p.Value))]));
    }

    private static GeneratorValue Select(RenderContext context, Value?[] a, bool byAttribute, bool keep)
    {
        if (!a[0]!.IsTrue)
            return new GeneratorValue([]);
        ReadOnlySpan<Value> rest = ((TupleValue)a[1]!).Items;
        if (byAttribute && rest.Length == 0)
            throw context.Error("the name of the attribute is missing");
        Value? attribute = byAttribute ? rest[0] : null;
        rest = byAttribute ? rest[1..] : rest;
        (string? test, Arguments arguments) = rest.Length == 0 ? (null, Arguments.Empty) : ByName(context, rest, ((DictValue)a[2]!).Items);
        Value[] items = Sequences.Items(context, a[0]!);
        context.ChargeItems(items.Length);
        return new GeneratorValue(Array.FindAll(items, item =>
        {
            Value subject = attribute is null ? item : Members.Path(context, item, attribute);
            return keep == (test is null ? subject.IsTrue : Tests.Call(context, test, subject, arguments));
        }));
    }

    private static ListValue Sort(RenderContext context, Value?[] a)
    {
        Value[] keys = a[3] is StringValue { Text: string paths } ? Array.ConvertAll(paths.Split(','), p => (Value)new StringValue(p)) : [a[3] ?? NoneValue.Instance];
        return new ListValue(Ordering.Sort(context, Sequences.Items(context, a[0]!),
            item => new ListValue(Array.ConvertAll(keys, key => Ordering.Key(context, item, key, a[2]))), a[1] is { IsTrue: true }));
    }

    private static GeneratorValue Unique(RenderContext context, Value?[] a)
    {
        Value[] items = Sequences.Items(context, a[0]!);
        context.ChargeItems(2L * items.Length);
        HashSet<Value> seen = Dicts.CreateSet();
        return new GeneratorValue(Array.FindAll(items, item =>
        {
            Value key = Ordering.Key(context, item, a[2], a[1]);
            Dicts.RequireKey(context, key);
            return seen.Add(key);
        }));
    }

    private static Value Extreme(RenderContext context, Value?[] a, int sign)
    {
        Value? best = null, bestKey = null;
        foreach (Value item in Sequences.Items(context, a[0]!))
        {
            Value key = Ordering.Key(context, item, a[2], a[1]);
            if (bestKey is null || Operators.Order(context, key, bestKey) * sign > 0)
                (best, bestKey) = (item, key);
        }
        return best ?? new UndefinedValue("nothing to compare, the sequence is empty");
    }

    private static Value Sum(RenderContext context, Value?[] a)
    {
        Value total = a[2] ?? new IntValue(0);
        if (total is StringValue)
            throw context.Error("strings are joined, not summed");
        foreach (Value item in Sequences.Items(context, a[0]!))
            total = Operators.Binary(context, "+", total, a[1] is null or NoneValue ? item : Members.Path(context, item, a[1]!));
        return total;
    }

    private static Value Reverse(RenderContext context, Value?[] a)
    {
        if (a[0] is StringValue)
            return Sequences.Slice(context, a[0]!, NoneValue.Instance, NoneValue.Instance, new IntValue(-1));
        Value[] items = Sequences.Items(context, a[0]!);
        context.ChargeItems(items.Length);
        return new GeneratorValue([.. items.Reverse()]);
    }
}
