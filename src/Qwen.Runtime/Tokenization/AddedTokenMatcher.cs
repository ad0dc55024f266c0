namespace Qwen.Runtime.Tokenization;

/// <summary>Finds added tokens in text: the leftmost, of those that begin there the longest.</summary>
internal sealed class AddedTokenMatcher
{
    private readonly AddedToken[] _tokens; // by first character, then longest first
    private readonly System.Buffers.SearchValues<char> _firstChars;

    public AddedTokenMatcher(IEnumerable<AddedToken> tokens)
    {
        _tokens = [.. tokens.OrderBy(t => t.Text[0]).ThenByDescending(t => t.Text.Length)];
        _firstChars = System.Buffers.SearchValues.Create([.. _tokens.Select(t => t.Text[0]).Distinct()]);
    }

    /// <summary>The index of the first added token at or after <paramref name="from"/>, or the length of the text.</summary>
    public int Find(ReadOnlySpan<char> text, int from, out AddedToken token)
    {
        for (int at = from; ; at++)
        {
            int skip = text[at..].IndexOfAny(_firstChars);
            if (skip < 0)
            {
                token = default;
                return text.Length;
            }

            at += skip;
            foreach (ref readonly AddedToken candidate in _tokens.AsSpan())
            {
                if (candidate.Text[0] == text[at] && text[at..].StartsWith(candidate.Text, StringComparison.Ordinal))
                {
                    token = candidate;
                    return at;
                }
            }
        }
    }
}
