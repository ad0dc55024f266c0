namespace Qwen.Runtime.Templates;

/// <summary>A chat template that cannot be parsed or rendered: its own fault, that of the messages given to it, or a limit of the sandbox.</summary>
public sealed class TemplateException : Exception
{
    internal TemplateException(string templateName, Position position, string text, bool raisedByTemplate = false, Exception? inner = null)
        : base($"{templateName}:{position.Line}:{position.Column}: {text}", inner)
    {
        TemplateName = templateName;
        Line = position.Line;
        Column = position.Column;
        RaisedMessage = raisedByTemplate ? text : null;
    }

    /// <summary>The name given to the template when it was parsed.</summary>
    public string TemplateName { get; }

    /// <summary>Line in the template, from 1; 0 where the fault lies in the variables and not at a place in the template.</summary>
    public int Line { get; }

    /// <summary>Column in the line, in UTF-16 units from 1; 0 where <see cref="Line"/> is 0.</summary>
    public int Column { get; }

    /// <summary>What the template itself said through <c>raise_exception</c>, such as "Roles must alternate"; null for every other error.</summary>
    public string? RaisedMessage { get; }
}
