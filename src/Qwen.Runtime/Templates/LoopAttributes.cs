using System.Collections.Frozen;

namespace Qwen.Runtime.Templates;

/// <summary>The attributes of <c>loop</c>.</summary>
internal static class LoopAttributes
{
    private static readonly FrozenDictionary<string, Builtin> Methods = new Builtin[]
    {
        new("cycle", "loop *", Cycle),
        new("changed", "loop *", Changed),
    }.ToFrozenDictionary(m => m.Name);

    public static Value? Find(LoopValue loop, string name) => name switch
    {
        "index" => new IntValue(loop.Index + 1),
        "index0" => new IntValue(loop.Index),
        "revindex" => new IntValue(loop.Items.Length - loop.Index),
        "revindex0" => new IntValue(loop.Items.Length - loop.Index - 1),
        "first" => BoolValue.Of(loop.Index == 0),
        "last" => BoolValue.Of(loop.Index == loop.Items.Length - 1),
        "length" => new IntValue(loop.Items.Length),
        // Jinja2 counts the depth of recursive loops only.
        "depth" => new IntValue(1),
        "depth0" => new IntValue(0),
        "previtem" => loop.Index > 0 ? loop.Items[loop.Index - 1] : new UndefinedValue("there is no previous item"),
        "nextitem" => loop.Index + 1 < loop.Items.Length ? loop.Items[loop.Index + 1] : new UndefinedValue("there is no next item"),
        _ => Methods.TryGetValue(name, out Builtin? method) ? new BuiltinValue(method, loop) : null,
    };

    private static Value Cycle(RenderContext context, Value?[] a)
    {
        Value[] values = ((TupleValue)a[1]!).Items;
        return values.Length > 0 ? values[((LoopValue)a[0]!).Index % values.Length] : throw context.Error("no items for cycling given");
    }

    private static BoolValue Changed(RenderContext context, Value?[] a)
    {
        var loop = (LoopValue)a[0]!;
        bool changed = loop.LastChanged is null || !Operators.AreEqual(context, loop.LastChanged, a[1]!);
        loop.LastChanged = a[1];
        return BoolValue.Of(changed);
    }
}
