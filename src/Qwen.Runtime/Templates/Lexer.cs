namespace Qwen.Runtime.Templates;

/// <summary>A place in a template's source; line and column count from 1.</summary>
internal readonly record struct Position(int Line, int Column);

internal enum TokenKind { Data, VariableBegin, VariableEnd, BlockBegin, BlockEnd, Name, String, Integer, Float, Operator, End }

/// <summary>A token; <see cref="Text"/> is the name, the operator, the digits, the decoded string or the literal text.</summary>
internal readonly record struct Token(TokenKind Kind, string Text, Position At);

/// <summary>Cuts a template into tokens as Jinja2 does with <c>trim_blocks</c> and <c>lstrip_blocks</c> on, which is how chat templates are written.</summary>
internal sealed partial class Lexer
{
    private static readonly string[] LongOperators = ["//", "**", "==", "!=", ">=", "<="];
    private const string ShortOperators = "+-/*%~[](){}><=.:|,;";

    private readonly string _source;
    private readonly string _name;
    private readonly List<Token> _tokens = [];
    private int _position;
    private int _line = 1;
    private int _lineStart;
    private int _counted;

    private Lexer(string source, string name)
    {
        // As Jinja2: every newline is \n, and one at the very end does not count.
        _source = source.Replace("\r\n", "\n", StringComparison.Ordinal).Replace('\r', '\n');
        if (_source.EndsWith('\n'))
            _source = _source[..^1];
        _name = name;
    }

    public static List<Token> Tokenize(string source, string name)
    {
        var lexer = new Lexer(source, name);
        lexer.ReadTemplate();
        return lexer._tokens;
    }

    private void ReadTemplate()
    {
        while (_position < _source.Length)
        {
            int begin = FindTag(_position);
            char kind = begin < _source.Length ? _source[begin + 1] : '\0';
            char sign = SignAt(begin + 2);
            EmitData(_position, begin, kind, sign);
            if (kind == '\0')
                break;
            _position = begin + (sign == '\0' ? 2 : 3);
            if (kind == '#')
                SkipComment(begin);
            else if (kind == '{')
                ReadTag(begin, TokenKind.VariableBegin, TokenKind.VariableEnd, "}}");
            else if (!TryReadRaw(begin))
                ReadTag(begin, TokenKind.BlockBegin, TokenKind.BlockEnd, "%}");
        }
        _tokens.Add(new Token(TokenKind.End, "end of template", At(_source.Length)));
    }

    private int FindTag(int from)
    {
        for (int i = from; (i = _source.IndexOf('{', i)) >= 0 && i + 1 < _source.Length; i++)
        {
            if (_source[i + 1] is '{' or '%' or '#')
                return i;
        }
        return _source.Length;
    }

    private char SignAt(int index) => index < _source.Length && _source[index] is '-' or '+' ? _source[index] : '\0';

    /// <summary>Emits the text [from, to) in front of a tag, stripped as the tag's kind and sign ask for.</summary>
    private void EmitData(int from, int to, char nextTag, char sign)
    {
        bool atLineStart = from == 0 || _source[from - 1] == '\n';
        int end = to;
        if (sign == '-')
        {
            while (end > from && PythonText.IsSpace(_source[end - 1]))
                end--;
        }
        else if (sign != '+' && nextTag is '%' or '#')
        {
            // lstrip_blocks: blanks between the start of the line and the tag go.
            int start = end;
            while (start > from && _source[start - 1] != '\n' && PythonText.IsSpace(_source[start - 1]))
                start--;
            if (start > from ? _source[start - 1] == '\n' : atLineStart)
                end = start;
        }
        if (end > from)
            _tokens.Add(new Token(TokenKind.Data, _source[from..end], At(from)));
    }

    private void SkipComment(int begin)
    {
        int end = _source.IndexOf("#}", _position, StringComparison.Ordinal);
        if (end < 0)
            throw Error(begin, "this comment has no '#}'");
        // The sign must lie inside the comment: in {#-#} the minus belongs to the beginning.
        SkipAfterTag(end + 2, end > _position ? _source[end - 1] : '\0', trimNewline: true);
    }

    /// <summary>Moves behind the end of a tag: a minus takes all whitespace with it, trim_blocks one newline.</summary>
    private void SkipAfterTag(int end, char sign, bool trimNewline)
    {
        _position = end;
        if (sign == '-')
            SkipSpace();
        else if (sign != '+' && trimNewline && end < _source.Length && _source[end] == '\n')
            _position++;
    }

    private void SkipSpace()
    {
        while (_position < _source.Length && PythonText.IsSpace(_source[_position]))
            _position++;
    }

    /// <summary>Reads <c>{% raw %}...{% endraw %}</c>, if that is what stands here.</summary>
    private bool TryReadRaw(int begin)
    {
        if (!IsWordTag(_position, "raw", out int bodyStart, out char beginSign) || beginSign == '+')
            return false;
        SkipAfterTag(bodyStart, beginSign, trimNewline: false);
        int body = _position;
        for (int i = body; (i = _source.IndexOf("{%", i, StringComparison.Ordinal)) >= 0; i += 2)
        {
            char sign = SignAt(i + 2);
            if (!IsWordTag(i + (sign == '\0' ? 2 : 3), "endraw", out int end, out char endSign))
                continue;
            EmitData(body, i, '%', sign);
            SkipAfterTag(end, endSign, trimNewline: true);
            return true;
        }
        throw Error(begin, "this raw block has no 'endraw'");
    }

    private bool IsWordTag(int from, string word, out int end, out char sign)
    {
        int i = from;
        while (i < _source.Length && PythonText.IsSpace(_source[i]))
            i++;
        bool isWord = string.CompareOrdinal(_source, i, word, 0, word.Length) == 0;
        i += word.Length;
        while (i < _source.Length && PythonText.IsSpace(_source[i]))
            i++;
        sign = SignAt(i);
        end = i + (sign == '\0' ? 2 : 3);
        return isWord && string.CompareOrdinal(_source, end - 2, "%}", 0, 2) == 0;
    }

    private void ReadTag(int begin, TokenKind beginKind, TokenKind endKind, string close)
    {
        _tokens.Add(new Token(beginKind, _source.Substring(begin, 2), At(begin)));
        var open = new Stack<char>();
        while (true)
        {
            SkipSpace();
            if (_position >= _source.Length)
                throw Error(begin, $"this tag has no '{close}'");
            if (open.Count == 0 && AtTagEnd(close, out char sign))
            {
                _tokens.Add(new Token(endKind, close, At(_position)));
                SkipAfterTag(_position + close.Length + (sign == '\0' ? 0 : 1), sign, trimNewline: endKind == TokenKind.BlockEnd);
                return;
            }
            ReadToken(open);
        }
    }

    private bool AtTagEnd(string close, out char sign)
    {
        sign = SignAt(_position);
        if (sign == '+' && close == "}}")
            return false; // {{ x +}} has no meaning in Jinja2: the plus is an operator.
        return string.CompareOrdinal(_source, _position + (sign == '\0' ? 0 : 1), close, 0, close.Length) == 0;
    }

    private void ReadToken(Stack<char> open)
    {
        char c = _source[_position];
        if (char.IsAsciiDigit(c))
            ReadNumber();
        else if (c == '_' || char.IsLetter(c))
            ReadName();
        else if (c is '"' or '\'')
            ReadString(c);
        else
            ReadOperator(open);
    }

    private void ReadOperator(Stack<char> open)
    {
        foreach (string op in LongOperators)
        {
            if (string.CompareOrdinal(_source, _position, op, 0, 2) == 0)
            {
                _tokens.Add(new Token(TokenKind.Operator, op, At(_position)));
                _position += 2;
                return;
            }
        }
        char c = _source[_position];
        if (!ShortOperators.Contains(c, StringComparison.Ordinal))
            throw Error(_position, $"unexpected character '{c}'");
        if (c is '(' or '[' or '{')
            open.Push(c == '(' ? ')' : c == '[' ? ']' : '}');
        else if (c is ')' or ']' or '}' && (!open.TryPop(out char expected) || expected != c))
            throw Error(_position, $"unexpected '{c}'");
        _tokens.Add(new Token(TokenKind.Operator, c.ToString(), At(_position)));
        _position++;
    }

    /// <summary>Line and column of an index. Called with growing indices mostly, so that counting lines costs one pass in all.</summary>
    private Position At(int index)
    {
        if (index < _lineStart)
            (_line, _lineStart, _counted) = (1, 0, 0);
        for (; _counted < index; _counted++)
        {
            if (_source[_counted] == '\n')
                (_line, _lineStart) = (_line + 1, _counted + 1);
        }
        return new Position(_line, index - _lineStart + 1);
    }

    private TemplateException Error(int index, string text) => new(_name, At(index), text);
}
