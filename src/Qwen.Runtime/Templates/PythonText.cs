using System.Buffers;
using System.Globalization;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>Python's view of strings: sequences of code points. Nothing here ever cuts a surrogate pair or mistakes half of one for a sentinel.</summary>
internal static class PythonText
{
    private static readonly SearchValues<char> LineBreaks = SearchValues.Create("\n\r\v\f\u001C\u001D\u001E\u0085\u2028\u2029");

    /// <summary>Python's <c>str.isspace</c>, which also takes the four ASCII separators for whitespace.</summary>
    public static bool IsSpace(char c) => char.IsWhiteSpace(c) || c is >= '\u001C' and <= '\u001F';

    private static bool HasPairs(ReadOnlySpan<char> text) => text.ContainsAnyInRange('\uD800', '\uDBFF');

    /// <summary>Length in code points.</summary>
    public static int Length(string text)
    {
        int length = text.Length;
        if (HasPairs(text))
        {
            foreach (char c in text)
                length -= char.IsHighSurrogate(c) ? 1 : 0;
        }
        return length;
    }

    /// <summary>UTF-16 units of the code point at an index: 2 for a pair.</summary>
    private static int UnitsAt(string text, int index) => char.IsHighSurrogate(text[index]) ? 2 : 1;

    /// <summary>The index in UTF-16 units of a code point's index, which must lie within [0, length].</summary>
    public static int UnitIndex(string text, int codePoint)
    {
        if (!HasPairs(text))
            return codePoint;
        int unit = 0;
        for (; codePoint > 0; codePoint--)
            unit += UnitsAt(text, unit);
        return unit;
    }

    /// <summary>The index in code points of an index in UTF-16 units.</summary>
    public static int CodePointIndex(string text, int unit) => Length(text[..unit]);

    /// <summary>The code points, as one string each.</summary>
    public static Value[] CodePoints(string text)
    {
        var items = new Value[Length(text)];
        for (int i = 0, unit = 0; i < items.Length; i++)
        {
            int units = UnitsAt(text, unit);
            items[i] = new StringValue(text.Substring(unit, units));
            unit += units;
        }
        return items;
    }

    /// <summary>Compares by code points, as Python does; UTF-16 order differs from it for characters beyond the BMP.</summary>
    public static int Compare(string a, string b)
    {
        int i = a.AsSpan().CommonPrefixLength(b);
        if (i == a.Length || i == b.Length)
            return a.Length.CompareTo(b.Length);
        return Rank(a[i]).CompareTo(Rank(b[i]));

        static int Rank(char c) => char.IsSurrogate(c) ? c + 0x10000 : c;
    }

    /// <summary>Index in UTF-16 units of the first occurrence at or after <paramref name="from"/>, or -1; half a surrogate pair is never an occurrence of a sentinel.</summary>
    public static int IndexOf(string text, string part, int from)
    {
        while (true)
        {
            int i = text.IndexOf(part, from, StringComparison.Ordinal);
            if (i < 0 || !SplitsPair(text, i))
                return i;
            from = i + 1;
        }
    }

    /// <summary>Like <see cref="IndexOf"/> for the last occurrence that ends at or before <paramref name="end"/>.</summary>
    public static int LastIndexOf(string text, string part, int end)
    {
        while (true)
        {
            int i = text.AsSpan(0, end).LastIndexOf(part);
            if (i < 0 || !SplitsPair(text, i))
                return i;
            end = i + part.Length - 1;
        }
    }

    /// <summary>Whether the unit at an index is a control token's sentinel: a low surrogate without its high half.</summary>
    public static bool IsSentinel(string text, int index) => char.IsLowSurrogate(text[index]) && !SplitsPair(text, index);

    private static bool SplitsPair(string text, int index) =>
        index > 0 && index < text.Length && char.IsLowSurrogate(text[index]) && char.IsHighSurrogate(text[index - 1]);

    public static bool Contains(string text, string part) => IndexOf(text, part, 0) >= 0;

    public static bool EndsWith(string text, string part) =>
        text.EndsWith(part, StringComparison.Ordinal) && !SplitsPair(text, text.Length - part.Length);

    /// <summary>The text without whitespace at its ends.</summary>
    public static ReadOnlySpan<char> Strip(string text) => text.AsSpan(StripStart(text, null)..StripEnd(text, null));

    /// <summary>The index behind the leading code points that are among <paramref name="set"/>, or whitespace where that is null.</summary>
    public static int StripStart(string text, string? set)
    {
        int i = 0;
        while (i < text.Length && IsAmong(text.AsSpan(i, UnitsAt(text, i)), set))
            i += UnitsAt(text, i);
        return i;
    }

    /// <summary>The index of the trailing code points that are among <paramref name="set"/>, or whitespace where that is null; not before <see cref="StripStart"/>'s.</summary>
    public static int StripEnd(string text, string? set)
    {
        int start = StripStart(text, set);
        int end = text.Length;
        while (end > start)
        {
            int units = SplitsPair(text, end - 1) ? 2 : 1;
            if (!IsAmong(text.AsSpan(end - units, units), set))
                break;
            end -= units;
        }
        return end;
    }

    private static bool IsAmong(ReadOnlySpan<char> codePoint, string? set)
    {
        if (set is null)
            return IsSpace(codePoint[0]);
        for (int i = 0; i < set.Length; i += UnitsAt(set, i))
        {
            if (codePoint.SequenceEqual(set.AsSpan(i, UnitsAt(set, i))))
                return true;
        }
        return false;
    }

    /// <summary>Python's <c>splitlines</c>.</summary>
    public static List<string> SplitLines(string text, bool keepEnds)
    {
        var lines = new List<string>();
        for (int start = 0; start < text.Length;)
        {
            int length = text.AsSpan(start).IndexOfAny(LineBreaks);
            int end = length < 0 ? text.Length : start + length;
            int next = length < 0 ? end : end + (text.AsSpan(end).StartsWith("\r\n") ? 2 : 1);
            lines.Add(text[start..(keepEnds ? next : end)]);
            start = next;
        }
        return lines;
    }

    /// <summary>Each run of letters in title case: Python's <c>str.title</c>.</summary>
    public static string Title(string text) => Title(text, IsCased);

    /// <summary>Each word in title case: Jinja2's filter, where only blanks, hyphens and opening brackets end a word.</summary>
    public static string TitleWords(string text) => Title(text, c => !(IsSpace(c[0]) || c[0] is '-' or '(' or '{' or '[' or '<'));

    private static string Title(string text, Func<string, bool> isInWord)
    {
        var result = new StringBuilder(text.Length);
        bool inWord = false;
        for (int i = 0; i < text.Length; i += UnitsAt(text, i))
        {
            string c = text.Substring(i, UnitsAt(text, i));
            result.Append(inWord ? c.ToLowerInvariant() : c.ToUpperInvariant());
            inWord = isInWord(c);
        }
        return result.ToString();
    }

    /// <summary>The first character in upper case and the rest in lower case.</summary>
    public static string Capitalize(string text)
    {
        if (text.Length == 0)
            return text;
        int first = UnitsAt(text, 0);
        return text[..first].ToUpperInvariant() + text[first..].ToLowerInvariant();
    }

    private static bool IsCased(string c) => CharUnicodeInfo.GetUnicodeCategory(c, 0) is
        UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter;

    /// <summary>Whether Python's <c>repr</c> shows the character as it is.</summary>
    public static bool IsPrintable(string text, int index) => CharUnicodeInfo.GetUnicodeCategory(text, index) switch
    {
        UnicodeCategory.SpaceSeparator => text[index] == ' ',
        // A lone surrogate is a sentinel: it stands for the text of its token.
        UnicodeCategory.Surrogate => true,
        UnicodeCategory.Control or UnicodeCategory.Format or UnicodeCategory.PrivateUse or UnicodeCategory.OtherNotAssigned
            or UnicodeCategory.LineSeparator or UnicodeCategory.ParagraphSeparator => false,
        _ => true,
    };
}
