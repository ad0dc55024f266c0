namespace Qwen.Runtime.Templates;

/// <summary>One rendering: what it may still use of its limits, and where in the template it stands.</summary>
internal sealed class RenderContext(string templateName, ControlTokens controlTokens, TemplateOptions options)
{
    private long _steps = options.MaxSteps;
    private long _work = options.MaxWork;
    private int _depth = options.MaxDepth;

    public TemplateOptions Options { get; } = options;

    /// <summary>The node being evaluated, which an error is reported at.</summary>
    public Position At { get; set; }

    /// <summary>Counts one node.</summary>
    public void Step()
    {
        if (--_steps < 0)
            throw Error($"the template takes more than {Options.MaxSteps} steps");
    }

    /// <summary>Counts work before it is done: UTF-16 units read, written or allocated.</summary>
    public void Charge(long units)
    {
        _work -= units;
        if (_work < 0)
            throw Error($"the template handles more than {Options.MaxWork} characters");
    }

    /// <summary>Counts the elements of a list before it is made.</summary>
    public void ChargeItems(long count) => Charge(count > long.MaxValue / 8 ? long.MaxValue : count * 8);

    /// <summary>Counts a search: cheap for short parts, and no more than the product of the lengths for hostile ones.</summary>
    public void ChargeSearch(string text, string part) => Charge(text.Length + (Math.Max(0L, text.Length - part.Length) * (part.Length / 32)));

    public void Enter()
    {
        if (--_depth < 0)
            throw Error($"nested more than {Options.MaxDepth} levels deep");
    }

    public void Leave() => _depth++;

    public TemplateException Error(string text) => new(templateName, At, controlTokens.Restore(text));

    /// <summary>The error that the template itself asks for.</summary>
    public TemplateException Raised(string text) => new(templateName, At, controlTokens.Restore(text), raisedByTemplate: true);
}
