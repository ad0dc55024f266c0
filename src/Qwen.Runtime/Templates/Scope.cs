namespace Qwen.Runtime.Templates;

/// <summary>The variables of one body. Inner scopes see outer ones; setting a name never changes an outer scope, as in Jinja2.</summary>
internal sealed class Scope(Scope? parent)
{
    private readonly Dictionary<string, Value> _variables = [];
    private readonly Scope? _parent = parent;

    public void Set(string name, Value value) => _variables[name] = value;

    public Value? Find(string name)
    {
        for (Scope? scope = this; scope is not null; scope = scope._parent)
        {
            if (scope._variables.TryGetValue(name, out Value? value))
                return value;
        }
        return Globals.Table.GetValueOrDefault(name);
    }
}
