namespace Qwen.Runtime.Templates;

/// <summary>The evaluated arguments of a call.</summary>
internal sealed record Arguments(Value[] Positional, (string Name, Value Value)[] Named)
{
    public static Arguments Empty { get; } = new([], []);

    public static Arguments Of(params Value[] positional) => new(positional, []);
}

/// <summary>The code of a filter, test, method or function; absent optional arguments are null.</summary>
internal delegate Value BuiltinBody(RenderContext context, Value?[] arguments);

/// <summary>A filter, test, method or function of the sandbox, with the names of its parameters, so that it can be called by position or by name.</summary>
internal sealed class Builtin
{
    private readonly string[] _parameters;
    private readonly int _required;
    private readonly bool _collectsRest;
    private readonly bool _collectsNamed;
    private readonly BuiltinBody _body;

    /// <summary>
    /// A signature such as "value separator? attribute?": names in order, "?" where one may be left out; "*" at the end collects further positional
    /// arguments into a tuple, and "**" further named ones into a dict.
    /// </summary>
    public Builtin(string name, string signature, BuiltinBody body)
    {
        Name = name;
        List<string> parameters = [.. signature.Split(' ', StringSplitOptions.RemoveEmptyEntries)];
        _collectsNamed = parameters.Remove("**");
        _collectsRest = parameters.Remove("*");
        _required = parameters.Count(p => !p.EndsWith('?'));
        _parameters = [.. parameters.Select(p => p.TrimEnd('?'))];
        _body = body;
    }

    public string Name { get; }

    /// <summary>Calls it with <paramref name="self"/>, where given, as the first argument.</summary>
    public Value Call(RenderContext context, Value? self, Arguments arguments)
    {
        int selves = self is null ? 0 : 1;
        int collectors = (_collectsRest ? 1 : 0) + (_collectsNamed ? 1 : 0);
        var bound = new Value?[_parameters.Length + collectors];
        if (self is not null)
            bound[0] = self;
        int direct = Math.Min(arguments.Positional.Length, _parameters.Length - selves);
        Array.Copy(arguments.Positional, 0, bound, selves, direct);
        if (_collectsRest)
            bound[_parameters.Length] = new TupleValue(arguments.Positional[direct..]);
        else if (direct < arguments.Positional.Length)
            throw context.Error($"{Name}() takes at most {_parameters.Length - selves} arguments, {arguments.Positional.Length} are given");
        BindNamed(context, arguments, bound);
        for (int i = 0; i < _required; i++)
        {
            if (bound[i] is null)
                throw context.Error($"{Name}() lacks its argument '{_parameters[i]}'");
        }
        return _body(context, bound);
    }

    private void BindNamed(RenderContext context, Arguments arguments, Value?[] bound)
    {
        DictValue? rest = null;
        if (_collectsNamed)
            bound[^1] = rest = new DictValue(Dicts.Create());
        foreach ((string name, Value value) in arguments.Named)
        {
            int index = Array.IndexOf(_parameters, name);
            if (index >= 0 && bound[index] is null)
                bound[index] = value;
            else if (index >= 0)
                throw context.Error($"{Name}() has two values for its argument '{name}'");
            else if (rest is null || !rest.Items.TryAdd(new StringValue(name), value))
                throw context.Error($"{Name}() has no use for a named argument '{name}'");
        }
    }
}
