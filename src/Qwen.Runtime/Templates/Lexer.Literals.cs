using System.Text;

namespace Qwen.Runtime.Templates;

/// <content>Names, numbers and strings.</content>
internal sealed partial class Lexer
{
    private void ReadName()
    {
        int start = _position;
        while (_position < _source.Length && (_source[_position] == '_' || char.IsLetterOrDigit(_source[_position])))
            _position++;
        _tokens.Add(new Token(TokenKind.Name, _source[start.._position], At(start)));
    }

    private void ReadNumber()
    {
        int start = _position;
        if (_source[start] == '0' && start + 1 < _source.Length && char.ToLowerInvariant(_source[start + 1]) is 'x' or 'o' or 'b')
        {
            _position += 2;
            SkipWhile(char.IsAsciiHexDigit);
            _tokens.Add(new Token(TokenKind.Integer, _source[start.._position], At(start)));
            return;
        }
        SkipWhile(char.IsAsciiDigit);
        bool isFloat = false;
        // a.0.1 indexes twice: digits behind a dot are never the start of a float.
        if (start == 0 || _source[start - 1] != '.')
        {
            if (PeekIs(0, '.') && PeekDigit(1))
            {
                isFloat = true;
                _position++;
                SkipWhile(char.IsAsciiDigit);
            }
            if ((PeekIs(0, 'e') || PeekIs(0, 'E')) && (PeekDigit(1) || ((PeekIs(1, '+') || PeekIs(1, '-')) && PeekDigit(2))))
            {
                isFloat = true;
                _position += 2;
                SkipWhile(char.IsAsciiDigit);
            }
        }
        _tokens.Add(new Token(isFloat ? TokenKind.Float : TokenKind.Integer, _source[start.._position], At(start)));
    }

    private void SkipWhile(Func<char, bool> isDigit)
    {
        while (_position < _source.Length && (isDigit(_source[_position]) || (_source[_position] == '_' && _position + 1 < _source.Length && isDigit(_source[_position + 1]))))
            _position++;
    }

    private bool PeekIs(int ahead, char c) => _position + ahead < _source.Length && _source[_position + ahead] == c;

    private bool PeekDigit(int ahead) => _position + ahead < _source.Length && char.IsAsciiDigit(_source[_position + ahead]);

    private void ReadString(char quote)
    {
        int start = _position++;
        var text = new StringBuilder();
        while (_position < _source.Length && _source[_position] != quote)
        {
            if (_source[_position] == '\\')
                ReadEscape(text);
            else
                text.Append(_source[_position++]);
        }
        if (_position++ >= _source.Length)
            throw Error(start, "this string has no closing quote");
        _tokens.Add(new Token(TokenKind.String, text.ToString(), At(start)));
    }

    /// <summary>Decodes one escape as Python does; what is no escape stays as it is, backslash and all.</summary>
    private void ReadEscape(StringBuilder text)
    {
        int start = _position;
        char c = start + 1 < _source.Length ? _source[start + 1] : '\0';
        _position += 2;
        const string Letters = "ntr\\'\"abfv\n";
        const string Meanings = "\n\t\r\\'\"\a\b\f\v";
        int simple = Letters.IndexOf(c, StringComparison.Ordinal);
        if (c == '\n')
            return;
        if (simple >= 0)
            text.Append(Meanings[simple]);
        else if (c is >= '0' and <= '7')
            text.Append((char)ReadDigits(start, start + 1, 1, 3, 8));
        else if (c is 'x' or 'u' or 'U')
            AppendCodePoint(text, start, ReadDigits(start, start + 2, c == 'x' ? 2 : c == 'u' ? 4 : 8, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16));
        else if (c == 'N')
            throw Error(start, "escapes by character name (\\N{...}) are not supported");
        else
        {
            text.Append('\\');
            _position = start + 1;
        }
    }

    private void AppendCodePoint(StringBuilder text, int start, long codePoint)
    {
        if (codePoint > 0x10FFFF)
            throw Error(start, "this escape is beyond U+10FFFF");
        // Surrogates are kept here and made valid with the whole string: two may pair up, a lone one becomes U+FFFD.
        if (codePoint < 0x10000)
            text.Append((char)codePoint);
        else
            text.Append(char.ConvertFromUtf32((int)codePoint));
    }

    private long ReadDigits(int start, int from, int min, int max, int radix)
    {
        long value = 0;
        int i = from;
        for (; i < _source.Length && i - from < max && char.IsAsciiHexDigit(_source[i]) && Convert.ToInt32(_source.Substring(i, 1), 16) is var digit && digit < radix; i++)
            value = (value * radix) + digit;
        if (i - from < min)
            throw Error(start, "this escape has too few digits");
        _position = i;
        return value;
    }
}
