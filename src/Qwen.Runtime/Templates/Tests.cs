using System.Collections.Frozen;

namespace Qwen.Runtime.Templates;

/// <summary>The tests behind <c>is</c>.</summary>
internal static class Tests
{
    private static readonly FrozenDictionary<string, Builtin> Table = Create().ToFrozenDictionary(t => t.Name);

    public static bool Call(RenderContext context, string name, Value operand, Arguments arguments)
    {
        if (!Table.TryGetValue(name, out Builtin? test))
            throw context.Error($"no test is named '{name}'");
        context.Step();
        return test.Call(context, operand, arguments).IsTrue;
    }

    private static IEnumerable<Builtin> Create()
    {
        yield return Test("defined", (_, v) => v is not UndefinedValue);
        yield return Test("undefined", (_, v) => v is UndefinedValue);
        yield return Test("none", (_, v) => v is NoneValue);
        yield return Test("boolean", (_, v) => v is BoolValue);
        yield return Test("true", (_, v) => v == BoolValue.True);
        yield return Test("false", (_, v) => v == BoolValue.False);
        yield return Test("integer", (_, v) => v is IntValue);
        yield return Test("float", (_, v) => v is FloatValue);
        yield return Test("number", (_, v) => Operators.IsNumber(v));
        yield return Test("string", (_, v) => v is StringValue);
        yield return Test("mapping", (_, v) => v is DictValue);
        yield return Test("sequence", (_, v) => v is StringValue or SequenceValue or DictValue or RangeValue or UndefinedValue);
        yield return Test("iterable", (_, v) => Sequences.IsIterable(v));
        yield return Test("callable", (_, v) => v is CallableValue or UndefinedValue);
        yield return Test("lower", (c, v) => StringMethods.HasCase(ValueText.Str(c, v), upper: false));
        yield return Test("upper", (c, v) => StringMethods.HasCase(ValueText.Str(c, v), upper: true));
        yield return Test("odd", (c, v) => Operators.NumbersEqual(Remainder(c, v, new IntValue(2)), new IntValue(1)));
        yield return Test("even", (c, v) => !Remainder(c, v, new IntValue(2)).IsTrue);
        yield return Test("divisibleby", "num", (c, v, n) => !Remainder(c, v, n).IsTrue);
        yield return Test("sameas", "other", (_, v, other) => ReferenceEquals(v, other));
        foreach ((string op, string[] names) in new[]
        {
            ("==", new[] { "==", "eq", "equalto" }), ("!=", ["!=", "ne"]), ("<", ["<", "lt", "lessthan"]), ("<=", ["<=", "le"]),
            (">", [">", "gt", "greaterthan"]), (">=", [">=", "ge"]), ("in", ["in"]),
        })
        {
            foreach (string name in names)
                yield return Test(name, "other", (c, v, other) => Operators.Compare(c, op, v, other));
        }
    }

    private static Builtin Test(string name, Func<RenderContext, Value, bool> test) => new(name, "value", (c, a) => BoolValue.Of(test(c, a[0]!)));

    private static Builtin Test(string name, string parameter, Func<RenderContext, Value, Value, bool> test) =>
        new(name, "value " + parameter, (c, a) => BoolValue.Of(test(c, a[0]!, a[1]!)));

    private static Value Remainder(RenderContext context, Value value, Value divisor) =>
        Operators.Binary(context, "%", value, divisor) is var remainder && Operators.IsNumber(remainder) ? remainder : throw context.Error("only numbers can be divided");
}
