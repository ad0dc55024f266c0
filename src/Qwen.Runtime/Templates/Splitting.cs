namespace Qwen.Runtime.Templates;

/// <summary>Python's <c>split</c>, <c>rsplit</c> and <c>splitlines</c>.</summary>
internal static class Splitting
{
    /// <summary>Splits at a separator, or at runs of whitespace where it is null, at most <paramref name="limit"/> times (negative: without limit).</summary>
    public static ListValue Split(RenderContext context, string text, string? separator, int limit, bool fromEnd)
    {
        if (separator is not null)
            context.ChargeSearch(text, separator);
        context.Charge(2L * text.Length);
        var parts = new List<string>();
        Action split = (separator, fromEnd) switch
        {
            (null, false) => () => AtWhitespace(text, limit, parts),
            (null, true) => () => AtWhitespaceFromEnd(text, limit, parts),
            (_, false) => () => AtSeparator(text, separator, limit, parts),
            (_, true) => () => AtSeparatorFromEnd(text, separator, limit, parts),
        };
        split();
        if (fromEnd)
            parts.Reverse();
        return ToList(context, parts);
    }

    public static ListValue Lines(RenderContext context, string text, bool keepEnds)
    {
        context.Charge(2L * text.Length);
        return ToList(context, PythonText.SplitLines(text, keepEnds));
    }

    private static ListValue ToList(RenderContext context, List<string> parts)
    {
        context.ChargeItems(parts.Count);
        return new ListValue([.. parts.Select(part => new StringValue(part))]);
    }

    private static void AtSeparator(string text, string separator, int limit, List<string> parts)
    {
        int done = 0;
        for (int i; limit != 0 && (i = PythonText.IndexOf(text, separator, done)) >= 0; limit--)
        {
            parts.Add(text[done..i]);
            done = i + separator.Length;
        }
        parts.Add(text[done..]);
    }

    private static void AtSeparatorFromEnd(string text, string separator, int limit, List<string> parts)
    {
        int end = text.Length;
        for (int i; limit != 0 && (i = PythonText.LastIndexOf(text, separator, end)) >= 0; limit--)
        {
            parts.Add(text[(i + separator.Length)..end]);
            end = i;
        }
        parts.Add(text[..end]);
    }

    /// <summary>Runs of whitespace separate; those at the ends give no empty parts. When the limit is reached, the rest is one part, up to its very end.</summary>
    private static void AtWhitespace(string text, int limit, List<string> parts)
    {
        int i = 0;
        while (true)
        {
            while (i < text.Length && PythonText.IsSpace(text[i]))
                i++;
            if (i == text.Length)
                return;
            if (limit-- == 0)
            {
                parts.Add(text[i..]);
                return;
            }
            int start = i;
            while (i < text.Length && !PythonText.IsSpace(text[i]))
                i++;
            parts.Add(text[start..i]);
        }
    }

    private static void AtWhitespaceFromEnd(string text, int limit, List<string> parts)
    {
        int i = text.Length;
        while (true)
        {
            while (i > 0 && PythonText.IsSpace(text[i - 1]))
                i--;
            if (i == 0)
                return;
            if (limit-- == 0)
            {
                parts.Add(text[..i]);
                return;
            }
            int end = i;
            while (i > 0 && !PythonText.IsSpace(text[i - 1]))
                i--;
            parts.Add(text[i..end]);
        }
    }
}
