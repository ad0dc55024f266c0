using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Tests.Tokenization;

/// <summary>The scanner against the regular expression it stands for.</summary>
public sealed class PreTokenizerTests
{
    // Characters that meet in the pattern: quotes and contractions, spaces and line breaks of all kinds, letters, marks, numbers, symbols, other planes.
    private static readonly string[] Pool =
    [
        "'", "s", "S", "t", "re", "VE", "ll", "d", "m", "\u017f", " ", "  ", "\t", "\n", "\r", "\r\n", "\u0085", "\u00a0", "\u2003", "\u2028", "\u3000", "a", "Z", "é", "ß", "中", "я",
        "\u0301", "\u0903", "\u20dd", "0", "7", "\u0663", "\u2167", "\u00bd", ".", ",", "!", "-", "_", "€", "\u200b", "\U0001f600", "\U00010400", "\U0001d7d8", "\U0001d165", "\U000e0001", "\ufffe", "|", "<", ">",
    ];

    [Theory]
    [InlineData(PreTokenizer.Qwen2Pattern)]
    [InlineData(PreTokenizer.Qwen35Pattern)]
    public void NextWord_EqualsTheRegex(string pattern)
    {
        PreTokenizer scanner = pattern == PreTokenizer.Qwen2Pattern ? PreTokenizer.Qwen2 : PreTokenizer.Qwen35;
        for (int seed = 0; seed < 40_000; seed++)
        {
            var random = new Random(seed);
            string text = RandomText(random);
            string[] expected = Split(pattern, text);
            var words = new List<string>();
            for (int at = 0; at < text.Length;)
            {
                int length = scanner.NextWord(text.AsSpan(at));
                Assert.True(length > 0);
                words.Add(text.Substring(at, length));
                at += length;
            }

            Assert.True(expected.SequenceEqual(words), $"seed {seed}: {string.Join('|', words)} instead of {string.Join('|', expected)}");
        }
    }

    private static string RandomText(Random random)
    {
        var text = new StringBuilder();
        for (int n = random.Next(1, 25); n > 0; n--)
        {
            if (random.Next(4) > 0)
                text.Append(Pool[random.Next(Pool.Length)]);
            else if (Rune.TryCreate(random.Next(2) == 0 ? random.Next(0x3000) : random.Next(0x110000), out Rune rune))
                text.Append(rune);
        }

        return text.ToString();
    }

    /// <summary>
    /// .NET's engine sees UTF-16 units, whose categories say nothing beyond the basic plane: each character outside it is matched in the
    /// shape of one inside it with its category.
    /// </summary>
    private static string[] Split(string pattern, string text)
    {
        var shape = new StringBuilder();
        var widths = new List<int>();
        foreach (Rune rune in text.EnumerateRunes())
        {
            widths.Add(rune.Utf16SequenceLength);
            shape.Append(rune.IsBmp ? rune.ToString() : Stand(Rune.GetUnicodeCategory(rune)));
        }

        var words = new List<string>();
        int at = 0;
        foreach (Match match in Regex.Matches(shape.ToString(), pattern.Replace("'s|", "['][s\u017f]|", StringComparison.Ordinal), RegexOptions.CultureInvariant))
        {
            int length = widths.Skip(match.Index).Take(match.Length).Sum();
            words.Add(text.Substring(at, length));
            at += length;
        }

        return [.. words];
    }

    private static string Stand(UnicodeCategory category) => category switch
    {
        UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter or UnicodeCategory.ModifierLetter or UnicodeCategory.OtherLetter => "中",
        UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.OtherNumber => "\u2167",
        UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark => "\u0301",
        _ => "€",
    };
}
