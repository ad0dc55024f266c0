using System.Globalization;
using System.Text;

namespace Qwen.Runtime.Tokenization;

/// <summary>
/// Cuts text into the words within which tokens are merged: Qwen2's and Qwen3.5's regular expressions as a scanner.
/// </summary>
/// <remarks>
/// The pattern, with M (marks) only in Qwen3.5's:
/// <code>(?i:'s|'t|'re|'ve|'m|'ll|'d) | [^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+ | \p{N} | ?[^\s\p{L}\p{M}\p{N}]+[\r\n]* | \s*[\r\n]+ | \s+(?!\S) | \s+</code>
/// Categories are those of code points; a lone surrogate is none of the classes.
/// </remarks>
public sealed class PreTokenizer
{
    /// <summary>Qwen, Qwen1.5, Qwen2, Qwen2.5 and Qwen3.</summary>
    public static PreTokenizer Qwen2 { get; } = new(marksAreLetters: false);

    /// <summary>Qwen3.5: combining marks belong to words.</summary>
    public static PreTokenizer Qwen35 { get; } = new(marksAreLetters: true);

    /// <summary>Qwen2's regular expression, as tokenizer.json has it.</summary>
    internal const string Qwen2Pattern = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    /// <summary>Qwen3.5's regular expression.</summary>
    internal const string Qwen35Pattern = @"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    private readonly byte[] _classes = new byte[char.MaxValue + 1]; // of the basic plane
    private readonly bool _marksAreLetters;

    private PreTokenizer(bool marksAreLetters)
    {
        _marksAreLetters = marksAreLetters;
        for (int c = 0; c <= char.MaxValue; c++)
            _classes[c] = (byte)ClassOf(c);
    }

    private enum Class : byte
    {
        Other,
        Letter,
        Number,
        Space,
        NewLine,
    }

    /// <summary>The length of the word that the text begins with; 0 for an empty text.</summary>
    public int NextWord(ReadOnlySpan<char> text)
    {
        if (text.IsEmpty)
            return 0;
        Class first = At(text, 0, out int width);
        switch (first)
        {
            case Class.Letter:
                return Run(text, width, Class.Letter);
            case Class.Number:
                return width;
            case Class.NewLine:
                return Space(text);
        }

        if (text[0] == '\'' && Contraction(text) is > 0 and int contraction)
            return contraction;
        Class second = width < text.Length ? At(text, width, out int secondWidth) : Class.NewLine;
        if (second == Class.Letter)
            return Run(text, width, Class.Letter);
        if (first == Class.Other)
            return Punctuation(text, width);
        return text[0] == ' ' && second == Class.Other ? Punctuation(text, width) : Space(text);
    }

    private int Punctuation(ReadOnlySpan<char> text, int from) => Run(text, Run(text, from, Class.Other), Class.NewLine);

    private int Run(ReadOnlySpan<char> text, int from, Class @class)
    {
        while (from < text.Length && At(text, from, out int width) == @class)
            from += width;
        return from;
    }

    /// <summary>White space: up to its last line break; else all but the last space, which goes to the word after it.</summary>
    private int Space(ReadOnlySpan<char> text)
    {
        int end = 0, afterLineBreak = 0;
        for (; end < text.Length; end++)
        {
            var @class = (Class)_classes[text[end]];
            if (@class == Class.NewLine)
                afterLineBreak = end + 1;
            else if (@class != Class.Space)
                break;
        }

        if (afterLineBreak > 0)
            return afterLineBreak;
        return end == text.Length || end == 1 ? end : end - 1;
    }

    // Case folding makes U+017F, the long s, an s.
    private static int Contraction(ReadOnlySpan<char> text)
    {
        if (text.Length < 2)
            return 0;
        char a = char.ToLowerInvariant(text[1]), b = text.Length > 2 ? char.ToLowerInvariant(text[2]) : '\0';
        return (a, b) switch
        {
            ('s' or 't' or 'm' or 'd' or '\u017f', _) => 2,
            ('r', 'e') or ('v', 'e') or ('l', 'l') => 3,
            _ => 0,
        };
    }

    private Class At(ReadOnlySpan<char> text, int index, out int width)
    {
        char c = text[index];
        width = 1;
        if (!char.IsHighSurrogate(c) || index + 1 >= text.Length || !char.IsLowSurrogate(text[index + 1]))
            return (Class)_classes[c];
        width = 2;
        return ClassOf(char.ConvertToUtf32(c, text[index + 1]));
    }

    private Class ClassOf(int codePoint)
    {
        if (codePoint is '\r' or '\n')
            return Class.NewLine;
        if (codePoint <= char.MaxValue && char.IsWhiteSpace((char)codePoint))
            return Class.Space;
        return CharUnicodeInfo.GetUnicodeCategory(codePoint) switch
        {
            UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter
                or UnicodeCategory.ModifierLetter or UnicodeCategory.OtherLetter => Class.Letter,
            UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber => Class.Number,
            UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark when _marksAreLetters => Class.Letter,
            _ => Class.Other,
        };
    }
}
