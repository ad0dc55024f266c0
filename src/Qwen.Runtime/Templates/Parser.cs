namespace Qwen.Runtime.Templates;

/// <summary>Builds the syntax tree of a template; this part reads the tags, the others the expressions in them.</summary>
internal sealed partial class Parser
{
    // Each level takes about a dozen small stack frames. Python itself refuses nested expressions of more than 200 levels.
    private const int MaxNesting = 200;

    private readonly List<Token> _tokens;
    private readonly string _name;
    private readonly ControlTokens _controlTokens;
    private int _next;
    private int _nesting;
    private int _loops;
    private MacroExtras _extras;

    private Parser(List<Token> tokens, string name, ControlTokens controlTokens)
    {
        _tokens = tokens;
        _name = name;
        _controlTokens = controlTokens;
    }

    /// <summary>Parses a template; control tokens in its literals become sentinels.</summary>
    public static Statement[] Parse(string source, string name, ControlTokens controlTokens)
    {
        var parser = new Parser(Lexer.Tokenize(ControlTokens.Sanitize(source), name), name, controlTokens);
        return parser.ParseBody(parser.Current, endTags: []);
    }

    private Token Current => _tokens[_next];

    private Token Advance() => _tokens[_next++];

    private bool IsOperator(string op) => Current.Kind == TokenKind.Operator && Current.Text == op;

    private bool IsName(string name) => Current.Kind == TokenKind.Name && Current.Text == name;

    private bool SkipOperator(string op)
    {
        if (!IsOperator(op))
            return false;
        _next++;
        return true;
    }

    private bool SkipName(string name)
    {
        if (!IsName(name))
            return false;
        _next++;
        return true;
    }

    private void ExpectOperator(string op)
    {
        if (!SkipOperator(op))
            throw Error(Current, $"expected '{op}', got '{Current.Text}'");
    }

    private void ExpectName(string name)
    {
        if (!SkipName(name))
            throw Error(Current, $"expected '{name}', got '{Current.Text}'");
    }

    private Token Expect(TokenKind kind, string what) => Current.Kind == kind ? Advance() : throw Error(Current, $"expected {what}, got '{Current.Text}'");

    private TemplateException Error(Token token, string text) => new(_name, token.At, _controlTokens.Restore(text));

    private void Enter()
    {
        if (++_nesting > MaxNesting)
            throw Error(Current, $"nested more than {MaxNesting} levels deep");
    }

    private void Leave() => _nesting--;

    /// <summary>Reads up to one of the end tags and stops behind its name; without end tags, up to the end of the template.</summary>
    private Statement[] ParseBody(Token opening, params ReadOnlySpan<string> endTags)
    {
        Enter();
        var body = new List<Statement>();
        while (Current.Kind != TokenKind.End)
        {
            Token token = Advance();
            switch (token.Kind)
            {
                case TokenKind.Data:
                    body.Add(new Text(token.At, _controlTokens.Substitute(token.Text)));
                    break;
                case TokenKind.VariableBegin:
                    body.Add(new Print(Current.At, ParseTuple()));
                    Expect(TokenKind.VariableEnd, "'}}'");
                    break;
                default: // BlockBegin: the lexer lets nothing else stand outside a tag.
                    Token tag = Expect(TokenKind.Name, "the name of a tag");
                    if (endTags.Contains(tag.Text))
                    {
                        Leave();
                        return [.. body];
                    }
                    body.Add(ParseTag(tag));
                    Expect(TokenKind.BlockEnd, "'%}'");
                    break;
            }
        }
        if (!endTags.IsEmpty)
            throw Error(opening, $"this '{opening.Text}' has no '{endTags[^1]}'");
        Leave();
        return [.. body];
    }

    private Statement[] ParseBlock(Token opening, params ReadOnlySpan<string> endTags)
    {
        Expect(TokenKind.BlockEnd, "'%}'");
        return ParseBody(opening, endTags);
    }

    /// <summary>The name of the tag that ended the body just read.</summary>
    private string EndTag => _tokens[_next - 1].Text;

    private Statement ParseTag(Token tag) => tag.Text switch
    {
        "if" => ParseIf(tag),
        "for" => ParseFor(tag),
        "set" => ParseSet(tag),
        "macro" => ParseMacro(tag),
        "call" => ParseCallBlock(tag),
        "filter" => new Print(tag.At, ParseCapture(tag, "endfilter", ParseFilter())),
        "with" => ParseWith(tag),
        "generation" => new With(tag.At, [], ParseBlock(tag, "endgeneration")),
        "break" => new Break(InLoop(tag).At),
        "continue" => new Continue(InLoop(tag).At),
        _ => throw Error(tag, $"the tag '{tag.Text}' is unknown, or not supported in chat templates"),
    };

    private Token InLoop(Token tag) => _loops > 0 ? tag : throw Error(tag, $"'{tag.Text}' outside of a loop");

    private If ParseIf(Token tag)
    {
        var branches = new List<(Expression, Statement[])>();
        Statement[] otherwise = [];
        do
        {
            Expression condition = ParseTuple(conditionals: false);
            branches.Add((condition, ParseBlock(tag, "elif", "else", "endif")));
        }
        while (EndTag == "elif");
        if (EndTag == "else")
            otherwise = ParseBlock(tag, "endif");
        return new If(tag.At, [.. branches], otherwise);
    }

    private For ParseFor(Token tag)
    {
        Target target = ParseTarget(allowNamespace: false);
        ExpectName("in");
        if (target is NameTarget { Identifier: "loop" })
            throw Error(tag, "'loop' is the loop itself and cannot be its variable");
        Expression iterable = ParseTuple(conditionals: false);
        Expression? filter = SkipName("if") ? ParseExpression() : null;
        if (IsName("recursive"))
            throw Error(Current, "recursive loops are not supported");
        _loops++;
        Statement[] body = ParseBlock(tag, "else", "endfor");
        _loops--;
        Statement[] otherwise = EndTag == "else" ? ParseBlock(tag, "endfor") : [];
        return new For(tag.At, target, iterable, filter, body, otherwise);
    }

    private Assign ParseSet(Token tag)
    {
        Target target = ParseTarget(allowNamespace: true);
        if (SkipOperator("="))
            return new Assign(tag.At, target, ParseTuple());
        return new Assign(tag.At, target, ParseCapture(tag, "endset"));
    }

    /// <summary>Reads the rest of a block whose text is captured: <c>| filters %} body {% endTag</c>.</summary>
    private Expression ParseCapture(Token tag, string endTag, params List<Filter> filters)
    {
        while (SkipOperator("|"))
            filters.Add(ParseFilter());
        Expression value = new Capture(tag.At, OutsideLoops(() => ParseBlock(tag, endTag)));
        foreach (Filter filter in filters)
            value = new FilterCall(filter.At, value, filter.Name, filter.Arguments);
        return value;
    }

    /// <summary>Python generates a function for such a body, which a loop's break cannot leave.</summary>
    private Statement[] OutsideLoops(Func<Statement[]> parse)
    {
        (int loops, _loops) = (_loops, 0);
        Statement[] body = parse();
        _loops = loops;
        return body;
    }

    private With ParseWith(Token tag)
    {
        var variables = new List<(Target, Expression)>();
        while (Current.Kind != TokenKind.BlockEnd)
        {
            if (variables.Count > 0)
                ExpectOperator(",");
            Target target = ParseTarget(allowNamespace: false);
            ExpectOperator("=");
            variables.Add((target, ParseExpression()));
        }
        return new With(tag.At, [.. variables], ParseBlock(tag, "endwith"));
    }

    private DefineMacro ParseMacro(Token tag)
    {
        string name = Expect(TokenKind.Name, "the name of the macro").Text;
        return new DefineMacro(tag.At, ParseMacroDefinition(tag, name, ParseParameters(), "endmacro"));
    }

    private Print ParseCallBlock(Token tag)
    {
        (string, Expression?)[] parameters = IsOperator("(") ? ParseParameters() : [];
        if (ParseExpression() is not Call call)
            throw Error(tag, "a call block needs the call of a macro");
        return new Print(tag.At, call with { Caller = ParseMacroDefinition(tag, "caller", parameters, "endcall") });
    }

    private MacroDefinition ParseMacroDefinition(Token tag, string name, (string, Expression?)[] parameters, string endTag)
    {
        MacroExtras outer = _extras;
        _extras = MacroExtras.None;
        Statement[] body = OutsideLoops(() => ParseBlock(tag, endTag));
        var macro = new MacroDefinition(name, parameters, body, _extras);
        _extras = outer;
        return macro;
    }

    private (string, Expression?)[] ParseParameters()
    {
        var parameters = new List<(string Name, Expression? Default)>();
        ExpectOperator("(");
        while (!SkipOperator(")"))
        {
            if (parameters.Count > 0)
                ExpectOperator(",");
            Token name = Expect(TokenKind.Name, "the name of a parameter");
            Expression? value = SkipOperator("=") ? ParseExpression() : null;
            if (value is null && parameters.Count > 0 && parameters[^1].Default is not null)
                throw Error(name, "a parameter without default follows one with a default");
            if (parameters.Exists(p => p.Name == name.Text))
                throw Error(name, $"two parameters are named '{name.Text}'");
            parameters.Add((name.Text, value));
        }
        return [.. parameters];
    }

    private Target ParseTarget(bool allowNamespace)
    {
        Token first = Current;
        var items = new List<Target>();
        bool isTuple = false;
        do
        {
            items.Add(ParseSingleTarget(allowNamespace));
            if (!SkipOperator(","))
                break;
            isTuple = true;
        }
        while (!IsName("in") && !IsOperator("=") && !IsOperator(")") && Current.Kind != TokenKind.BlockEnd);
        return isTuple ? new TupleTarget(first.At, [.. items]) : items[0];
    }

    private Target ParseSingleTarget(bool allowNamespace)
    {
        if (IsOperator("("))
        {
            Enter();
            _next++;
            Target inner = ParseTarget(allowNamespace);
            ExpectOperator(")");
            Leave();
            return inner;
        }
        Token name = Expect(TokenKind.Name, "a name to assign to");
        if (name.Text is "true" or "false" or "none" or "True" or "False" or "None")
            throw Error(name, $"cannot assign to '{name.Text}'");
        return allowNamespace && SkipOperator(".")
            ? new NamespaceTarget(name.At, name.Text, Expect(TokenKind.Name, "the name of an attribute").Text)
            : new NameTarget(name.At, name.Text);
    }
}
