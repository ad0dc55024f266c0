using System.Text;
using System.Text.Json;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Engine;

/// <summary>A call of a tool that the model wrote.</summary>
/// <param name="Name">The function.</param>
/// <param name="Arguments">Its arguments: a JSON object, as the model wrote it.</param>
public sealed record ToolCall(string Name, string Arguments);

/// <summary>What a piece of an answer adds to the message.</summary>
/// <param name="Content">Text of the answer; may be empty.</param>
/// <param name="Reasoning">Text between &lt;think&gt; and &lt;/think&gt;; may be empty.</param>
/// <param name="ToolCalls">Calls that are complete with it.</param>
public readonly record struct AssistantPiece(string Content, string Reasoning, IReadOnlyList<ToolCall> ToolCalls)
{
    /// <summary>It adds nothing.</summary>
    public bool IsEmpty => Content.Length + Reasoning.Length + ToolCalls.Count == 0;
}

/// <summary>
/// Takes an answer apart as it comes, into what Qwen's templates put together: reasoning in &lt;think&gt; at the beginning, calls in
/// &lt;tool_call&gt;, and content. What only looks like a call is content, unchanged: nothing is lost.
/// </summary>
/// <remarks>Reasoning loses the line ends around it, and so does content next to a call, as the templates add them. A call is given when it is complete.</remarks>
/// <param name="parseToolCalls">Look for calls: there were tools.</param>
/// <param name="startsInReasoning">The prompt itself ends with &lt;think&gt;.</param>
public sealed class AssistantParser(bool parseToolCalls, bool startsInReasoning = false)
{
    private const string Think = "<think>", EndThink = "</think>", Call = "<tool_call>", EndCall = "</tool_call>";

    private readonly StringBuilder _pending = new(); // text whose meaning what follows decides
    private State _state = startsInReasoning ? State.Reasoning : State.Start;
    private bool _trimStart = startsInReasoning;

    private enum State
    {
        Start, // nothing but white space so far
        Reasoning,
        Content,
        Call,
    }

    /// <summary>Calls seen so far.</summary>
    public int ToolCallCount { get; private set; }

    /// <summary>Whether a prompt leaves the model inside its reasoning.</summary>
    /// <param name="tokenizer">The model's.</param>
    /// <param name="prompt">Token ids.</param>
    public static bool EndsInReasoning(QwenTokenizer tokenizer, IReadOnlyList<int> prompt)
    {
        ArgumentNullException.ThrowIfNull(tokenizer);
        ArgumentNullException.ThrowIfNull(prompt);
        const int Enough = 4; // the tag is one token, or few; line ends may follow
        return EndsInReasoning(tokenizer.Decode(prompt.Skip(prompt.Count - Enough)));
    }

    /// <summary>Whether a prompt leaves the model inside its reasoning.</summary>
    /// <param name="promptEnd">The prompt's last characters.</param>
    public static bool EndsInReasoning(string promptEnd) => promptEnd.TrimEnd().EndsWith(Think, StringComparison.Ordinal);

    /// <summary>Takes more of the answer.</summary>
    /// <param name="text">New text.</param>
    /// <param name="isLast">The answer ends with it.</param>
    public AssistantPiece Append(string text, bool isLast)
    {
        _pending.Append(text);
        var piece = new Builder();
        string rest = _pending.ToString();
        while (Step(ref rest, isLast, piece))
        {
        }

        _pending.Clear().Append(rest);
        return piece.Build();
    }

    /// <summary>Moves the beginning of <paramref name="rest"/> to the piece; false if that takes more text.</summary>
    private bool Step(ref string rest, bool isLast, Builder piece)
    {
        if (_trimStart)
        {
            rest = rest.TrimStart('\n');
            if (rest.Length == 0)
                return false;
            _trimStart = false;
        }

        switch (_state)
        {
            case State.Start:
                string start = rest.TrimStart();
                if (start.StartsWith(Think, StringComparison.Ordinal))
                {
                    rest = start[Think.Length..];
                    (_state, _trimStart) = (State.Reasoning, true);
                    return true;
                }

                if (!isLast && Think.StartsWith(start, StringComparison.Ordinal))
                    return false;
                _state = State.Content;
                return true;

            case State.Reasoning:
                if (!Until(ref rest, EndThink, isLast, trimEnd: true, piece.Reasoning))
                    return false;
                (_state, _trimStart) = (State.Content, true);
                return true;

            case State.Content:
                if (!parseToolCalls)
                {
                    piece.Content.Append(rest);
                    rest = "";
                    return false;
                }

                if (!Until(ref rest, Call, isLast, trimEnd: true, piece.Content))
                    return false;
                _state = State.Call;
                return true;

            default:
                int end = rest.IndexOf(EndCall, StringComparison.Ordinal);
                if (end < 0 && !isLast)
                    return false;
                string body = end < 0 ? rest : rest[..end];
                if (Parse(body) is { } call)
                {
                    piece.Calls.Add(call);
                    ToolCallCount++;
                    _trimStart = true;
                }
                else
                {
                    piece.Content.Append(Call).Append(body).Append(end < 0 ? "" : EndCall);
                }

                rest = end < 0 ? "" : rest[(end + EndCall.Length)..];
                _state = State.Content;
                return rest.Length > 0;
        }
    }

    /// <summary>
    /// Moves what comes before <paramref name="tag"/> to <paramref name="target"/>, and skips the tag. Without a tag, moves what can't be the beginning
    /// of one (with the line ends before it, which go where there is one), or at the end all, and says false.
    /// </summary>
    private static bool Until(ref string rest, string tag, bool isLast, bool trimEnd, StringBuilder target)
    {
        int at = rest.IndexOf(tag, StringComparison.Ordinal);
        if (at >= 0)
        {
            target.Append(trimEnd ? rest[..at].TrimEnd('\n') : rest[..at]);
            rest = rest[(at + tag.Length)..];
            return true;
        }

        int keep = isLast ? 0 : Overlap(rest, tag);
        if (!isLast)
        {
            while (keep < rest.Length && rest[^(keep + 1)] == '\n')
                keep++;
        }

        target.Append(rest, 0, rest.Length - keep);
        rest = rest[^keep..];
        return false;
    }

    /// <summary>Characters at the end of a text that may begin a tag.</summary>
    private static int Overlap(string text, string tag)
    {
        for (int length = Math.Min(text.Length, tag.Length - 1); length > 0; length--)
        {
            if (text.AsSpan(text.Length - length).SequenceEqual(tag.AsSpan(0, length)))
                return length;
        }

        return 0;
    }

    private static ToolCall? Parse(string body)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(body.Trim());
            JsonElement call = document.RootElement;
            if (call.ValueKind != JsonValueKind.Object || !call.TryGetProperty("name", out JsonElement name) || name.ValueKind != JsonValueKind.String || name.GetString() is not { Length: > 0 } function)
                return null;
            if (!call.TryGetProperty("arguments", out JsonElement arguments))
                return new ToolCall(function, "{}");
            return arguments.ValueKind switch
            {
                JsonValueKind.Object => new ToolCall(function, arguments.GetRawText()),
                JsonValueKind.String => new ToolCall(function, arguments.GetString()!), // some models write OpenAI's form
                _ => null,
            };
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException) // not JSON, or a string that is not Unicode: then it is no call
        {
            return null;
        }
    }

    private sealed class Builder
    {
        public StringBuilder Content { get; } = new();

        public StringBuilder Reasoning { get; } = new();

        public List<ToolCall> Calls { get; } = [];

        public AssistantPiece Build() => new(Content.ToString(), Reasoning.ToString(), Calls);
    }
}
