using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Engine;

/// <summary>Turns the tokens of an answer into its text: whole characters, up to a stop text. Used by the reader of the stream.</summary>
internal sealed class AnswerText(QwenTokenizer tokenizer, SamplingParameters sampling)
{
    private readonly StreamingDetokenizer _detokenizer = new(tokenizer, sampling.SkipSpecialTokens);
    private readonly StopMatcher _stop = new(sampling.Stop, sampling.IncludeStopStringInOutput);

    /// <summary>A stop text was found.</summary>
    public bool IsStopped => _stop.IsStopped;

    /// <summary>Adds tokens and returns the text that is certain with them.</summary>
    /// <param name="tokens">In order.</param>
    /// <param name="reason">Why the answer ended with the last of them; null if it goes on.</param>
    /// <param name="used">Tokens up to the stop text: those after it count for nothing.</param>
    public string Append(List<GeneratedToken> tokens, FinishReason? reason, out int used)
    {
        string text = "";
        for (used = 0; used < tokens.Count && !IsStopped; used++)
        {
            // The token that stopped the answer is no part of its text, unless that is asked for.
            bool isStopToken = reason == FinishReason.Stop && used == tokens.Count - 1;
            if (!isStopToken || sampling.IncludeStopStringInOutput)
                text += _stop.Append(_detokenizer.Append(tokens[used].Id));
        }

        if (reason is not null && !IsStopped)
            text += _stop.Append(_detokenizer.Flush()) + _stop.Flush();
        return text;
    }
}
