using System.Text;

namespace Qwen.Runtime.Engine;

/// <summary><c>best_of</c>: of a request's answers, gives those with the highest log-probability per token, likeliest first.</summary>
internal static class BestAnswers
{
    /// <summary>Waits for all answers, then gives each of the best as one piece.</summary>
    /// <param name="pieces">Of all answers, with log-probabilities.</param>
    /// <param name="all">How many there are.</param>
    /// <param name="best">How many are given.</param>
    /// <param name="keepLogprobs">The request asked for log-probabilities.</param>
    public static async IAsyncEnumerable<GenerationChunk> SelectAsync(IAsyncEnumerable<GenerationChunk> pieces, int all, int best, bool keepLogprobs)
    {
        Answer[] answers = [.. Enumerable.Range(0, all).Select(_ => new Answer())];
        GenerationChunk? first = null, last = null;
        await foreach (GenerationChunk piece in pieces.ConfigureAwait(false))
        {
            first ??= piece;
            last = piece;
            answers[piece.Index].Add(piece);
        }

        int index = 0;
        foreach (Answer answer in answers.OrderByDescending(a => a.Score).Take(best))
        {
            IReadOnlyList<GeneratedToken> tokens = keepLogprobs ? answer.Tokens : [.. answer.Tokens.Select(t => new GeneratedToken(t.Id, null))];
            yield return new GenerationChunk(answer.Text.ToString(), tokens, answer.Last!.FinishReason, last!.Usage)
            {
                Index = index,
                PromptLogprobs = index++ == 0 ? first!.PromptLogprobs : null,
                Times = last.Times,
            };
        }
    }

    private sealed class Answer
    {
        public StringBuilder Text { get; } = new();

        public List<GeneratedToken> Tokens { get; } = [];

        public GenerationChunk? Last { get; private set; }

        public double Score => Tokens.Average(t => t.Logprobs!.Logprob);

        public void Add(GenerationChunk piece)
        {
            Text.Append(piece.Text);
            Tokens.AddRange(piece.Tokens);
            Last = piece;
        }
    }
}
