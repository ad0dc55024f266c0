using System.Globalization;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>Python's <c>json.dumps</c>, which the filter <c>tojson</c> of chat templates is.</summary>
internal sealed class JsonText(RenderContext context, string? indent, string itemSeparator, string keySeparator, bool sortKeys, bool ensureAscii)
{
    private readonly StringBuilder _text = new();
    private int _level;

    public string Serialize(Value value)
    {
        Append(value);
        return _text.ToString();
    }

    private void Append(Value value)
    {
        switch (value)
        {
            case StringValue s:
                AppendString(s.Text);
                break;
            case SequenceValue sequence:
                AppendBlock('[', sequence.Items, Append, ']');
                break;
            case DictValue dict:
                AppendBlock('{', SortedItems(dict), AppendPair, '}');
                break;
            default:
                AppendPlain(Scalar(value) ?? throw NotSerializable(value));
                break;
        }
    }

    private TemplateException NotSerializable(Value value) =>
        context.Error(value is UndefinedValue undefined ? undefined.Reason : $"a {value.TypeName} cannot be written as JSON");

    private static string? Scalar(Value value) => value switch
    {
        NoneValue => "null",
        BoolValue => value.IsTrue ? "true" : "false",
        IntValue i => i.Number.ToString(CultureInfo.InvariantCulture),
        FloatValue { Number: double.PositiveInfinity } => "Infinity",
        FloatValue { Number: double.NegativeInfinity } => "-Infinity",
        FloatValue { Number: double.NaN } => "NaN",
        FloatValue f => Numbers.FormatFloat(f.Number),
        _ => null,
    };

    private void AppendPlain(string text)
    {
        context.Charge(text.Length);
        _text.Append(text);
    }

    private IReadOnlyCollection<KeyValuePair<Value, Value>> SortedItems(DictValue dict)
    {
        if (!sortKeys)
            return dict.Items;
        context.ChargeItems(dict.Items.Count);
        return Ordering.Sort(context, [.. dict.Items], pair => pair.Key, reverse: false);
    }

    private void AppendBlock<T>(char open, IReadOnlyCollection<T> items, Action<T> append, char close)
    {
        context.Enter();
        context.Charge(2);
        _text.Append(open);
        _level++;
        bool first = true;
        foreach (T item in items)
        {
            if (!first)
                AppendPlain(itemSeparator);
            first = false;
            AppendLineBreak();
            append(item);
        }
        _level--;
        if (!first)
            AppendLineBreak();
        _text.Append(close);
        context.Leave();
    }

    private void AppendLineBreak()
    {
        if (indent is null)
            return;
        context.Charge(1 + ((long)_level * indent.Length));
        _text.Append('\n');
        for (int i = 0; i < _level; i++)
            _text.Append(indent);
    }

    private void AppendPair(KeyValuePair<Value, Value> pair)
    {
        AppendString(pair.Key is StringValue s ? s.Text : Scalar(pair.Key)!); // every kind of key is a scalar
        AppendPlain(keySeparator);
        Append(pair.Value);
    }

    private void AppendString(string s)
    {
        context.Charge(s.Length + 2);
        int before = _text.Length;
        _text.Append('"');
        for (int i = 0; i < s.Length; i++)
        {
            char c = s[i];
            if (Escape(c) is { } escape)
                _text.Append(escape);
            else if (c > '~' && ensureAscii && !PythonText.IsSentinel(s, i))
                _text.Append(CultureInfo.InvariantCulture, $"\\u{(int)c:x4}");
            else
                _text.Append(c);
        }
        _text.Append('"');
        context.Charge(_text.Length - before);
    }

    private static string? Escape(char c) => c switch
    {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\f' => "\\f",
        '\b' => "\\b",
        < ' ' => $"\\u{(int)c:x4}",
        _ => null,
    };
}
