namespace Qwen.Runtime.Templates;

// The syntax tree of a template. Nodes are immutable, so that one parsed template renders on many threads.

internal abstract record Expression(Position At);

internal sealed record Constant(Position At, Value Value) : Expression(At);
internal sealed record Name(Position At, string Identifier) : Expression(At);
internal sealed record TupleLiteral(Position At, Expression[] Items) : Expression(At);
internal sealed record ListLiteral(Position At, Expression[] Items) : Expression(At);
internal sealed record DictLiteral(Position At, (Expression Key, Expression Value)[] Items) : Expression(At);
internal sealed record AttributeAccess(Position At, Expression Target, string Attribute) : Expression(At);
internal sealed record ItemAccess(Position At, Expression Target, Expression Index) : Expression(At);
internal sealed record SliceAccess(Position At, Expression Target, Expression? Start, Expression? Stop, Expression? Step) : Expression(At);
internal sealed record Call(Position At, Expression Callee, ArgumentList Arguments, MacroDefinition? Caller = null) : Expression(At);
internal sealed record FilterCall(Position At, Expression Operand, string Filter, ArgumentList Arguments) : Expression(At);
internal sealed record TestCall(Position At, Expression Operand, string Test, ArgumentList Arguments) : Expression(At);
internal sealed record Unary(Position At, string Operator, Expression Operand) : Expression(At);
internal sealed record Binary(Position At, string Operator, Expression Left, Expression Right) : Expression(At);
internal sealed record Comparison(Position At, Expression First, (string Operator, Expression Operand)[] Rest) : Expression(At);
internal sealed record Concatenation(Position At, Expression[] Parts) : Expression(At);
internal sealed record Conditional(Position At, Expression Condition, Expression Then, Expression? Else) : Expression(At);

/// <summary>The text that a body renders to: behind <c>{% set x %}</c> and <c>{% filter f %}</c> blocks.</summary>
internal sealed record Capture(Position At, Statement[] Body) : Expression(At);

/// <summary>The arguments of a call: <c>f(positional, name=value, *spread, **named)</c>.</summary>
internal sealed record ArgumentList(Expression[] Positional, (string Name, Expression Value)[] Named, Expression? Spread, Expression? SpreadNamed)
{
    public static ArgumentList Empty { get; } = new([], [], null, null);
}

internal abstract record Statement(Position At);

internal sealed record Text(Position At, string Value) : Statement(At);
internal sealed record Print(Position At, Expression Value) : Statement(At);
internal sealed record If(Position At, (Expression Condition, Statement[] Body)[] Branches, Statement[] Else) : Statement(At);
internal sealed record For(Position At, Target Target, Expression Iterable, Expression? Filter, Statement[] Body, Statement[] Else) : Statement(At);
internal sealed record Assign(Position At, Target Target, Expression Value) : Statement(At);

/// <summary>A body with a scope of its own: <c>{% with %}</c>, and <c>{% generation %}</c>, which only marks text for training.</summary>
internal sealed record With(Position At, (Target Target, Expression Value)[] Variables, Statement[] Body) : Statement(At);
internal sealed record DefineMacro(Position At, MacroDefinition Macro) : Statement(At);
internal sealed record Break(Position At) : Statement(At);
internal sealed record Continue(Position At) : Statement(At);

/// <summary>What a value can be assigned to.</summary>
internal abstract record Target(Position At);

internal sealed record NameTarget(Position At, string Identifier) : Target(At);
internal sealed record NamespaceTarget(Position At, string Namespace, string Attribute) : Target(At);
internal sealed record TupleTarget(Position At, Target[] Items) : Target(At);

/// <summary>A macro, or the body of a <c>{% call %}</c> block, which is one without a name.</summary>
internal sealed record MacroDefinition(string Name, (string Name, Expression? Default)[] Parameters, Statement[] Body, MacroExtras Extras);

/// <summary>Which of the implicit variables a macro's body reads; Jinja2 accepts surplus arguments only for those.</summary>
[Flags]
internal enum MacroExtras { None = 0, Caller = 1, Varargs = 2, Kwargs = 4 }
