using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>Renders a syntax tree by walking it; this half runs statements, the other half evaluates expressions.</summary>
internal sealed partial class Interpreter(RenderContext context)
{
    private StringBuilder _output = new();

    /// <summary>How a body ended: at its end, or at a break or continue of the loop around it.</summary>
    private enum Flow { Normal, Break, Continue }

    public string Render(Statement[] template, Scope variables)
    {
        Execute(template, variables);
        return _output.ToString();
    }

    /// <summary>The text that a body prints.</summary>
    public StringValue Capture(Statement[] body, Scope scope)
    {
        StringBuilder outer = _output;
        _output = new StringBuilder();
        Execute(body, scope);
        var text = new StringValue(_output.ToString());
        _output = outer;
        return text;
    }

    private void Write(string text)
    {
        context.Charge(text.Length);
        if (text.Length > context.Options.MaxOutputLength - _output.Length)
            throw context.Error($"the text is longer than {context.Options.MaxOutputLength} characters");
        _output.Append(text);
    }

    private Flow Execute(Statement[] body, Scope scope)
    {
        context.Enter();
        Flow flow = Flow.Normal;
        for (int i = 0; i < body.Length && flow == Flow.Normal; i++)
            flow = Execute(body[i], scope);
        context.Leave();
        return flow;
    }

    private Flow Execute(Statement statement, Scope scope)
    {
        context.At = statement.At;
        context.Step();
        switch (statement)
        {
            case Text text:
                Write(text.Value);
                return Flow.Normal;
            case Print print:
                Write(ValueText.Str(context, Evaluate(print.Value, scope)));
                return Flow.Normal;
            case If choice:
                foreach ((Expression condition, Statement[] body) in choice.Branches)
                {
                    if (Evaluate(condition, scope).IsTrue)
                        return Execute(body, scope);
                }
                return Execute(choice.Else, scope);
            case For loop:
                return ExecuteFor(loop, scope);
            case Assign assign:
                Store(assign.Target, Evaluate(assign.Value, scope), scope);
                return Flow.Normal;
            case With with:
                var inner = new Scope(scope);
                foreach ((Target target, Expression value) in with.Variables)
                    Store(target, Evaluate(value, scope), inner);
                return Execute(with.Body, inner);
            case DefineMacro define:
                scope.Set(define.Macro.Name, new MacroValue(define.Macro, scope, this));
                return Flow.Normal;
            case Break:
                return Flow.Break;
            default:
                return Flow.Continue;
        }
    }

    private Flow ExecuteFor(For loop, Scope scope)
    {
        Value iterable = Evaluate(loop.Iterable, scope);
        context.At = loop.Iterable.At;
        Value[] items = Sequences.Items(context, iterable);
        if (loop.Filter is not null)
            items = Array.FindAll(items, item => Passes(loop, item, scope));
        var state = new LoopValue(items);
        bool reachedEnd = false;
        for (; state.Index < items.Length; state.Index++)
        {
            context.Step();
            var body = new Scope(scope);
            body.Set("loop", state);
            Store(loop.Target, items[state.Index], body);
            Flow flow = Execute(loop.Body, body);
            reachedEnd |= flow == Flow.Normal;
            if (flow == Flow.Break)
                break;
        }
        // As in Jinja2, the else also runs where every iteration was cut short by a break or continue.
        return reachedEnd ? Flow.Normal : Execute(loop.Else, new Scope(scope));
    }

    private bool Passes(For loop, Value item, Scope scope)
    {
        var inner = new Scope(scope);
        Store(loop.Target, item, inner);
        return Evaluate(loop.Filter!, inner).IsTrue;
    }

    private void Store(Target target, Value value, Scope scope)
    {
        context.At = target.At;
        switch (target)
        {
            case NameTarget name:
                scope.Set(name.Identifier, value);
                break;
            case NamespaceTarget attribute:
                if (scope.Find(attribute.Namespace) is not NamespaceValue ns)
                    throw context.Error($"'{attribute.Namespace}' is not a namespace: its attributes cannot be set");
                ns.Attributes[attribute.Attribute] = value;
                break;
            case TupleTarget tuple:
                Value[] items = Sequences.Items(context, value);
                if (items.Length != tuple.Items.Length)
                    throw context.Error($"{tuple.Items.Length} values are needed, {items.Length} are there");
                for (int i = 0; i < items.Length; i++)
                    Store(tuple.Items[i], items[i], scope);
                break;
        }
    }
}
