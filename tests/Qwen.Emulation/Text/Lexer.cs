namespace Qwen.Emulation.Text;

internal enum TokenKind
{
    /// <summary>An opcode with its modifiers, a register, a label or a name.</summary>
    Word,

    /// <summary>A word that begins with a dot.</summary>
    Directive,
    Number,
    Text,
    Symbol,
    End,
}

internal readonly record struct Token(TokenKind Kind, string Text, int Line, int Start)
{
    public bool Is(string text) => Text == text && Kind is not TokenKind.Text;
}

/// <summary>Cuts PTX text into tokens. An opcode keeps its modifiers: <c>ld.global.nc.L1::no_allocate.v4.u32</c> is one word.</summary>
internal static class Lexer
{
    public static List<Token> Run(string source)
    {
        List<Token> tokens = [];
        int line = 1;
        for (int i = 0; i < source.Length;)
        {
            char c = source[i];
            if (c == '\n')
                line++;
            if (c is '\0' or ' ' or '\t' or '\r' or '\n')
            {
                i++;
                continue;
            }

            int start = i;
            if (c == '/' && i + 1 < source.Length && source[i + 1] == '/')
            {
                while (i < source.Length && source[i] != '\n')
                    i++;
            }
            else if (c == '/' && i + 1 < source.Length && source[i + 1] == '*')
            {
                int end = source.IndexOf("*/", i + 2, StringComparison.Ordinal);
                if (end < 0)
                    throw new PtxException(line, "", "a comment is not closed.");
                line += source.AsSpan(i, end - i).Count('\n');
                i = end + 2;
            }
            else if (c == '"')
            {
                int end = source.IndexOf('"', i + 1);
                if (end < 0)
                    throw new PtxException(line, "", "a text is not closed.");
                tokens.Add(new(TokenKind.Text, source[(i + 1)..end], line, start));
                line += source.AsSpan(i, end - i).Count('\n');
                i = end + 1;
            }
            else if (char.IsAsciiDigit(c))
            {
                while (i < source.Length && (IsWord(source[i]) || (source[i] == '.' && i + 1 < source.Length && char.IsAsciiDigit(source[i + 1]))))
                    i++;
                tokens.Add(new(TokenKind.Number, source[start..i], line, start));
            }
            else if (IsWord(c) || c == '%')
            {
                i++;
                while (i < source.Length && (IsWord(source[i]) || (source[i] == '.' && i + 1 < source.Length && IsWord(source[i + 1])) || IsScope(source, i)))
                    i += IsScope(source, i) ? 2 : 1;
                tokens.Add(new(TokenKind.Word, source[start..i], line, start));
            }
            else if (c == '.' && i + 1 < source.Length && IsWord(source[i + 1]))
            {
                i++;
                while (i < source.Length && (IsWord(source[i]) || IsScope(source, i)))
                    i += IsScope(source, i) ? 2 : 1;
                tokens.Add(new(TokenKind.Directive, source[start..i], line, start));
            }
            else if ("{}[]()<>,;:@!|+-=".Contains(c, StringComparison.Ordinal))
            {
                tokens.Add(new(TokenKind.Symbol, c.ToString(), line, start));
                i++;
            }
            else
            {
                throw new PtxException(line, "", $"the character '{(char.IsControl(c) ? $"\\u{(int)c:x4}" : c)}' has no place here.");
            }
        }

        tokens.Add(new(TokenKind.End, "", line, source.Length));
        return tokens;
    }

    private static bool IsWord(char c) => char.IsAsciiLetterOrDigit(c) || c is '_' or '$';

    private static bool IsScope(string source, int at) =>
        at + 2 < source.Length && source[at] == ':' && source[at + 1] == ':' && IsWord(source[at + 2]);
}
