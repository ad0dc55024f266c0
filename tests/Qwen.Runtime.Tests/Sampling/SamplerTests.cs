using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Sampling;

public sealed class SamplerTests
{
    private static readonly float[] Logits = [1.5f, -2, 3, 0.25f, 3, -30, 2.5f, 0];

    [Fact]
    public void Greedy_TakesTheLikeliest_AndTheLowestIdOfEquals() => Assert.Equal(2, Sample(new() { Temperature = 0 }));

    [Fact]
    public void TopKOfOne_AndATinyTopP_AreGreedy()
    {
        for (ulong seed = 0; seed < 50; seed++)
        {
            Assert.Equal(2, Sample(new() { TopK = 1, Seed = seed }));
            Assert.Equal(2, Sample(new() { TopP = 0.0001, Seed = seed }));
            Assert.Contains(Sample(new() { MinP = 1, Seed = seed }), (int[])[2, 4]);
        }
    }

    /// <summary>Chi-square of 40,000 draws against the exact probabilities of each filter.</summary>
    [Theory]
    [InlineData(1, 0, 1, 0)]
    [InlineData(0.5, 0, 1, 0)]
    [InlineData(2, 3, 1, 0)]
    [InlineData(1, 0, 0.8, 0)]
    [InlineData(1, 0, 1, 0.3)]
    [InlineData(1.3, 5, 0.9, 0.05)]
    public void Draws_FollowTheFilteredDistribution(double temperature, int topK, double topP, double minP)
    {
        double[] exact = Expected(temperature, topK, topP, minP);
        var options = new SamplingOptions { Temperature = temperature, TopK = topK, TopP = topP, MinP = minP, Seed = 42 };
        var sampler = new Sampler(options.Resolve(GenerationDefaults.None, Logits.Length), [], []);
        var workspace = new SamplerWorkspace(Logits.Length);
        var counts = new int[Logits.Length];
        const int draws = 40_000;
        for (int i = 0; i < draws; i++)
            counts[sampler.Sample((float[])Logits.Clone(), workspace, out _)]++;
        double chi = 0;
        for (int i = 0; i < counts.Length; i++)
        {
            if (exact[i] == 0)
                Assert.Equal(0, counts[i]);
            else
                chi += Math.Pow(counts[i] - (draws * exact[i]), 2) / (draws * exact[i]);
        }

        Assert.InRange(chi, 0, 30); // 7 degrees of freedom: p = 0.0001
    }

    [Fact]
    public void TopK_OverALargeVocabulary_KeepsExactlyTheLikeliest()
    {
        var random = new Random(3);
        float[] logits = [.. Enumerable.Range(0, 150_000).Select(_ => (float)random.Next(0, 400) / 40)]; // many ties
        int[] best = [.. Enumerable.Range(0, logits.Length).OrderByDescending(i => logits[i]).ThenBy(i => i).Take(50)];
        var sampler = new Sampler(new SamplingOptions { TopK = 50, Temperature = 5, Seed = 1 }.Resolve(GenerationDefaults.None, logits.Length), [], []);
        var workspace = new SamplerWorkspace(logits.Length);
        var drawn = new HashSet<int>();
        for (int i = 0; i < 600; i++)
            drawn.Add(sampler.Sample((float[])logits.Clone(), workspace, out _));
        Assert.Subset(best.ToHashSet(), drawn);
        Assert.InRange(drawn.Count, 45, 50);
    }

    [Fact]
    public void TheSameSeed_GivesTheSameTokens_AndAnotherOne_Others()
    {
        Assert.Equal(Draw(7), Draw(7));
        Assert.NotEqual(Draw(7), Draw(8));

        static int[] Draw(ulong seed)
        {
            var sampler = new Sampler(new SamplingOptions { Temperature = 3, Seed = seed }.Resolve(GenerationDefaults.None, Logits.Length), [], []);
            var workspace = new SamplerWorkspace(Logits.Length);
            return [.. Enumerable.Range(0, 40).Select(n => sampler.Sample((float[])Logits.Clone(), workspace, out TokenLogprobs? none))];
        }
    }

    [Fact]
    public void Penalties_FollowTheirDefinitions()
    {
        // 2 is in the prompt: 3 / 4 = 0.75. Then 4 (logit 3) wins; once in the answer it has 3 / 4 - (0.5 + 0.25).
        var options = new SamplingOptions { Temperature = 0, RepetitionPenalty = 4, PresencePenalty = 0.5, FrequencyPenalty = 0.25 };
        var sampler = new Sampler(options.Resolve(GenerationDefaults.None, Logits.Length), [2], []);
        var workspace = new SamplerWorkspace(Logits.Length);
        Assert.Equal(4, sampler.Sample((float[])Logits.Clone(), workspace, out _));
        float[] second = (float[])Logits.Clone();
        Assert.Equal(6, sampler.Sample(second, workspace, out _));
        Assert.Equal(0.75f, second[2]);
        Assert.Equal(0, second[4]);
        float[] negative = [-1, -2, -3, -4, -5, -6, -7, -8];
        Assert.Equal(0, sampler.Sample(negative, workspace, out _));
        Assert.Equal(-12, negative[2]);
    }

    [Fact]
    public void Bias_Bans_AndMinTokens_KeepTheEndAway()
    {
        Assert.Equal(4, Sample(new() { Temperature = 0, LogitBias = new Dictionary<int, float> { [2] = -100 } }));
        Assert.Equal(7, Sample(new() { Temperature = 0, LogitBias = new Dictionary<int, float> { [7] = 50 } }));
        var sampler = new Sampler(new SamplingOptions { Temperature = 0, MinTokens = 1 }.Resolve(GenerationDefaults.None, Logits.Length), [], [2]);
        var workspace = new SamplerWorkspace(Logits.Length);
        Assert.Equal(4, sampler.Sample((float[])Logits.Clone(), workspace, out _));
        Assert.Equal(2, sampler.Sample((float[])Logits.Clone(), workspace, out _));
    }

    [Fact]
    public void Logprobs_AreThoseOfTheNetwork_WhateverTheSampling()
    {
        var options = new SamplingOptions { Temperature = 5, TopK = 1, Logprobs = 3, LogitBias = new Dictionary<int, float> { [7] = 90 } };
        var sampler = new Sampler(options.Resolve(GenerationDefaults.None, Logits.Length), [], []);
        int token = sampler.Sample((float[])Logits.Clone(), new SamplerWorkspace(Logits.Length), out TokenLogprobs? logprobs);
        double total = Math.Log(Logits.Sum(l => Math.Exp(l)));
        Assert.Equal(7, token);
        Assert.Equal(0 - total, logprobs!.Logprob, 1e-6);
        Assert.Equal([2, 4, 6], logprobs.Top.Select(t => t.Id));
        Assert.All(logprobs.Top, t => Assert.Equal(Logits[t.Id] - total, t.Logprob, 1e-6));
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.PositiveInfinity)]
    public void ANonFiniteLogit_IsReported(float value)
    {
        float[] logits = (float[])Logits.Clone();
        logits[5] = value;
        var sampler = new Sampler(new SamplingOptions().Resolve(GenerationDefaults.None, Logits.Length), [], []);
        Assert.Equal(5, Assert.Throws<NonFiniteLogitException>(() => sampler.Sample(logits, new SamplerWorkspace(Logits.Length), out _)).Token);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void MinusInfinity_IsATokenThatCannotBe_UnlessAllAre(double temperature)
    {
        var workspace = new SamplerWorkspace(Logits.Length);
        var sampler = new Sampler(new SamplingOptions { Temperature = temperature, Seed = 1 }.Resolve(GenerationDefaults.None, Logits.Length), [], []);
        float[] one = [.. Logits.Select((_, i) => i == 3 ? -1 : float.NegativeInfinity)], none = [.. Logits.Select(_ => float.NegativeInfinity)];

        Assert.Equal(3, sampler.Sample(one, workspace, out _));
        Assert.Equal(0, Assert.Throws<NonFiniteLogitException>(() => sampler.Sample(none, workspace, out _)).Token);
    }

    [Fact]
    public void Sample_AllocatesNothing()
    {
        var options = new SamplingOptions { TopK = 3, TopP = 0.9, RepetitionPenalty = 1.1, Seed = 1 };
        var sampler = new Sampler(options.Resolve(GenerationDefaults.None, Logits.Length), [1, 2], []);
        var workspace = new SamplerWorkspace(Logits.Length);
        float[] logits = new float[Logits.Length];
        for (int i = 0; i < 200; i++)
            One();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 200; i++)
            One();
        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());

        void One()
        {
            Logits.CopyTo(logits, 0);
            sampler.Sample(logits, workspace, out _);
        }
    }

    [Theory]
    [MemberData(nameof(BadOptions))]
    public void Resolve_NamesTheFieldAndTheValue(SamplingOptions options, string message) =>
        Assert.Contains(message, Assert.Throws<ArgumentException>(() => options.Resolve(GenerationDefaults.None, 100)).Message, StringComparison.Ordinal);

    public static TheoryData<SamplingOptions, string> BadOptions => new()
    {
        { new() { Temperature = -1 }, "temperature: -1" },
        { new() { Temperature = double.NaN }, "temperature: NaN" },
        { new() { TopP = 1.5 }, "top_p: 1.5" },
        { new() { TopK = -2 }, "top_k: -2" },
        { new() { MinP = 2 }, "min_p: 2" },
        { new() { RepetitionPenalty = 0 }, "repetition_penalty: 0" },
        { new() { PresencePenalty = 3 }, "presence_penalty: 3" },
        { new() { Logprobs = 21 }, "logprobs: 21" },
        { new() { MaxTokens = 0 }, "max_tokens: 0" },
        { new() { MaxTokens = 2, MinTokens = 3 }, "min_tokens: 3" },
        { new() { Stop = [""] }, "stop: a string must have" },
        { new() { Stop = [.. Enumerable.Repeat("x", 17)] }, "stop: 17 strings" },
        { new() { StopTokenIds = [100] }, "stop_token_ids: token 100 is outside" },
        { new() { LogitBias = new Dictionary<int, float> { [-1] = 1 } }, "logit_bias: token -1" },
        { new() { LogitBias = new Dictionary<int, float> { [1] = float.NaN } }, "logit_bias: NaN" },
    };

    private static int Sample(SamplingOptions options) =>
        new Sampler(options.Resolve(GenerationDefaults.None, Logits.Length), [], []).Sample((float[])Logits.Clone(), new SamplerWorkspace(Logits.Length), out _);

    private static double[] Expected(double temperature, int topK, double topP, double minP)
    {
        double[] p = [.. Logits.Select(l => Math.Exp(l / temperature))];
        double max = p.Max();
        p = [.. p.Select(x => x >= minP * max ? x : 0)];
        int[] order = [.. Enumerable.Range(0, p.Length).OrderByDescending(i => p[i]).ThenBy(i => i)];
        foreach (int i in order.Skip(topK == 0 ? p.Length : topK))
            p[i] = 0;
        double total = p.Sum(), reached = 0;
        foreach (int i in order)
        {
            double own = p[i];
            if (reached >= topP * total)
                p[i] = 0;
            reached += own;
        }

        total = p.Sum();
        return [.. p.Select(x => x / total)];
    }
}
