namespace Qwen.Runtime.Templates;

/// <content>Operators, from the loosest binding to the tightest: the order of Jinja2's own grammar.</content>
internal sealed partial class Parser
{
    /// <summary>One expression, or several with commas between, which make a tuple.</summary>
    private Expression ParseTuple(bool conditionals = true)
    {
        Token first = Current;
        Expression single = conditionals ? ParseExpression() : ParseOr();
        if (!IsOperator(","))
            return single;
        var items = new List<Expression> { single };
        while (SkipOperator(",") && !AtTupleEnd())
            items.Add(conditionals ? ParseExpression() : ParseOr());
        return new TupleLiteral(first.At, [.. items]);
    }

    private bool AtTupleEnd() => Current.Kind is TokenKind.VariableEnd or TokenKind.BlockEnd || IsOperator(")");

    private Expression ParseExpression()
    {
        Enter();
        Token first = Current;
        Expression value = ParseOr();
        while (SkipName("if"))
        {
            Expression condition = ParseOr();
            Expression? otherwise = SkipName("else") ? ParseExpression() : null;
            value = new Conditional(first.At, condition, value, otherwise);
        }
        Leave();
        return value;
    }

    private Expression ParseOr()
    {
        Expression left = ParseAnd();
        while (IsName("or"))
            left = new Binary(Advance().At, "or", left, ParseAnd());
        return left;
    }

    private Expression ParseAnd()
    {
        Expression left = ParseNot();
        while (IsName("and"))
            left = new Binary(Advance().At, "and", left, ParseNot());
        return left;
    }

    private Expression ParseNot()
    {
        if (!IsName("not"))
            return ParseComparison();
        Enter();
        var not = new Unary(Advance().At, "not", ParseNot());
        Leave();
        return not;
    }

    private Expression ParseComparison()
    {
        Token first = Current;
        Expression left = ParseSum();
        var rest = new List<(string, Expression)>();
        while (true)
        {
            if (Current is { Kind: TokenKind.Operator, Text: "==" or "!=" or "<" or "<=" or ">" or ">=" })
                rest.Add((Advance().Text, ParseSum()));
            else if (SkipName("in"))
                rest.Add(("in", ParseSum()));
            else if (IsName("not") && _tokens[_next + 1] is { Kind: TokenKind.Name, Text: "in" })
            {
                _next += 2;
                rest.Add(("not in", ParseSum()));
            }
            else
                return rest.Count == 0 ? left : new Comparison(first.At, left, [.. rest]);
        }
    }

    private Expression ParseSum()
    {
        Expression left = ParseConcatenation();
        while (Current is { Kind: TokenKind.Operator, Text: "+" or "-" })
            left = new Binary(Current.At, Advance().Text, left, ParseConcatenation());
        return left;
    }

    private Expression ParseConcatenation()
    {
        Token first = Current;
        Expression left = ParseProduct();
        if (!IsOperator("~"))
            return left;
        var parts = new List<Expression> { left };
        while (SkipOperator("~"))
            parts.Add(ParseProduct());
        return new Concatenation(first.At, [.. parts]);
    }

    private Expression ParseProduct()
    {
        Expression left = ParsePower();
        while (Current is { Kind: TokenKind.Operator, Text: "*" or "/" or "//" or "%" })
            left = new Binary(Current.At, Advance().Text, left, ParsePower());
        return left;
    }

    private Expression ParsePower()
    {
        Expression left = ParseUnary(withFilters: true);
        while (IsOperator("**"))
            left = new Binary(Advance().At, "**", left, ParseUnary(withFilters: true));
        return left;
    }

    private Expression ParseUnary(bool withFilters)
    {
        Enter();
        Expression value = Current is { Kind: TokenKind.Operator, Text: "-" or "+" }
            ? new Unary(Current.At, Advance().Text, ParseUnary(withFilters: false))
            : ParsePrimary();
        value = ParsePostfix(value);
        if (withFilters)
            value = ParseFilters(value);
        Leave();
        return value;
    }
}
