namespace Qwen.Runtime.Templates;

/// <content>Expressions.</content>
internal sealed partial class Interpreter
{
    public Value Evaluate(Expression expression, Scope scope)
    {
        context.Enter();
        context.Step();
        Value value = expression switch
        {
            Constant constant => constant.Value,
            Name name => scope.Find(name.Identifier) ?? new UndefinedValue($"'{name.Identifier}' is undefined"),
            AttributeAccess access => Attribute(access, scope),
            ItemAccess access => Item(access, scope),
            Comparison comparison => BoolValue.Of(Compare(comparison, scope)),
            Binary binary => Operate(binary, scope),
            FilterCall call => Filter(call, scope),
            TestCall call => Test(call, scope),
            Call call => Invoke(call, scope),
            Unary { Operator: "not" } not => BoolValue.Of(!Evaluate(not.Operand, scope).IsTrue),
            Unary unary => Negate(unary, scope),
            Concatenation concatenation => Concatenate(concatenation, scope),
            Conditional conditional => Choose(conditional, scope),
            SliceAccess access => Slice(access, scope),
            ListLiteral list => new ListValue(EvaluateAll(list.Items, scope)),
            TupleLiteral tuple => new TupleValue(EvaluateAll(tuple.Items, scope)),
            DictLiteral dict => MakeDict(dict, scope),
            Capture capture => Capture(capture.Body, new Scope(scope)),
            _ => throw new InvalidOperationException($"no rule evaluates {expression.GetType().Name}"),
        };
        context.Leave();
        return value;
    }

    private Value[] EvaluateAll(Expression[] expressions, Scope scope)
    {
        context.ChargeItems(expressions.Length);
        return Array.ConvertAll(expressions, item => Evaluate(item, scope));
    }

    private Value Attribute(AttributeAccess access, Scope scope)
    {
        Value target = Evaluate(access.Target, scope);
        context.At = access.At;
        return Members.Attribute(context, target, access.Attribute);
    }

    private Value Item(ItemAccess access, Scope scope)
    {
        Value target = Evaluate(access.Target, scope);
        Value index = Evaluate(access.Index, scope);
        context.At = access.At;
        return Members.Item(context, target, index);
    }

    private Value Slice(SliceAccess access, Scope scope)
    {
        Value target = Evaluate(access.Target, scope);
        Value start = Bound(access.Start), stop = Bound(access.Stop), step = Bound(access.Step);
        context.At = access.At;
        return Sequences.Slice(context, target, start, stop, step);

        Value Bound(Expression? bound) => bound is null ? NoneValue.Instance : Evaluate(bound, scope);
    }

    private bool Compare(Comparison comparison, Scope scope)
    {
        Value left = Evaluate(comparison.First, scope);
        foreach ((string op, Expression operand) in comparison.Rest)
        {
            Value right = Evaluate(operand, scope);
            context.At = comparison.At;
            if (!Operators.Compare(context, op, left, right))
                return false;
            left = right;
        }
        return true;
    }

    private Value Operate(Binary binary, Scope scope)
    {
        Value left = Evaluate(binary.Left, scope);
        if (binary.Operator is "and" or "or")
            return left.IsTrue == (binary.Operator == "and") ? Evaluate(binary.Right, scope) : left;
        Value right = Evaluate(binary.Right, scope);
        context.At = binary.At;
        return Operators.Binary(context, binary.Operator, left, right);
    }

    private Value Negate(Unary unary, Scope scope)
    {
        Value operand = Evaluate(unary.Operand, scope);
        context.At = unary.At;
        return Operators.Unary(context, unary.Operator, operand);
    }

    private StringValue Concatenate(Concatenation concatenation, Scope scope)
    {
        string[] parts = Array.ConvertAll(concatenation.Parts, part => ValueText.Str(context, Evaluate(part, scope)));
        context.At = concatenation.At;
        return StringMethods.Join(context, "", parts);
    }

    private Value Choose(Conditional conditional, Scope scope)
    {
        if (Evaluate(conditional.Condition, scope).IsTrue)
            return Evaluate(conditional.Then, scope);
        return conditional.Else is null
            ? new UndefinedValue("the inline if is false and has no else")
            : Evaluate(conditional.Else, scope);
    }

    private DictValue MakeDict(DictLiteral literal, Scope scope)
    {
        context.ChargeItems(2L * literal.Items.Length);
        OrderedDictionary<Value, Value> items = Dicts.Create(literal.Items.Length);
        foreach ((Expression key, Expression value) in literal.Items)
        {
            Value evaluated = Evaluate(key, scope);
            context.At = key.At;
            Dicts.RequireKey(context, evaluated);
            items[evaluated] = Evaluate(value, scope);
        }
        return new DictValue(items);
    }

    private Value Filter(FilterCall call, Scope scope)
    {
        Value operand = Evaluate(call.Operand, scope);
        Arguments arguments = EvaluateArguments(call.Arguments, scope);
        context.At = call.At;
        return Filters.Call(context, call.Filter, operand, arguments);
    }

    private BoolValue Test(TestCall call, Scope scope)
    {
        Value operand = Evaluate(call.Operand, scope);
        Arguments arguments = EvaluateArguments(call.Arguments, scope);
        context.At = call.At;
        return BoolValue.Of(Tests.Call(context, call.Test, operand, arguments));
    }

    private Value Invoke(Call call, Scope scope)
    {
        Value callee = Evaluate(call.Callee, scope);
        Arguments arguments = EvaluateArguments(call.Arguments, scope);
        if (call.Caller is not null)
            arguments = arguments with { Named = [.. arguments.Named, ("caller", new MacroValue(call.Caller, scope, this))] };
        context.At = call.At;
        if (callee is CallableValue callable)
            return callable.Call(context, arguments);
        Operators.RequireDefined(context, callee);
        throw context.Error($"a {callee.TypeName} cannot be called");
    }

    private Arguments EvaluateArguments(ArgumentList list, Scope scope)
    {
        if (ReferenceEquals(list, ArgumentList.Empty))
            return Arguments.Empty;
        Value[] positional = EvaluateAll(list.Positional, scope);
        (string, Value)[] named = Array.ConvertAll(list.Named, pair => (pair.Name, Evaluate(pair.Value, scope)));
        if (list.Spread is not null)
        {
            Value[] spread = Sequences.Items(context, Evaluate(list.Spread, scope));
            context.ChargeItems(positional.Length + (long)spread.Length);
            positional = [.. positional, .. spread];
        }
        if (list.SpreadNamed is not null)
            named = [.. named, .. SpreadNamed(Evaluate(list.SpreadNamed, scope))];
        RequireDistinct(named);
        return new Arguments(positional, named);
    }

    private IEnumerable<(string, Value)> SpreadNamed(Value value)
    {
        if (value is not DictValue dict)
            throw context.Error($"only a mapping can be spread into named arguments, not '{value.TypeName}'");
        context.ChargeItems(2L * dict.Items.Count);
        return dict.Items.Select(pair => (pair.Key is StringValue name ? name.Text : throw context.Error("the name of an argument is a string"), pair.Value));
    }

    private void RequireDistinct((string Name, Value Value)[] named)
    {
        if (named.Length < 2)
            return;
        var names = new HashSet<string>();
        foreach ((string name, _) in named)
        {
            if (!names.Add(name))
                throw context.Error($"the argument '{name}' is given twice");
        }
    }
}
