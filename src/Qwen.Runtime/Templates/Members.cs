using System.Collections.Frozen;
using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>Looks up attributes and items. <c>a.b</c> tries methods and attributes before items, <c>a['b']</c> the other way round, as Jinja2 does.</summary>
internal static class Members
{
    public static Value Attribute(RenderContext context, Value target, string name)
    {
        Operators.RequireDefined(context, target);
        return FindAttribute(target, name) ?? (target is DictValue dict ? FindKey(dict, new StringValue(name)) : null) ?? Missing(target, $"attribute '{name}'");
    }

    public static Value Item(RenderContext context, Value target, Value index)
    {
        Operators.RequireDefined(context, target);
        Value? found = target switch
        {
            DictValue dict => FindKey(dict, index),
            StringValue or SequenceValue or RangeValue when Operators.TryInteger(index, out BigInteger i) => Sequences.ElementAt(context, target, i),
            _ => null,
        };
        if (found is null && index is StringValue name)
            found = FindAttribute(target, name.Text);
        return found ?? Missing(target, index is StringValue key ? $"attribute '{key.Text}'" : $"element {ValueText.Repr(context, index)}");
    }

    private static Value? FindKey(DictValue dict, Value key) => Dicts.IsKey(key) ? dict.Items.GetValueOrDefault(key) : null;

    private static UndefinedValue Missing(Value target, string what) => new($"the {target.TypeName} has no {what}");

    private static Value? FindAttribute(Value target, string name) => target switch
    {
        StringValue => Method(StringMethods.Table, target, name),
        DictValue => (Value?)Method(CollectionMethods.Dict, target, name) ?? Refused(CollectionMethods.RefusedOfDict, target, name),
        ListValue => (Value?)Method(CollectionMethods.Sequence, target, name) ?? Refused(CollectionMethods.RefusedOfList, target, name),
        TupleValue => Method(CollectionMethods.Sequence, target, name),
        NamespaceValue ns => ns.Attributes.GetValueOrDefault(name),
        LoopValue loop => LoopAttributes.Find(loop, name),
        MacroValue macro => macro.FindAttribute(name),
        _ => null,
    };

    private static BuiltinValue? Method(FrozenDictionary<string, Builtin> methods, Value self, string name) =>
        methods.TryGetValue(name, out Builtin? method) ? new BuiltinValue(method, self) : null;

    /// <summary>Jinja2's immutable sandbox hides the methods that would change a value.</summary>
    private static UndefinedValue? Refused(FrozenSet<string> refused, Value target, string name) =>
        refused.Contains(name) ? new UndefinedValue($"the method '{name}' would change the {target.TypeName}, which a template may not do") : null;

    /// <summary>A path such as "function.name" or "0.id", as the attribute arguments of filters take it.</summary>
    public static Value Path(RenderContext context, Value target, Value path)
    {
        if (path is not StringValue { Text: string text })
            return Item(context, target, path);
        context.Charge(text.Length);
        foreach (string part in text.Split('.'))
            target = Item(context, target, part.Length > 0 && part.All(char.IsAsciiDigit) && Numbers.TryParseInteger(part, 10, out BigInteger i) ? new IntValue(i) : new StringValue(part));
        return target;
    }
}
