using System.Collections.Frozen;
using System.Text;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Templates;

/// <summary>Keeps the control tokens that a template writes apart from text that merely looks like them.</summary>
/// <remarks>
/// While a template runs, a control token is one sentinel: a lone low surrogate, U+DC00 plus the token's index. Valid Unicode holds none, and all
/// data is made valid before the template sees it, so no message can hold a sentinel, and no string function (all of which work on whole code
/// points) can make one. What is a sentinel in the output was therefore written by the template.
/// </remarks>
internal sealed class ControlTokens
{
    private const char FirstSentinel = '\uDC00';
    private const int MaxTokens = 0x400;

    private readonly string[] _tokens;
    // First character -> indices of the tokens that start with it, longest first.
    private readonly FrozenDictionary<char, int[]> _byFirst;

    public ControlTokens(IEnumerable<string> tokens)
    {
        _tokens = [.. tokens.Distinct(StringComparer.Ordinal)];
        if (_tokens.Length > MaxTokens)
            throw new ArgumentException($"{_tokens.Length} control tokens given; a template can tell at most {MaxTokens} apart.", nameof(tokens));
        foreach (string token in _tokens)
        {
            if (token.Length == 0 || !ReferenceEquals(Sanitize(token), token))
                throw new ArgumentException($"Control token '{Sanitize(token)}' is empty or not valid Unicode.", nameof(tokens));
        }
        _byFirst = Enumerable.Range(0, _tokens.Length).GroupBy(i => _tokens[i][0])
            .ToFrozenDictionary(g => g.Key, g => g.OrderByDescending(i => _tokens[i].Length).ToArray());
    }

    /// <summary>The text with each lone surrogate replaced by U+FFFD, as encoding it in UTF-8 would; the same instance where there is none.</summary>
    public static string Sanitize(string text)
    {
        int i = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF');
        if (i < 0)
            return text;
        StringBuilder? valid = null;
        while (i < text.Length)
        {
            if (char.IsSurrogatePair(text, i))
                i++;
            else if (char.IsSurrogate(text[i]))
                (valid ??= new StringBuilder(text))[i] = '\uFFFD';
            if (++i < text.Length && text.AsSpan(i).IndexOfAnyInRange('\uD800', '\uDFFF') is var next)
                i = next < 0 ? text.Length : i + next;
        }
        return valid?.ToString() ?? text;
    }

    /// <summary>Trusted text, made valid, with every control token in it (the longest at each place) replaced by its sentinel.</summary>
    public string Substitute(string trusted)
    {
        string text = Sanitize(trusted);
        StringBuilder? result = null;
        int done = 0;
        for (int i = 0; i < text.Length;)
        {
            int index = TokenAt(text, i);
            if (index < 0)
            {
                i++;
                continue;
            }
            (result ??= new StringBuilder(text.Length)).Append(text, done, i - done).Append((char)(FirstSentinel + index));
            done = i += _tokens[index].Length;
        }
        return result is null ? text : result.Append(text, done, text.Length - done).ToString();
    }

    private int TokenAt(string text, int start)
    {
        if (_byFirst.TryGetValue(text[start], out int[]? candidates))
        {
            foreach (int index in candidates)
            {
                if (string.CompareOrdinal(text, start, _tokens[index], 0, _tokens[index].Length) == 0)
                    return index;
            }
        }
        return -1;
    }

    /// <summary>The text cut at its sentinels.</summary>
    public List<PromptPart> Cut(string text)
    {
        var parts = new List<PromptPart>();
        int done = 0;
        for (int i = NextSentinel(text, 0); i < text.Length; i = NextSentinel(text, i + 1))
        {
            if (i > done)
                parts.Add(new PromptPart(text[done..i], IsControl: false));
            parts.Add(new PromptPart(_tokens[text[i] - FirstSentinel], IsControl: true));
            done = i + 1;
        }
        if (done < text.Length)
            parts.Add(new PromptPart(text[done..], IsControl: false));
        return parts;
    }

    /// <summary>The text with each sentinel written out as its token.</summary>
    public string Restore(string text)
    {
        int i = NextSentinel(text, 0);
        if (i == text.Length)
            return text;
        var result = new StringBuilder(text.Length + 256);
        int done = 0;
        for (; i < text.Length; i = NextSentinel(text, i + 1))
        {
            result.Append(text, done, i - done).Append(_tokens[text[i] - FirstSentinel]);
            done = i + 1;
        }
        return result.Append(text, done, text.Length - done).ToString();
    }

    private static int NextSentinel(string text, int from)
    {
        while (from < text.Length)
        {
            int next = text.AsSpan(from).IndexOfAnyInRange('\uD800', '\uDFFF');
            if (next < 0)
                break;
            from += next;
            if (char.IsLowSurrogate(text[from]))
                return from;
            from += 2; // A high surrogate: its low half follows.
        }
        return text.Length;
    }
}
