using System.Collections.Frozen;
using System.Globalization;
using System.Numerics;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>The methods of strings. Each checks what its result will cost before it makes it.</summary>
internal static class StringMethods
{
    public static FrozenDictionary<string, Builtin> Table { get; } = new Builtin[]
    {
        new("capitalize", "self", (c, a) => Map(c, a[0]!, PythonText.Capitalize)),
        new("count", "self sub start? end?", (c, a) => new IntValue(Count(c, a))),
        new("endswith", "self suffix start? end?", (c, a) => BoolValue.Of(HasAffix(c, a, PythonText.EndsWith))),
        new("find", "self sub start? end?", (c, a) => new IntValue(Find(c, a, last: false))),
        new("index", "self sub start? end?", (c, a) => Found(c, Find(c, a, last: false))),
        new("isalnum", "self", (c, a) => All(c, a, r => Rune.IsLetterOrDigit(r))),
        new("isalpha", "self", (c, a) => All(c, a, r => Rune.IsLetter(r))),
        new("isdecimal", "self", (c, a) => All(c, a, r => Rune.IsDigit(r))),
        new("isdigit", "self", (c, a) => All(c, a, r => Rune.IsDigit(r))),
        new("islower", "self", (c, a) => BoolValue.Of(HasCase(Charged(c, a[0]), upper: false))),
        new("isnumeric", "self", (c, a) => All(c, a, r => Rune.IsNumber(r))),
        new("isspace", "self", (c, a) => All(c, a, r => r.IsBmp && PythonText.IsSpace((char)r.Value))),
        new("isupper", "self", (c, a) => BoolValue.Of(HasCase(Charged(c, a[0]), upper: true))),
        new("join", "self iterable", (c, a) => Join(c, Text(c, a[0]), Array.ConvertAll(Sequences.Items(c, a[1]!), item => Text(c, item)))),
        new("lower", "self", (c, a) => Map(c, a[0]!, s => s.ToLowerInvariant())),
        new("lstrip", "self chars?", (c, a) => Strip(c, Text(c, a[0]), a[1], start: true, end: false)),
        new("removeprefix", "self prefix", (c, a) => RemovePrefix(c, Text(c, a[0]), Text(c, a[1]))),
        new("removesuffix", "self suffix", (c, a) => RemoveSuffix(c, Text(c, a[0]), Text(c, a[1]))),
        new("replace", "self old new count?", (c, a) => Replace(c, Text(c, a[0]), Text(c, a[1]), Text(c, a[2]), a[3])),
        new("rfind", "self sub start? end?", (c, a) => new IntValue(Find(c, a, last: true))),
        new("rindex", "self sub start? end?", (c, a) => Found(c, Find(c, a, last: true))),
        new("rsplit", "self sep? maxsplit?", (c, a) => Splitting.Split(c, Text(c, a[0]), Separator(c, a[1]), Limit(c, a[2]), fromEnd: true)),
        new("rstrip", "self chars?", (c, a) => Strip(c, Text(c, a[0]), a[1], start: false, end: true)),
        new("split", "self sep? maxsplit?", (c, a) => Splitting.Split(c, Text(c, a[0]), Separator(c, a[1]), Limit(c, a[2]), fromEnd: false)),
        new("splitlines", "self keepends?", (c, a) => Splitting.Lines(c, Text(c, a[0]), keepEnds: a[1] is { IsTrue: true })),
        new("startswith", "self prefix start? end?", (c, a) => BoolValue.Of(HasAffix(c, a, (text, prefix) => text.StartsWith(prefix, StringComparison.Ordinal)))),
        new("strip", "self chars?", (c, a) => Strip(c, Text(c, a[0]), a[1], start: true, end: true)),
        new("title", "self", (c, a) => Map(c, a[0]!, PythonText.Title)),
        new("upper", "self", (c, a) => Map(c, a[0]!, s => s.ToUpperInvariant())),
        new("zfill", "self width", ZeroFill),
    }.ToFrozenDictionary(m => m.Name);

    private static string Text(RenderContext context, Value? value) =>
        value is StringValue s ? s.Text : throw context.Error($"a string is needed, not '{value!.TypeName}'");

    private static string Charged(RenderContext context, Value? value)
    {
        string text = Text(context, value);
        context.Charge(text.Length);
        return text;
    }

    /// <summary>A new string of about the same length, made from a value's text.</summary>
    public static StringValue Map(RenderContext context, Value value, Func<string, string> map)
    {
        string text = ValueText.Str(context, value);
        context.Charge(2L * text.Length);
        return new StringValue(map(text));
    }

    public static string Spaces(RenderContext context, BigInteger count)
    {
        if (count.Sign <= 0)
            return "";
        context.Charge(count > int.MaxValue ? long.MaxValue : (long)count);
        return new string(' ', (int)count);
    }

    public static StringValue Strip(RenderContext context, string text, Value? chars, bool start, bool end)
    {
        string? set = chars is null or NoneValue ? null : Text(context, chars);
        context.Charge((long)text.Length * (set is null ? 1 : 1 + (set.Length / 8)));
        int from = start ? PythonText.StripStart(text, set) : 0;
        int to = end ? PythonText.StripEnd(text, set) : text.Length;
        return from < to ? new StringValue(text[from..to]) : StringValue.Empty;
    }

    public static StringValue Join(RenderContext context, string separator, string[] items)
    {
        long length = items.Sum(item => (long)item.Length) + ((long)separator.Length * Math.Max(0, items.Length - 1));
        context.Charge(length);
        return new StringValue(string.Join(separator, items));
    }

    public static StringValue Replace(RenderContext context, string text, string old, string replacement, Value? count)
    {
        int left = Limit(context, count);
        var pieces = new List<string>();
        context.ChargeSearch(text, old);
        int done = 0;
        for (int i = NextMatch(text, old, 0, first: true); i >= 0 && left != 0; i = NextMatch(text, old, i + old.Length, first: false), left--)
        {
            context.ChargeItems(1);
            pieces.Add(text[done..i]);
            done = i + old.Length;
        }
        pieces.Add(text[done..]);
        return pieces.Count == 1 ? new StringValue(text) : Join(context, replacement, [.. pieces]);
    }

    /// <summary>The next place where a part stands; the empty part stands in front of every code point and at the end.</summary>
    private static int NextMatch(string text, string part, int from, bool first)
    {
        if (part.Length > 0)
            return PythonText.IndexOf(text, part, from);
        if (first)
            return 0;
        return from >= text.Length ? -1 : from + (char.IsHighSurrogate(text[from]) ? 2 : 1);
    }

    private static StringValue RemovePrefix(RenderContext context, string text, string prefix)
    {
        context.Charge(text.Length);
        return new StringValue(text.StartsWith(prefix, StringComparison.Ordinal) ? text[prefix.Length..] : text);
    }

    private static StringValue RemoveSuffix(RenderContext context, string text, string suffix)
    {
        context.Charge(text.Length);
        return new StringValue(PythonText.EndsWith(text, suffix) ? text[..^suffix.Length] : text);
    }

    private static StringValue ZeroFill(RenderContext context, Value?[] a)
    {
        string text = Charged(context, a[0]);
        if (!Operators.TryInteger(a[1]!, out BigInteger width))
            throw context.Error($"a width is an integer, not '{a[1]!.TypeName}'");
        string zeros = Spaces(context, width - PythonText.Length(text)).Replace(' ', '0');
        int sign = text.StartsWith('-') || text.StartsWith('+') ? 1 : 0;
        return new StringValue(text[..sign] + zeros + text[sign..]);
    }

    private static string? Separator(RenderContext context, Value? value)
    {
        if (value is null or NoneValue)
            return null;
        string separator = Text(context, value);
        return separator.Length > 0 ? separator : throw context.Error("empty separator");
    }

    /// <summary>How often at most; negative is without limit.</summary>
    private static int Limit(RenderContext context, Value? value)
    {
        if (value is null or NoneValue)
            return -1;
        return Operators.TryInteger(value, out BigInteger limit)
            ? (int)BigInteger.Clamp(limit, -1, int.MaxValue)
            : throw context.Error($"a count is an integer, not '{value.TypeName}'");
    }

    /// <summary>The window text[start:end], and the index in UTF-16 units where it starts; null where start lies behind the end.</summary>
    private static (string Text, int Start)? Window(RenderContext context, Value? self, Value? start, Value? end)
    {
        string text = Charged(context, self);
        if (start is null or NoneValue && end is null or NoneValue)
            return (text, 0);
        int length = PythonText.Length(text);
        int from = Bound(start, 0), to = Math.Min(Bound(end, length), length);
        if (from > to)
            return null;
        int unit = PythonText.UnitIndex(text, from);
        return (text[unit..PythonText.UnitIndex(text, to)], unit);

        int Bound(Value? value, int otherwise)
        {
            if (value is null or NoneValue)
                return otherwise;
            if (!Operators.TryInteger(value, out BigInteger index))
                throw context.Error($"an index is an integer, not '{value.TypeName}'");
            return (int)BigInteger.Clamp(index.Sign < 0 ? index + length : index, 0, length + 1);
        }
    }

    private static bool HasAffix(RenderContext context, Value?[] a, Func<string, string, bool> hasAffix)
    {
        (string Text, int Start)? window = Window(context, a[0], a[2], a[3]);
        Value[] affixes = a[1] is TupleValue tuple ? tuple.Items : [a[1]!];
        context.ChargeItems(affixes.Length);
        return window is not null && Array.Exists(affixes, affix => hasAffix(window.Value.Text, Charged(context, affix)));
    }

    private static int Find(RenderContext context, Value?[] a, bool last)
    {
        string part = Text(context, a[1]);
        if (Window(context, a[0], a[2], a[3]) is not (string window, int start))
            return -1;
        context.ChargeSearch(window, part);
        int found = last ? PythonText.LastIndexOf(window, part, window.Length) : PythonText.IndexOf(window, part, 0);
        return found < 0 ? -1 : PythonText.CodePointIndex(Text(context, a[0]), start + found);
    }

    private static IntValue Found(RenderContext context, int index) => index >= 0 ? new IntValue(index) : throw context.Error("substring not found");

    private static int Count(RenderContext context, Value?[] a)
    {
        string part = Text(context, a[1]);
        if (Window(context, a[0], a[2], a[3]) is not (string window, _))
            return 0;
        context.ChargeSearch(window, part);
        int count = 0;
        for (int i = NextMatch(window, part, 0, first: true); i >= 0; i = NextMatch(window, part, i + part.Length, first: false))
            count++;
        return count;
    }

    private static BoolValue All(RenderContext context, Value?[] a, Func<Rune, bool> isOfKind)
    {
        string text = Charged(context, a[0]);
        // A sentinel enumerates as U+FFFD, which is of no kind.
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (!isOfKind(rune))
                return BoolValue.False;
        }
        return BoolValue.Of(text.Length > 0);
    }

    /// <summary>Python's <c>isupper</c> and <c>islower</c>: there are letters with case, and all have this one.</summary>
    public static bool HasCase(string text, bool upper)
    {
        bool any = false;
        foreach (Rune rune in text.EnumerateRunes())
        {
            UnicodeCategory category = Rune.GetUnicodeCategory(rune);
            if (category is UnicodeCategory.TitlecaseLetter || category == (upper ? UnicodeCategory.LowercaseLetter : UnicodeCategory.UppercaseLetter))
                return false;
            any |= category is UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter;
        }
        return any;
    }
}
