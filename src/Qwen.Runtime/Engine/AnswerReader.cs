using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Engine;

/// <summary>Makes pieces of text of what comes out of a request's stream. Used by the reader.</summary>
/// <param name="request">The request.</param>
/// <param name="tokenizer">For the text.</param>
/// <param name="clock">The loop's.</param>
internal sealed class AnswerReader(Request request, QwenTokenizer tokenizer, TimeProvider clock)
{
    private readonly AnswerText?[] _texts = [.. request.Generations.Select(_ => new AnswerText(tokenizer, request.Sampling))]; // null: the answer has ended
    private readonly List<AnswerPart> _parts = [];
    private readonly List<GeneratedToken> _tokens = [];
    private int _open = request.Generations.Length, _generated;
    private bool _hasBegun;

    /// <summary>Answers go on.</summary>
    public bool IsOpen => _open > 0;

    /// <summary>The pieces that have come since the last call: at most one of each answer.</summary>
    public IEnumerable<GenerationChunk> Read()
    {
        request.Stream.Read(_parts);
        for (int answer = 0; answer < _texts.Length; answer++)
        {
            if (_texts[answer] is { } text && Piece(answer, text) is { } piece)
                yield return piece;
        }
    }

    private GenerationChunk? Piece(int answer, AnswerText answerText)
    {
        FinishReason? reason = null;
        _tokens.Clear();
        foreach (AnswerPart part in _parts)
        {
            if (part.Answer != answer)
                continue;
            if (part.Token is { } token)
                _tokens.Add(token);
            reason ??= part.Reason;
        }

        string text = answerText.Append(_tokens, reason, out int used);
        _generated += used;
        if (answerText.IsStopped)
        {
            reason = FinishReason.Stop;
            request.Generations[answer]!.Stop();
        }

        if (text.Length == 0 && used == 0 && reason is null)
            return null;
        if (reason is not null)
        {
            _texts[answer] = null;
            _open--;
        }

        bool isFirst = !_hasBegun;
        _hasBegun = true;
        return new GenerationChunk(text, [.. _tokens.Take(used)], reason, new Usage(request.PromptLength, _generated, request.CachedTokens))
        {
            Index = answer,
            PromptLogprobs = isFirst ? request.PromptLogprobs : null,
            Times = reason is null ? null : Times(),
        };
    }

    private RequestTimes Times()
    {
        long now = clock.GetTimestamp(), started = request.StartedAt ?? now, first = request.FirstTokenAt ?? now;
        return new RequestTimes(clock.GetElapsedTime(request.SubmittedAt ?? now, started), clock.GetElapsedTime(started, first), clock.GetElapsedTime(first, now));
    }
}
