using System.Collections.Frozen;
using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>The filters on texts, numbers and single values, and the table of all filters; those on sequences are in <see cref="SequenceFilters"/>.</summary>
internal static class Filters
{
    private static readonly FrozenDictionary<string, Builtin> Table = ((Builtin[])
    [
        new("abs", "x", Abs),
        new("capitalize", "s", (c, a) => StringMethods.Map(c, a[0]!, PythonText.Capitalize)),
        new("count", "obj", Length),
        new("d", "value default_value? boolean?", Default),
        new("default", "value default_value? boolean?", Default),
        new("e", "s", Escape),
        new("escape", "s", Escape),
        new("float", "value default?", ToFloat),
        new("indent", "s width? first? blank?", Indent),
        new("int", "value default? base?", ToInt),
        new("length", "obj", Length),
        new("lower", "s", (c, a) => StringMethods.Map(c, a[0]!, s => s.ToLowerInvariant())),
        new("replace", "s old new count?", Replace),
        new("round", "value precision? method?", Round),
        new("safe", "value", (c, a) => ToText(c, a[0]!)),
        new("string", "object", (c, a) => ToText(c, a[0]!)),
        new("title", "s", (c, a) => StringMethods.Map(c, a[0]!, PythonText.TitleWords)),
        new("tojson", "value ensure_ascii? indent? separators? sort_keys?", ToJson),
        new("trim", "value chars?", (c, a) => StringMethods.Strip(c, ToText(c, a[0]!).Text, a[1], start: true, end: true)),
        new("upper", "s", (c, a) => StringMethods.Map(c, a[0]!, s => s.ToUpperInvariant())),
        .. SequenceFilters.All,
    ]).ToFrozenDictionary(f => f.Name);

    public static Value Call(RenderContext context, string name, Value operand, Arguments arguments)
    {
        if (!Table.TryGetValue(name, out Builtin? filter))
            throw context.Error($"no filter is named '{name}'");
        context.Enter();
        context.Step();
        Value result = filter.Call(context, operand, arguments);
        context.Leave();
        return result;
    }

    private static StringValue ToText(RenderContext context, Value value) => value as StringValue ?? new StringValue(ValueText.Str(context, value));

    private static string Text(RenderContext context, Value value)
    {
        Operators.RequireDefined(context, value);
        return value is StringValue s ? s.Text : throw context.Error($"a string is needed, not '{value.TypeName}'");
    }

    private static Value Default(RenderContext context, Value?[] a) =>
        a[0] is UndefinedValue || (a[2] is { IsTrue: true } && !a[0]!.IsTrue) ? a[1] ?? StringValue.Empty : a[0]!;

    private static IntValue Length(RenderContext context, Value?[] a) =>
        new(Sequences.Length(context, a[0]!) ?? throw context.Error($"a {a[0]!.TypeName} has no length"));

    private static Value Abs(RenderContext context, Value?[] a)
    {
        if (Operators.TryInteger(a[0]!, out BigInteger integer))
            return new IntValue(BigInteger.Abs(integer));
        Operators.RequireDefined(context, a[0]!);
        return a[0] is FloatValue f ? new FloatValue(Math.Abs(f.Number)) : throw context.Error($"a {a[0]!.TypeName} has no absolute value");
    }

    private static Value ToInt(RenderContext context, Value?[] a)
    {
        Operators.RequireDefined(context, a[0]!);
        if (Operators.TryInteger(a[0]!, out BigInteger integer))
            return new IntValue(integer);
        double number = double.NaN;
        if (a[0] is StringValue { Text: string text })
        {
            context.Charge(text.Length);
            int radix = a[2] is null ? 10 : Operators.TryInteger(a[2]!, out BigInteger b) && (b.IsZero || (b >= 2 && b <= 36)) ? (int)b : throw context.Error("a base lies between 2 and 36");
            if (Numbers.TryParseInteger(text, radix, out integer))
                return new IntValue(integer);
            if (!Numbers.TryParseFloat(text, out number))
                number = double.NaN;
        }
        else if (a[0] is FloatValue f)
            number = f.Number;
        return double.IsFinite(number) ? new IntValue(new BigInteger(number)) : a[1] ?? new IntValue(0);
    }

    private static Value ToFloat(RenderContext context, Value?[] a)
    {
        Operators.RequireDefined(context, a[0]!);
        if (Operators.IsNumber(a[0]!))
            return new FloatValue(Operators.ToFloat(context, a[0]!));
        return a[0] is StringValue s && Numbers.TryParseFloat(s.Text, out double number) ? new FloatValue(number) : a[1] ?? new FloatValue(0);
    }

    private static Value Round(RenderContext context, Value?[] a)
    {
        Operators.RequireDefined(context, a[0]!);
        if (!Operators.IsNumber(a[0]!))
            throw context.Error($"a {a[0]!.TypeName} cannot be rounded");
        BigInteger precision = 0;
        if (a[1] is not null && (!Operators.TryInteger(a[1]!, out precision) || BigInteger.Abs(precision) > 300))
            throw context.Error("a precision is an integer from -300 to 300");
        string method = a[2] is null ? "common" : Text(context, a[2]!);
        if (method is not ("common" or "ceil" or "floor"))
            throw context.Error("the method of rounding is 'common', 'ceil' or 'floor'");
        if (method == "common" && precision.Sign >= 0 && Operators.TryInteger(a[0]!, out BigInteger integer))
            return new IntValue(integer);
        double value = Operators.ToFloat(context, a[0]!);
        double scale = Math.Pow(10, (int)precision);
        double scaled = value * scale;
        if (!double.IsFinite(scaled))
            return new FloatValue(value);
        return method switch
        {
            "ceil" => new FloatValue(Math.Ceiling(scaled) / scale),
            "floor" => new FloatValue(Math.Floor(scaled) / scale),
            // Python rounds the exact decimal value, ties to even. The text is that value's, but ties in it go away from zero.
            _ when precision.Sign <= 0 || Math.FusedMultiplyAdd(value, scale, -scaled) == 0 => new FloatValue(Math.Round(scaled, MidpointRounding.ToEven) / scale),
            _ => new FloatValue(double.Parse(value.ToString($"F{precision}"))),
        };
    }

    private static StringValue Escape(RenderContext context, Value?[] a)
    {
        string text = ToText(context, a[0]!).Text;
        context.Charge(6L * text.Length);
        return new StringValue(text.Replace("&", "&amp;", StringComparison.Ordinal).Replace("<", "&lt;", StringComparison.Ordinal)
            .Replace(">", "&gt;", StringComparison.Ordinal).Replace("'", "&#39;", StringComparison.Ordinal).Replace("\"", "&#34;", StringComparison.Ordinal));
    }

    private static StringValue Replace(RenderContext context, Value?[] a) =>
        StringMethods.Replace(context, ToText(context, a[0]!).Text, ToText(context, a[1]!).Text, ToText(context, a[2]!).Text, a[3]);

    private static StringValue Indent(RenderContext context, Value?[] a)
    {
        string text = Text(context, a[0]!);
        string indent = a[1] switch
        {
            null => "    ",
            StringValue s => s.Text,
            var width when Operators.TryInteger(width, out BigInteger n) => StringMethods.Spaces(context, n),
            var other => throw context.Error($"a width is a number or a string, not '{other.TypeName}'"),
        };
        context.Charge(2L * text.Length);
        List<string> lines = PythonText.SplitLines(text + "\n", keepEnds: false);
        bool blank = a[3] is { IsTrue: true };
        context.Charge(lines.Count * (indent.Length + 1L));
        for (int i = 0; i < lines.Count; i++)
        {
            if (i == 0 ? a[2] is { IsTrue: true } : blank || lines[i].Length > 0)
                lines[i] = indent + lines[i];
        }
        return new StringValue(string.Join('\n', lines));
    }

    private static StringValue ToJson(RenderContext context, Value?[] a)
    {
        string? indent = a[2] switch
        {
            null or NoneValue => null,
            StringValue s => s.Text,
            var width when Operators.TryInteger(width, out BigInteger n) => StringMethods.Spaces(context, n),
            var other => throw context.Error($"an indent is a number or a string, not '{other.TypeName}'"),
        };
        (string items, string keys) = a[3] switch
        {
            null or NoneValue => (indent is null ? ", " : ",", ": "),
            SequenceValue { Items: [StringValue first, StringValue second] } => (first.Text, second.Text),
            _ => throw context.Error("separators are two strings"),
        };
        var json = new JsonText(context, indent, items, keys, sortKeys: a[4] is { IsTrue: true }, ensureAscii: a[1] is { IsTrue: true });
        return new StringValue(json.Serialize(a[0]!));
    }
}
