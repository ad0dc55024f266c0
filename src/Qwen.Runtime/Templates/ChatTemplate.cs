using System.Text.Json.Nodes;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Templates;

/// <summary>
/// A model's chat template: the Jinja2 language as Hugging Face transformers sets it up for templates (trimmed blocks, loop controls,
/// <c>tojson</c> as Python's json.dumps, <c>raise_exception</c>, <c>strftime_now</c>, an immutable sandbox), with Python's semantics of values.
/// </summary>
/// <remarks>
/// Parsed once, rendered many times and on many threads. Untrusted in both directions: the template cannot reach anything but its variables nor
/// exceed <see cref="TemplateOptions"/>, and text in the variables never becomes a control token, whatever the template does with it. A control
/// token counts as one character to the template, and one that it puts together from pieces is plain text.
/// </remarks>
public sealed class ChatTemplate
{
    private readonly ControlTokens _controlTokens;
    private readonly TemplateOptions _options;
    private readonly Statement[] _template;

    /// <summary>Parses a template.</summary>
    /// <param name="source">The template's text, such as <c>chat_template</c> of tokenizer_config.json.</param>
    /// <param name="name">The name to call it by in errors, such as its file.</param>
    /// <param name="controlTokens">The tokenizer's control tokens, such as <c>&lt;|im_start|&gt;</c>; at most 1,024.</param>
    /// <exception cref="TemplateException">The template has a syntax error, nests too deeply, or is too long.</exception>
    public ChatTemplate(string source, string name, IEnumerable<string> controlTokens)
        : this(source, name, controlTokens, TemplateOptions.Default)
    {
    }

    /// <inheritdoc cref="ChatTemplate(string, string, IEnumerable{string})"/>
    /// <param name="source">The template's text.</param>
    /// <param name="name">The name to call it by in errors.</param>
    /// <param name="controlTokens">The tokenizer's control tokens.</param>
    /// <param name="options">The limits of each rendering, and its clock.</param>
    public ChatTemplate(string source, string name, IEnumerable<string> controlTokens, TemplateOptions options)
    {
        ArgumentNullException.ThrowIfNull(source);
        ArgumentNullException.ThrowIfNull(controlTokens);
        ArgumentNullException.ThrowIfNull(options);
        Name = name;
        _options = options;
        _controlTokens = new ControlTokens(controlTokens);
        if (source.Length > options.MaxSourceLength)
            throw new TemplateException(name, default, $"the template has {source.Length} characters, more than {options.MaxSourceLength}");
        _template = Parser.Parse(source, name, _controlTokens);
    }

    /// <summary>The name that errors call the template by.</summary>
    public string Name { get; }

    /// <summary>Renders a prompt, cut into the control tokens that the template wrote and the text between them.</summary>
    /// <param name="variables">What the template can name: <c>messages</c>, <c>tools</c>, <c>add_generation_prompt</c>, <c>enable_thinking</c>, <c>bos_token</c>...</param>
    /// <returns>The parts in order; none is empty.</returns>
    /// <exception cref="TemplateException">The template refused the messages (<see cref="TemplateException.RaisedMessage"/>), failed on them, or hit a limit.</exception>
    public IReadOnlyList<PromptPart> Render(JsonObject variables) => _controlTokens.Cut(RenderWithSentinels(variables));

    /// <summary>Renders a prompt as one text, the same as transformers gives; what in it is a control token can then no longer be told.</summary>
    /// <inheritdoc cref="Render" path="/param"/>
    /// <inheritdoc cref="Render" path="/exception"/>
    public string RenderText(JsonObject variables) => _controlTokens.Restore(RenderWithSentinels(variables));

    private string RenderWithSentinels(JsonObject variables)
    {
        ArgumentNullException.ThrowIfNull(variables);
        var context = new RenderContext(Name, _controlTokens, _options);
        Scope scope = new JsonImport(context, _controlTokens).Variables(variables);
        return new Interpreter(context).Render(_template, scope);
    }
}
