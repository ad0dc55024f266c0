using System.Globalization;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>Python's <c>str()</c> and <c>repr()</c>.</summary>
internal static class ValueText
{
    public static string Str(RenderContext context, Value value)
    {
        switch (value)
        {
            case StringValue s:
                return s.Text;
            case UndefinedValue:
                return "";
            default:
                return Repr(context, value);
        }
    }

    public static string Repr(RenderContext context, Value value)
    {
        var text = new StringBuilder();
        AppendRepr(context, text, value);
        return text.ToString();
    }

    private static void AppendRepr(RenderContext context, StringBuilder text, Value value)
    {
        switch (value)
        {
            case StringValue s:
                AppendQuoted(context, text, s.Text);
                break;
            case ListValue list:
                AppendItems(context, text, "[", list.Items, "]");
                break;
            case TupleValue tuple:
                AppendItems(context, text, "(", tuple.Items, tuple.Items.Length == 1 ? ",)" : ")");
                break;
            case ViewValue view:
                AppendItems(context, text, view.TypeName + "([", view.Items, "])");
                break;
            case DictValue dict:
                AppendPairs(context, text, "{", dict.Items, "}");
                break;
            case NamespaceValue ns:
                AppendPairs(context, text, "<Namespace {", ns.Attributes.Select(p => KeyValuePair.Create<Value, Value>(new StringValue(p.Key), p.Value)), "}>");
                break;
            default:
                string scalar = Scalar(value);
                context.Charge(scalar.Length);
                text.Append(scalar);
                break;
        }
    }

    private static string Scalar(Value value) => value switch
    {
        NoneValue => "None",
        BoolValue => value.IsTrue ? "True" : "False",
        IntValue i => i.Number.ToString(CultureInfo.InvariantCulture),
        FloatValue f => Numbers.FormatFloat(f.Number),
        UndefinedValue => "Undefined",
        RangeValue { Step: 1 } r => $"range({r.Start}, {r.Stop})",
        RangeValue r => $"range({r.Start}, {r.Stop}, {r.Step})",
        MacroValue m => $"<Macro '{m.Name}'>",
        LoopValue l => $"<LoopContext {l.Index + 1}/{l.Items.Length}>",
        CallableValue c => $"<function {c.Name}>",
        _ => $"<{value.TypeName} object>",
    };

    private static void AppendItems(RenderContext context, StringBuilder text, string open, Value[] items, string close)
    {
        context.Enter();
        context.ChargeItems(items.Length + 1L);
        text.Append(open);
        for (int i = 0; i < items.Length; i++)
            AppendRepr(context, i == 0 ? text : text.Append(", "), items[i]);
        text.Append(close);
        context.Leave();
    }

    private static void AppendPairs(RenderContext context, StringBuilder text, string open, IEnumerable<KeyValuePair<Value, Value>> pairs, string close)
    {
        context.Enter();
        text.Append(open);
        context.Charge(open.Length);
        string separator = "";
        foreach ((Value key, Value value) in pairs)
        {
            context.ChargeItems(2);
            AppendRepr(context, text.Append(separator), key);
            AppendRepr(context, text.Append(": "), value);
            separator = ", ";
        }
        text.Append(close);
        context.Leave();
    }

    private static void AppendQuoted(RenderContext context, StringBuilder text, string s)
    {
        context.Charge(s.Length);
        char quote = s.Contains('\'', StringComparison.Ordinal) && !s.Contains('"', StringComparison.Ordinal) ? '"' : '\'';
        text.Append(quote);
        for (int i = 0; i < s.Length; i++)
        {
            char c = s[i];
            if (c == quote || c == '\\')
                text.Append('\\').Append(c);
            else if (c is '\n' or '\r' or '\t')
                text.Append(c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
            else if (!PythonText.IsPrintable(s, i))
                AppendEscape(text, s, ref i);
            else if (char.IsHighSurrogate(c))
                text.Append(c).Append(s[++i]);
            else
                text.Append(c);
        }
        text.Append(quote);
    }

    private static void AppendEscape(StringBuilder text, string s, ref int i)
    {
        if (char.IsHighSurrogate(s[i]))
            text.Append("\\U").Append(char.ConvertToUtf32(s[i], s[++i]).ToString("x8", CultureInfo.InvariantCulture));
        else if (s[i] < 0x100)
            text.Append("\\x").Append(((int)s[i]).ToString("x2", CultureInfo.InvariantCulture));
        else
            text.Append("\\u").Append(((int)s[i]).ToString("x4", CultureInfo.InvariantCulture));
    }
}
