namespace Qwen.Runtime.Templates;

/// <summary>A macro together with the scope it was defined in, whose variables it sees as they are when it is called.</summary>
internal sealed class MacroValue(MacroDefinition definition, Scope definedIn, Interpreter interpreter) : CallableValue(definition.Name)
{
    public override string TypeName => "Macro";

    public Value? FindAttribute(string name) => name switch
    {
        "name" => new StringValue(definition.Name),
        "arguments" => new TupleValue(Array.ConvertAll(definition.Parameters, p => (Value)new StringValue(p.Name))),
        "catch_varargs" => BoolValue.Of(definition.Extras.HasFlag(MacroExtras.Varargs)),
        "catch_kwargs" => BoolValue.Of(definition.Extras.HasFlag(MacroExtras.Kwargs)),
        "caller" => BoolValue.Of(definition.Extras.HasFlag(MacroExtras.Caller)),
        _ => null,
    };

    public override Value Call(RenderContext context, Arguments arguments)
    {
        var scope = new Scope(definedIn);
        Dictionary<string, Value> named = [];
        foreach ((string name, Value value) in arguments.Named)
            named.Add(name, value);
        BindParameters(context, arguments.Positional, named, scope);
        BindExtras(context, arguments.Positional, named, scope);
        return interpreter.Capture(definition.Body, scope);
    }

    private void BindParameters(RenderContext context, Value[] positional, Dictionary<string, Value> named, Scope scope)
    {
        for (int i = 0; i < definition.Parameters.Length; i++)
        {
            (string name, Expression? fallback) = definition.Parameters[i];
            bool isNamed = named.Remove(name, out Value? value);
            if (i < positional.Length)
            {
                if (isNamed)
                    throw context.Error($"{definition.Name}() has two values for its argument '{name}'");
                value = positional[i];
            }
            scope.Set(name, value ?? (fallback is null ? new UndefinedValue($"the parameter '{name}' was not given") : interpreter.Evaluate(fallback, scope)));
        }
    }

    /// <summary>Arguments beyond the parameters go where the body looks for them, and are an error where it does not.</summary>
    private void BindExtras(RenderContext context, Value[] positional, Dictionary<string, Value> named, Scope scope)
    {
        if (definition.Extras.HasFlag(MacroExtras.Caller))
            scope.Set("caller", named.Remove("caller", out Value? caller) ? caller : new UndefinedValue("no caller is defined"));
        if (definition.Extras.HasFlag(MacroExtras.Varargs))
            scope.Set("varargs", new TupleValue(positional.Length > definition.Parameters.Length ? positional[definition.Parameters.Length..] : []));
        else if (positional.Length > definition.Parameters.Length)
            throw context.Error($"the macro '{definition.Name}' takes at most {definition.Parameters.Length} arguments, {positional.Length} are given");
        if (definition.Extras.HasFlag(MacroExtras.Kwargs))
        {
            OrderedDictionary<Value, Value> rest = Dicts.Create(named.Count);
            foreach ((string name, Value value) in named)
                rest.Add(new StringValue(name), value);
            scope.Set("kwargs", new DictValue(rest));
        }
        else if (named.Count > 0)
            throw context.Error($"the macro '{definition.Name}' has no use for a named argument '{named.First().Key}'");
    }
}
