namespace Qwen.Runtime.Templates;

/// <summary>Bounds of the sandbox in which one rendering of a <see cref="ChatTemplate"/> runs, and what it may know of the outside.</summary>
/// <remarks>The defaults let prompts of millions of tokens through and stop a hostile template within about a second.</remarks>
public sealed record TemplateOptions
{
    /// <summary>The defaults.</summary>
    public static TemplateOptions Default { get; } = new();

    /// <summary>Longest template source, in UTF-16 units.</summary>
    public int MaxSourceLength { get; init; } = 1 << 20;

    /// <summary>Most syntax nodes that one rendering evaluates.</summary>
    public long MaxSteps { get; init; } = 10_000_000;

    /// <summary>Most work on values in one rendering, in UTF-16 units read or written (a list element counts as eight): it bounds memory as well as time.</summary>
    public long MaxWork { get; init; } = 1L << 28;

    /// <summary>Longest rendered text, in UTF-16 units.</summary>
    public int MaxOutputLength { get; init; } = 1 << 25;

    /// <summary>Deepest nesting while evaluating: of expressions, statements, macro calls and printed values.</summary>
    public int MaxDepth { get; init; } = 500;

    /// <summary>Clock of <c>strftime_now</c>, read in its local time zone.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Variables that the model brings itself, such as its <c>bos_token</c>: there in every rendering that isn't given others, and trusted.</summary>
    public IReadOnlyDictionary<string, string> ModelVariables { get; init; } = new Dictionary<string, string>();

    /// <summary>
    /// Top-level variables whose text comes from the model and not from a user, so that control tokens in it count as written by the template.
    /// Whoever fills the variables must not let a request set these.
    /// </summary>
    public IReadOnlyCollection<string> TrustedVariables { get; init; } = ["bos_token", "eos_token", "pad_token", "unk_token"];
}
