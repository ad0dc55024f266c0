using System.Globalization;
using System.Numerics;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <content>What operators stand between: literals, names, and the attributes, calls, filters and tests behind them.</content>
internal sealed partial class Parser
{
    private Expression ParsePrimary()
    {
        Token token = Advance();
        switch (token.Kind)
        {
            case TokenKind.Name:
                return ParseName(token);
            case TokenKind.String:
                return new Constant(token.At, new StringValue(_controlTokens.Substitute(ParseString(token))));
            case TokenKind.Integer:
                return new Constant(token.At, new IntValue(ParseInteger(token)));
            case TokenKind.Float:
                return new Constant(token.At, new FloatValue(double.Parse(token.Text.Replace("_", "", StringComparison.Ordinal), CultureInfo.InvariantCulture)));
            case TokenKind.Operator when token.Text == "(":
                return ParseParenthesis(token);
            case TokenKind.Operator when token.Text == "[":
                return new ListLiteral(token.At, ParseItems("]", ParseExpression));
            case TokenKind.Operator when token.Text == "{":
                return new DictLiteral(token.At, ParseItems("}", ParsePair));
            default:
                _next--;
                throw Error(token, $"unexpected '{token.Text}'");
        }
    }

    /// <summary>Adjacent strings are one, as in Python.</summary>
    private string ParseString(Token first)
    {
        if (Current.Kind != TokenKind.String)
            return first.Text;
        var text = new StringBuilder(first.Text);
        while (Current.Kind == TokenKind.String)
            text.Append(Advance().Text);
        return text.ToString();
    }

    private Expression ParseName(Token token)
    {
        switch (token.Text)
        {
            case "true" or "True":
                return new Constant(token.At, BoolValue.True);
            case "false" or "False":
                return new Constant(token.At, BoolValue.False);
            case "none" or "None":
                return new Constant(token.At, NoneValue.Instance);
        }
        _extras |= token.Text switch
        {
            "caller" => MacroExtras.Caller,
            "varargs" => MacroExtras.Varargs,
            "kwargs" => MacroExtras.Kwargs,
            _ => MacroExtras.None,
        };
        return new Name(token.At, string.Intern(token.Text));
    }

    private BigInteger ParseInteger(Token token)
    {
        if (Numbers.TryParseInteger(token.Text, radix: 0, out BigInteger value))
            return value;
        throw Error(token, $"'{token.Text[..Math.Min(token.Text.Length, 40)]}' is not an integer, or too long a one");
    }

    private Expression ParseParenthesis(Token open)
    {
        if (SkipOperator(")"))
            return new TupleLiteral(open.At, []);
        Expression inner = ParseTuple();
        ExpectOperator(")");
        return inner;
    }

    private T[] ParseItems<T>(string close, Func<T> parseItem)
    {
        var items = new List<T>();
        while (!SkipOperator(close))
        {
            if (items.Count > 0)
            {
                ExpectOperator(",");
                if (SkipOperator(close))
                    break;
            }
            items.Add(parseItem());
        }
        return [.. items];
    }

    private (Expression, Expression) ParsePair()
    {
        Expression key = ParseExpression();
        ExpectOperator(":");
        return (key, ParseExpression());
    }

    private Expression ParsePostfix(Expression value)
    {
        while (Current.Kind == TokenKind.Operator)
        {
            Token token = Current;
            if (SkipOperator("."))
                value = ParseDotAccess(token, value);
            else if (SkipOperator("["))
                value = ParseSubscript(token, value);
            else if (IsOperator("("))
                value = new Call(token.At, value, ParseArguments());
            else
                break;
        }
        return value;
    }

    private Expression ParseDotAccess(Token dot, Expression target)
    {
        Token attribute = Advance();
        return attribute.Kind switch
        {
            TokenKind.Name => new AttributeAccess(dot.At, target, string.Intern(attribute.Text)),
            TokenKind.Integer => new ItemAccess(dot.At, target, new Constant(attribute.At, new IntValue(ParseInteger(attribute)))),
            _ => throw Error(attribute, $"expected a name or a number behind the dot, got '{attribute.Text}'"),
        };
    }

    private Expression ParseSubscript(Token open, Expression target)
    {
        Expression? start = IsOperator(":") ? null : ParseExpression();
        Expression result;
        if (SkipOperator(":"))
        {
            Expression? stop = IsOperator(":") || IsOperator("]") ? null : ParseExpression();
            Expression? step = SkipOperator(":") && !IsOperator("]") ? ParseExpression() : null;
            result = new SliceAccess(open.At, target, start, stop, step);
        }
        else
            result = new ItemAccess(open.At, target, start!);
        ExpectOperator("]");
        return result;
    }

    private ArgumentList ParseArguments()
    {
        ExpectOperator("(");
        var positional = new List<Expression>();
        var named = new List<(string, Expression)>();
        Expression? spread = null, spreadNamed = null;
        for (bool first = true; !SkipOperator(")"); first = false)
        {
            if (!first)
            {
                ExpectOperator(",");
                if (SkipOperator(")"))
                    break;
            }
            Token token = Current;
            bool inOrder = spreadNamed is null;
            if (SkipOperator("*"))
            {
                inOrder &= spread is null;
                spread = ParseExpression();
            }
            else if (SkipOperator("**"))
                spreadNamed = ParseExpression();
            else if (token.Kind == TokenKind.Name && _tokens[_next + 1] is { Kind: TokenKind.Operator, Text: "=" })
            {
                _next += 2;
                named.Add((token.Text, ParseExpression()));
            }
            else
            {
                inOrder &= spread is null && named.Count == 0;
                positional.Add(ParseExpression());
            }
            if (!inOrder)
                throw Error(token, "arguments out of order: positional ones come first, then named ones, then **");
        }
        return new ArgumentList([.. positional], [.. named], spread, spreadNamed);
    }

    private readonly record struct Filter(Position At, string Name, ArgumentList Arguments);

    private Filter ParseFilter()
    {
        Position at = Current.At;
        string name = ParseDottedName("the name of a filter");
        return new Filter(at, name, IsOperator("(") ? ParseArguments() : ArgumentList.Empty);
    }

    /// <summary>Reads what may follow a whole operand: filters, tests, and calls of what they give.</summary>
    private Expression ParseFilters(Expression value)
    {
        while (true)
        {
            Token token = Current;
            if (SkipOperator("|"))
            {
                Filter filter = ParseFilter();
                value = new FilterCall(filter.At, value, filter.Name, filter.Arguments);
            }
            else if (SkipName("is"))
                value = ParseTest(token, value);
            else if (IsOperator("("))
                value = new Call(token.At, value, ParseArguments());
            else
                return value;
        }
    }

    private Expression ParseTest(Token token, Expression operand)
    {
        bool negated = SkipName("not");
        string name = ParseDottedName("the name of a test");
        ArgumentList arguments = ArgumentList.Empty;
        if (IsOperator("("))
            arguments = ParseArguments();
        else if (StartsTestArgument())
        {
            if (IsName("is"))
                throw Error(Current, "tests cannot be chained with 'is'");
            arguments = new ArgumentList([ParsePostfix(ParsePrimary())], [], null, null);
        }
        Expression test = new TestCall(token.At, operand, name, arguments);
        return negated ? new Unary(token.At, "not", test) : test;
    }

    /// <summary>Whether the token is the start of an argument without parentheses, as in <c>x is divisibleby 3</c>.</summary>
    private bool StartsTestArgument() => Current.Kind switch
    {
        TokenKind.Name => Current.Text is not ("else" or "or" or "and"),
        TokenKind.String or TokenKind.Integer or TokenKind.Float => true,
        TokenKind.Operator => Current.Text is "[" or "{",
        _ => false,
    };

    private string ParseDottedName(string what)
    {
        string name = Expect(TokenKind.Name, what).Text;
        while (SkipOperator("."))
            name += "." + Expect(TokenKind.Name, what).Text;
        return name;
    }
}
