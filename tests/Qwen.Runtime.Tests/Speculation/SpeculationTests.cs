using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;
using Qwen.Runtime.Speculation;
using Qwen.Runtime.Tests.Engine;

namespace Qwen.Runtime.Tests.Speculation;

public sealed class SpeculationTests
{
    private static readonly string[] Questions =
    [
        "What is 12 + 30?", "What is the capital of Norway?", "Tell me a story about a fox named Leo.", "Write fox in capitals.",
        "Extract name, age and city as JSON: Ada is 36 years old and lives in London.", "Repeat: one two three one two three one two three.",
    ];

    public static TheoryData<bool, double, string?> Ways()
    {
        TheoryData<bool, double, string?> ways = [];
        foreach (bool usesModel in (bool[])[false, true])
        {
            ways.Add(usesModel, 0, null);
            ways.Add(usesModel, 0.8, null);
            ways.Add(usesModel, 1.5, "penalties");
        }

        return ways;
    }

    /// <summary>Answers are those of plain decoding: tokens, log-probabilities to the bit, reasons.</summary>
    [Theory]
    [MemberData(nameof(Ways))]
    public async Task Answers_AreThoseOfPlainDecoding(bool usesModel, double temperature, string? penalties)
    {
        var options = new SamplingOptions { Temperature = temperature, Seed = 4, MaxTokens = 60, Logprobs = 1, TopP = 0.95, MinTokens = 5, RepetitionPenalty = penalties is null ? 1 : 1.1 };
        var small = new EngineOptions { Threads = 2, MaxSequences = 6, MaxBatchedTokens = 40, BlockSize = 4 };
        string[] expected, actual;
        await using (QwenEngine plain = await QwenEngine.LoadAsync(Repository.DemoModel, small))
            expected = await AnswersAsync(plain, options);

        await using QwenEngine engine = await QwenEngine.LoadAsync(Repository.DemoModel, small with { Speculation = new() { DraftModel = usesModel ? Repository.DemoModel : null, Tokens = 3 } });
        actual = await AnswersAsync(engine, options);

        Assert.Equal(expected, actual);
        SpeculationStatistics speculation = engine.Statistics.Speculation;
        Assert.True(speculation.AcceptedTokens > 0, $"{speculation}");
        // A draft model that is the model itself is right up to the end of each answer; with penalties, those of the guesses are missing.
        if (usesModel && penalties is null)
            Assert.True(speculation.AcceptedTokens >= speculation.DraftTokens - (3 * Questions.Length), $"{speculation}");
        Assert.Equal(engine.Statistics.TotalBlocks, engine.Statistics.FreeBlocks);
    }

    [Fact]
    public async Task Answers_AreThoseOfPlainDecoding_UnderPressure()
    {
        var options = new SamplingOptions { Temperature = 0.7, Seed = 4, MaxTokens = 60, Logprobs = 1, IgnoreEos = true };
        var small = new EngineOptions { Threads = 2, MaxSequences = 6, MaxBatchedTokens = 9, MaxModelLength = 112, KvCacheBytes = 2048 * 112, BlockSize = 4 };
        string[] expected;
        await using (QwenEngine plain = await QwenEngine.LoadAsync(Repository.DemoModel, small with { KvCacheBytes = null }))
            expected = await AnswersAsync(plain, options);
        foreach (string? draft in (string?[])[null, Repository.DemoModel])
        {
            await using QwenEngine engine = await QwenEngine.LoadAsync(Repository.DemoModel, small with { Speculation = new() { DraftModel = draft } });
            Assert.Equal(expected, await AnswersAsync(engine, options));
            Assert.True(engine.Statistics.Preemptions > 0, "the cache was large enough after all");
        }
    }

    [Fact]
    public async Task ADraftModel_WithOtherTokens_IsRefused()
    {
        var options = new EngineOptions { Speculation = new() { DraftModel = "synthetic:qwen2.5-0.5b:q4_0" } };
        string message = (await Assert.ThrowsAnyAsync<Exception>(() => QwenEngine.LoadAsync(Repository.DemoModel, options))).Message;
        Assert.Contains("can't guess for", message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(new[] { 1, 2, 3, 4, 1, 2 }, new[] { 3, 4, 1 })]
    [InlineData(new[] { 1, 2, 3, 9, 1, 2, 4, 1, 2 }, new[] { 4, 1, 2 })] // the latest
    [InlineData(new[] { 9, 1, 2, 5, 8, 1, 2, 6, 9, 1, 2 }, new[] { 5, 8, 1 })] // the longest
    [InlineData(new[] { 7, 7, 7 }, new[] { 7, 7, 7 })] // runs into itself
    [InlineData(new[] { 5, 6, 5, 6, 5, 6 }, new[] { 5, 6, 5 })]
    [InlineData(new[] { 1, 2, 3, 4, 5, 2 }, new int[0])]
    [InlineData(new[] { 1 }, new int[0])]
    public void PromptLookup_ContinuesTheLatestOccurrenceOfTheLongestEnd(int[] tokens, int[] draft)
    {
        var pool = new BlockPool(10, 4);
        using var sequence = new Started(tokens, pool);
        NGramDrafter.Draft(sequence, new SpeculationOptions(), most: 3);
        Assert.Equal(draft, sequence.From(sequence.Length).ToArray());
    }

    private static async Task<string[]> AnswersAsync(QwenEngine engine, SamplingOptions options) => await Task.WhenAll(Questions.Select(async question =>
    {
        (string text, GenerationChunk last, List<GeneratedToken> tokens) = await EngineFixture.CollectAsync(engine.ChatAsync(question, options));
        return $"{text} {last.FinishReason} {string.Join(' ', tokens.Select(t => $"{t.Id}:{t.Logprobs!.Logprob:R}"))}";
    }));

    private sealed class Started : Sequence
    {
        public Started(int[] tokens, BlockPool pool)
            : base(tokens, 40, pool) => TryStart();
    }
}
