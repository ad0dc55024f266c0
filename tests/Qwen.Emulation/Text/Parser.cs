using System.Globalization;

namespace Qwen.Emulation.Text;

/// <summary>Reads PTX text (PTX ISA, chapters 3 to 5) into a <see cref="PtxModule"/>: directives, declarations and instructions, unchecked.</summary>
internal sealed class Parser
{
    private const int MaxRegisters = 1 << 16;
    private const int MaxVariableBytes = 64 << 20;
    private readonly string _source;
    private readonly List<Token> _tokens;
    private int _at;

    private Parser(string source)
    {
        _source = source;
        _tokens = Lexer.Run(source);
    }

    private Token Current => _tokens[_at];

    public static PtxModule Parse(string source) => new Parser(source).Module();

    private PtxModule Module()
    {
        PtxModule module = new();
        Expect(".version");
        string[] version = Next(TokenKind.Number).Text.Split('.');
        if (version.Length != 2 || !int.TryParse(version[0], out int major) || !int.TryParse(version[1], out int minor) || major is < 1 or > 99 || minor > 9)
            throw Error("the version is not of the form 7.8.");
        module.Version = (major * 10) + minor;
        Expect(".target");
        module.Target = Next(TokenKind.Word).Text;
        while (Accept(","))
            Next(TokenKind.Word);
        if (Accept(".address_size") && Next(TokenKind.Number).Text != "64")
            throw Error("only 64-bit addresses are known.");

        while (Current.Kind != TokenKind.End)
        {
            while (Accept(".visible") || Accept(".extern") || Accept(".weak"))
            {
            }

            if (Accept(".entry"))
                module.Entries.Add(Entry());
            else if (!SkipDebugDirective())
                module.Variables.Add(Variable());
        }

        return module;
    }

    private PtxEntry Entry()
    {
        PtxEntry entry = new(Next(TokenKind.Word).Text, Current.Line);
        if (Accept("("))
        {
            while (!Accept(")"))
            {
                if (entry.Parameters.Count > 0)
                    Expect(",");
                Parameter(entry);
            }
        }

        while (!Current.Is("{"))
            PerformanceDirective(entry);
        Expect("{");
        Body(entry);
        return entry;
    }

    private void Parameter(PtxEntry entry)
    {
        Expect(".param");
        int alignment = Accept(".align") ? Integer(1, 128) : 0;
        PtxType type = Type();
        string name = Next(TokenKind.Word).Text;
        int count = 1;
        if (Accept("["))
        {
            count = Integer(1, 4096);
            Expect("]");
        }

        alignment = Math.Max(alignment, type.Bytes);
        int offset = (entry.ParameterBytes + alignment - 1) / alignment * alignment;
        entry.Parameters.Add(new(name, type, offset, type.Bytes * count));
        entry.ParameterBytes = offset + (type.Bytes * count);
        if (entry.ParameterBytes > 4096)
            throw Error("the parameters have more than 4096 bytes.");
    }

    private void PerformanceDirective(PtxEntry entry)
    {
        Token directive = Next(TokenKind.Directive);
        if (directive.Text is not (".maxntid" or ".reqntid" or ".minnctapersm" or ".maxnreg" or ".pragma"))
            throw Error($"the directive {directive.Text} is not known here.");
        if (directive.Text == ".pragma")
        {
            Next(TokenKind.Text);
            Accept(";");
            return;
        }

        long product = Integer(1, int.MaxValue);
        while (Accept(","))
            product *= Integer(1, 1024);
        if (directive.Text == ".minnctapersm")
            entry.BlocksPerMultiprocessor = (int)Math.Min(product, 32);
        if (directive.Text is ".maxntid" or ".reqntid")
        {
            if (product > 1024)
                throw Error("a block has at most 1024 threads.");
            entry.MaxThreads = (int)product;
            entry.ExactThreads = directive.Text == ".reqntid";
        }
    }

    private void Body(PtxEntry entry)
    {
        Scope scope = new(null);
        while (true)
        {
            if (Current.Kind == TokenKind.End)
                throw Error($"the body of {entry.Name} is not closed.");
            if (Accept("{"))
            {
                scope = new(scope);
            }
            else if (Accept("}"))
            {
                if (scope.Outer is null)
                    return;
                scope = scope.Outer;
            }
            else if (Current.Kind == TokenKind.Word && _tokens[_at + 1].Is(":"))
            {
                if (!scope.Labels.TryAdd(Current.Text, entry.Instructions.Count))
                    throw Error($"the label {Current.Text} is there twice.");
                _at += 2;
            }
            else if (Accept(".reg"))
            {
                Registers(scope);
            }
            else if (Current.Kind == TokenKind.Directive)
            {
                if (!SkipDebugDirective())
                    entry.Variables.Add(Variable());
            }
            else if (!Accept(";"))
            {
                entry.Instructions.Add(Instruction(scope));
            }
        }
    }

    private void Registers(Scope scope)
    {
        PtxType type = Type();
        do
        {
            string name = Next(TokenKind.Word).Text;
            if (Accept("<"))
            {
                if (!scope.RegisterFamilies.TryAdd(name, (type, Integer(1, MaxRegisters))))
                    throw Error($"the registers {name} are declared twice.");
                Expect(">");
            }
            else if (!scope.Registers.TryAdd(name, new(name, type)))
            {
                throw Error($"the register {name} is declared twice.");
            }
        }
        while (Accept(","));
        Expect(";");
    }

    private PtxVariable Variable()
    {
        Token first = Next(TokenKind.Directive);
        StateSpace space = first.Text switch
        {
            ".shared" => StateSpace.Shared,
            ".global" => StateSpace.Global,
            ".const" => StateSpace.Constant,
            ".local" => StateSpace.Local,
            _ => throw Error($"the directive {first.Text} is not known here."),
        };
        int alignment = Accept(".align") ? Integer(1, 1024) : 0;
        PtxType type = Type();
        if (type.Kind == TypeKind.Predicate)
            throw Error("a variable can't be a predicate.");
        string name = Next(TokenKind.Word).Text;
        int count = 1;
        while (Accept("["))
        {
            if (Accept("]"))
            {
                count = 0;
                continue;
            }

            count = checked((int)Math.Min((long)count * Integer(1, MaxVariableBytes), MaxVariableBytes + 1));
            Expect("]");
        }

        int bytes = (int)Math.Min((long)count * type.Bytes, int.MaxValue);
        if (bytes > MaxVariableBytes || (bytes == 0 && space != StateSpace.Shared))
            throw Error($"{name} has no size, or more than {MaxVariableBytes} bytes.");
        byte[]? initial = Accept("=") ? Initial(type, bytes) : null;
        Expect(";");
        return new(name, space, Math.Max(alignment, type.Bytes), bytes, initial, first.Line);
    }

    private byte[] Initial(PtxType type, int bytes)
    {
        byte[] data = new byte[bytes];
        int at = 0;
        bool braces = Accept("{");
        do
        {
            if (at + type.Bytes > bytes)
                throw Error("there are more initial values than elements.");
            NumberOperand value = Number();
            ulong bits = value.Float is { } number && type.Bits == 32 ? BitConverter.SingleToUInt32Bits((float)number) : value.Bits;
            for (int i = 0; i < type.Bytes; i++)
                data[at++] = (byte)(bits >> (8 * i));
        }
        while (braces && Accept(","));
        if (braces)
            Expect("}");
        return data;
    }

    private PtxInstruction Instruction(Scope scope)
    {
        int start = Current.Start, line = Current.Line;
        PtxRegister? guard = null;
        bool negated = false;
        if (Accept("@"))
        {
            negated = Accept("!");
            string name = Next(TokenKind.Word).Text;
            guard = Register(name, scope) ?? throw Error($"the register {name} is not declared.");
            if (guard.Type.Kind != TypeKind.Predicate)
                throw Error($"the guard {name} is no predicate.");
        }

        string opcode = Next(TokenKind.Word).Text;
        List<Operand> operands = [];
        while (!Current.Is(";"))
        {
            if (operands.Count > 0)
                Expect(",");
            operands.Add(Operand(scope));
            if (operands.Count > 32)
                throw Error("there are too many operands.");
        }

        string text = string.Join(' ', _source[start..Current.Start].Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));
        Expect(";");
        return new(line, text.Length > 200 ? text[..200] : text, guard, negated, opcode, operands, scope);
    }

    private Operand Operand(Scope scope)
    {
        if (Accept("{"))
        {
            List<Operand> items = [];
            while (!Accept("}"))
            {
                if (items.Count > 0)
                    Expect(",");
                items.Add(Simple(scope));
                if (items.Count > 256)
                    throw Error("a vector has too many elements.");
            }

            return new VectorOperand(items);
        }

        if (Accept("["))
        {
            Operand at = Simple(scope);
            long offset = 0;
            while (!Accept("]"))
            {
                bool minus = Accept("-");
                if (!minus)
                    Expect("+");
                minus ^= Accept("-");
                long distance = unchecked((long)Number().Bits);
                offset += minus ? -distance : distance;
            }

            return at is NameOperand { Offset: not 0 } named ? new AddressOperand(named with { Offset = 0 }, offset + named.Offset) : new AddressOperand(at, offset);
        }

        Operand operand = Simple(scope);
        return Accept("|") ? new PairOperand(operand, Simple(scope)) : operand;
    }

    private Operand Simple(Scope scope)
    {
        if (Accept("!"))
        {
            Operand inner = Simple(scope);
            return inner is RegisterOperand { Negated: false } register ? register with { Negated = true } : throw Error("only a register can be negated.");
        }

        if (Current.Kind == TokenKind.Number || Current.Is("-"))
            return Number();
        string name = Next(TokenKind.Word).Text;
        if (name == "_")
            return new SinkOperand();
        if (Register(name, scope) is { } found)
            return new RegisterOperand(found, Negated: false);
        if (name[0] == '%')
            return new SpecialOperand(name);
        return new NameOperand(name, 0);
    }

    private NumberOperand Number()
    {
        bool minus = Accept("-");
        string text = Next(TokenKind.Number).Text;
        ulong bits;
        if (text.StartsWith("0f", StringComparison.OrdinalIgnoreCase) && text.Length == 10 && uint.TryParse(text.AsSpan(2), NumberStyles.HexNumber, null, out uint single))
            return new(minus ? single ^= 0x80000000 : single, BitConverter.UInt32BitsToSingle(single));
        if (text.StartsWith("0d", StringComparison.OrdinalIgnoreCase) && text.Length == 18 && ulong.TryParse(text.AsSpan(2), NumberStyles.HexNumber, null, out ulong wide))
            return new(minus ? wide ^= 1UL << 63 : wide, BitConverter.UInt64BitsToDouble(wide));
        if (text.Contains('.', StringComparison.Ordinal))
        {
            return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double number)
                ? new(0, minus ? -number : number) : throw Error($"{text} is no number.");
        }

        ReadOnlySpan<char> digits = text.AsSpan().TrimEnd('U');
        bool valid = digits.StartsWith("0x", StringComparison.OrdinalIgnoreCase) ? ulong.TryParse(digits[2..], NumberStyles.HexNumber, null, out bits)
            : digits.StartsWith("0b", StringComparison.OrdinalIgnoreCase) ? ulong.TryParse(digits[2..], NumberStyles.BinaryNumber, null, out bits)
            : ulong.TryParse(digits, NumberStyles.None, null, out bits) && (digits.Length == 1 || digits[0] != '0');
        return valid ? new(minus ? unchecked(0UL - bits) : bits, null) : throw Error($"{text} is no number.");
    }

    private static PtxRegister? Register(string name, Scope? scope)
    {
        for (; scope is not null; scope = scope.Outer)
        {
            if (scope.Registers.TryGetValue(name, out PtxRegister? register))
                return register;
            int digits = name.Length;
            while (digits > 1 && char.IsAsciiDigit(name[digits - 1]))
                digits--;
            for (; digits < name.Length; digits++)
            {
                if (scope.RegisterFamilies.TryGetValue(name[..digits], out (PtxType Type, int Count) family)
                    && int.TryParse(name.AsSpan(digits), out int index) && index < family.Count && (index == 0 || name[digits] != '0'))
                {
                    register = new(name, family.Type);
                    scope.Registers.Add(name, register);
                    return register;
                }
            }
        }

        return null;
    }

    private bool SkipDebugDirective()
    {
        switch (Current.Text)
        {
            case ".loc" or ".file":
                _at++;
                while (Current.Kind is TokenKind.Number or TokenKind.Text || Current.Is(","))
                    _at++;
                return true;
            case ".pragma":
                _at++;
                Next(TokenKind.Text);
                Expect(";");
                return true;
            default:
                return false;
        }
    }

    private PtxType Type()
    {
        string name = Next(TokenKind.Directive).Text;
        return PtxType.Find(name[1..]) ?? throw Error($"the type {name} is not known.");
    }

    private int Integer(int least, int most)
    {
        ulong value = Number().Bits;
        return value >= (ulong)least && value <= (ulong)most ? (int)value : throw Error($"{value} is not from {least} to {most}.");
    }

    private bool Accept(string text)
    {
        if (!Current.Is(text))
            return false;
        _at++;
        return true;
    }

    private void Expect(string text)
    {
        if (!Accept(text))
            throw Error($"'{text}' is expected, not '{Current.Text}'.");
    }

    private Token Next(TokenKind kind)
    {
        Token token = Current;
        if (token.Kind != kind)
            throw Error($"a {kind.ToString().ToLowerInvariant()} is expected, not '{token.Text}'.");
        _at++;
        return token;
    }

    private PtxException Error(string reason)
    {
        int line = Current.Line, from = Math.Min(Current.Start, _source.Length);
        int start = from == 0 ? 0 : _source.LastIndexOf('\n', from - 1) + 1;
        int end = _source.IndexOf('\n', from);
        string text = _source[start..(end < 0 ? _source.Length : end)].Trim();
        return new(line, text.Length > 200 ? text[..200] : text, reason);
    }
}
