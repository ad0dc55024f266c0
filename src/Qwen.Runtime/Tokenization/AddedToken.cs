namespace Qwen.Runtime.Tokenization;

/// <summary>Which added tokens, written out in a text, become tokens.</summary>
public enum AddedTokenParsing
{
    /// <summary>None: all of the text is text.</summary>
    None,

    /// <summary>Those that control nothing, such as &lt;think&gt; and &lt;tool_call&gt;: for the text of users and tools.</summary>
    UserDefined,

    /// <summary>Control tokens too, such as &lt;|im_end|&gt;: only for text that the caller itself wrote.</summary>
    All,
}

/// <summary>A token that is not made by merging.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Text">How it is written.</param>
/// <param name="IsControl">It steers the model (Hugging Face: special; GGUF: control) and never comes from a user's text.</param>
public readonly record struct AddedToken(int Id, string Text, bool IsControl);

/// <summary>A piece of a rendered prompt.</summary>
/// <param name="Text">Text, or exactly one control token.</param>
/// <param name="IsControl">A control token that the template itself wrote.</param>
public readonly record struct PromptPart(string Text, bool IsControl);
