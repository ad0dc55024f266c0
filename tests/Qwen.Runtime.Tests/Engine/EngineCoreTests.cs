using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Speculation;

namespace Qwen.Runtime.Tests.Engine;

/// <summary>The engine step by step, on a network without weights and a clock that stands.</summary>
public sealed class EngineCoreTests : IDisposable
{
    private const int Vocabulary = 50;

    private readonly FakeNetwork _network = new(Vocabulary);
    private readonly FakeClock _clock = new();
    private readonly List<IDisposable> _owned = [];

    public void Dispose() => _owned.ForEach(o => o.Dispose());

    [Fact]
    public void AStepThatThrows_FailsOnlyTheRequestsInIt()
    {
        EngineCore core = Create(new EngineOptions { MaxSequences = 1 });
        Request first = Add(core, [1, 2, 3]), second = Add(core, [1, 2, 3]);
        _network.BeforeStep = _ => throw new InvalidOperationException("broken");
        core.Step();
        _network.BeforeStep = null;

        Run(core);

        Assert.Equal("broken", Assert.Throws<InvalidOperationException>(() => Read(first)).Message);
        Assert.Equal(FinishReason.Length, Read(second)[^1].Reason);
        AssertNothingHeld(core);
    }

    [Fact]
    public void ATimeout_FreesTheBlocksWithinAStep_InTheQueueToo()
    {
        EngineCore core = Create(new EngineOptions { MaxSequences = 1 });
        var options = new RequestOptions { Timeout = TimeSpan.FromSeconds(5) };
        Request running = Add(core, [1, 2, 3], options: options), waiting = Add(core, [1, 2, 3], options: options), other = Add(core, [4, 5]);
        core.Step();
        _clock.Advance(TimeSpan.FromSeconds(4.9));
        core.Step();
        Assert.Equal(1, core.Statistics.Running);
        _clock.Advance(TimeSpan.FromSeconds(0.1));
        core.Step();

        Assert.Equal(2, Parts(running).Count);
        Assert.Contains("timeout of 5 s; 2 tokens", Assert.Throws<RequestTimeoutException>(() => Read(running)).Message, StringComparison.Ordinal);
        Assert.Throws<RequestTimeoutException>(() => Read(waiting));
        Assert.Single(Parts(other));
        Assert.Equal((1, 0), (core.Statistics.Running, core.Statistics.Waiting));
    }

    [Fact]
    public void ASlowReader_PausesItsRequest_ThenIsCut()
    {
        EngineCore core = Create(new EngineOptions { MaxUnreadTokens = 4, SlowReaderTimeout = TimeSpan.FromSeconds(10) });
        Request slow = Add(core, [1, 2, 3], new SamplingOptions { MaxTokens = 100 });
        for (int i = 0; i < 10; i++)
            core.Step();
        Assert.Equal(4, slow.Stream.Unread);
        Assert.Equal(4, slow.Generated);
        Assert.False(core.Step());

        Assert.Equal(4, Parts(slow).Count); // it catches up
        Assert.True(core.Step());
        for (int i = 0; i < 10; i++)
            core.Step();
        _clock.Advance(TimeSpan.FromSeconds(10));
        core.Step();

        Assert.Equal(4, Parts(slow).Count);
        Assert.Contains("4 tokens were left unread", Assert.Throws<SlowReaderException>(() => Read(slow)).Message, StringComparison.Ordinal);
        AssertNothingHeld(core);
    }

    [Fact]
    public void ASlowReader_DoesNotHoldUpOthers()
    {
        EngineCore core = Create(new EngineOptions { MaxUnreadTokens = 4, MaxSequences = 1 });
        Request slow = Add(core, [1, 2, 3], new SamplingOptions { MaxTokens = 10 }), other = Add(core, [4, 5]);
        var read = new List<AnswerPart>();
        for (int i = 0; i < 30; i++)
        {
            core.Step();
            read.AddRange(Parts(other));
        }

        Assert.Equal(8, read.Count);
        Assert.Equal(4, Parts(slow).Count);
        for (int i = 0; i < 5; i++)
            core.Step();
        Assert.Equal(4, Parts(slow).Count);
        Run(core);
        Assert.Equal(2, Parts(slow).Count);
        AssertNothingHeld(core);
    }

    [Fact]
    public void Cancel_FreesTheBlocksBeforeTheNextStep()
    {
        EngineCore core = Create(new EngineOptions());
        Request request = Add(core, [1, 2, 3], new SamplingOptions { N = 3 });
        core.Step();
        Assert.Equal(3, core.Statistics.Running);
        request.Cancel(new CancellationToken(true));
        Assert.False(core.Step());
        AssertNothingHeld(core);
        Parts(request);
        Assert.Throws<OperationCanceledException>(() => Read(request));
    }

    [Fact]
    public void SeveralAnswers_ReadThePromptOnce_AndAreThoseOfOneAlone()
    {
        int[] prompt = [.. Enumerable.Range(0, 37)];
        var options = new SamplingOptions { Temperature = 3, Seed = 5, MaxTokens = 9 };
        EngineCore core = Create(new EngineOptions { BlockSize = 8 });
        Request all = Add(core, prompt, options with { N = 4 });
        core.Step();
        Assert.Equal(4, core.Statistics.Running);
        Assert.Equal(5, core.Statistics.TotalBlocks - core.Statistics.FreeBlocks); // ceil(37 / 8), shared by all
        Run(core);
        Assert.Equal(3, _network.Copies); // the last one to write keeps the block
        List<AnswerPart> parts = Read(all);

        for (int i = 0; i < 4; i++)
        {
            EngineCore alone = Create(new EngineOptions());
            Request one = Add(alone, prompt, options with { Seed = 5 + (ulong)i });
            Run(alone);
            Assert.Equal(Tokens(Read(one)), Tokens(parts.Where(p => p.Answer == i)));
        }

        AssertNothingHeld(core);
    }

    [Fact]
    public void ASharedPrefix_IsReadOnce_UnlessTheSaltIsAnother()
    {
        EngineCore core = Create(new EngineOptions { BlockSize = 8 });
        int[] prompt = [.. Enumerable.Range(0, 40)];
        Assert.Equal(0, CachedOf(null));
        Assert.Equal(32, CachedOf(null)); // the last token is read in any case, and with it its block
        Assert.Equal(0, CachedOf("a"));
        Assert.Equal(32, CachedOf("a"));
        Assert.Equal(0, CachedOf("b"));
        Assert.Equal(40 * 5, core.Statistics.PrefixQueries);
        Assert.Equal(64, core.Statistics.PrefixHits);

        int CachedOf(string? salt)
        {
            Request request = Add(core, prompt, options: new RequestOptions { CacheSalt = salt });
            Run(core);
            return request.CachedTokens;
        }
    }

    [Theory]
    [InlineData(512, 0)]
    [InlineData(7, 0)]
    [InlineData(512, 6)]
    public void PromptLogprobs_ComeForEveryTokenOnce_CachedOrNot(int maxBatchedTokens, int otherRequests)
    {
        EngineCore core = Create(new EngineOptions { MaxSequences = 7, MaxBatchedTokens = maxBatchedTokens, BlockSize = 4 });
        int[] prompt = new int[30];
        for (int i = 1; i < prompt.Length; i++)
            prompt[i] = _network.After(prompt[i - 1]);
        Add(core, prompt);
        Run(core);
        for (int i = 0; i < otherRequests; i++)
            Add(core, [.. Enumerable.Range(0, 90 + i)]);
        Request request = Add(core, prompt, new SamplingOptions { PromptLogprobs = 2, MaxTokens = 1 });
        Run(core);

        Assert.Equal(30, request.PromptLogprobs!.Count);
        Assert.Null(request.PromptLogprobs[0]);
        double likeliest = 5 - Math.Log(Math.Exp(5) + Vocabulary - 1);
        Assert.All(request.PromptLogprobs.Skip(1), p => Assert.Equal(likeliest, p!.Logprob, 5));
        Assert.All(request.PromptLogprobs.Skip(1), p => Assert.Equal(2, p!.Top.Count));
        Assert.Equal(0, request.CachedTokens);
    }

    /// <summary>A step of decodes allocates nothing, whatever else is on.</summary>
    [Theory]
    [InlineData(false, 0)]
    [InlineData(true, 0)]
    [InlineData(true, 0.7)]
    public void DecodeSteps_AllocateNothing(bool speculates, double temperature)
    {
        SpeculationOptions? speculation = speculates ? new SpeculationOptions() : null;
        EngineCore core = Create(new EngineOptions { BlockSize = 4, Speculation = speculation, MaxUnreadTokens = 1 << 20 }, speculates ? new NGramDrafter(speculation!) : null);
        Request[] requests = [.. Enumerable.Range(0, 3).Select(i => Add(core, [.. Enumerable.Range(i, 20)], new SamplingOptions { MaxTokens = 20_000, Temperature = temperature, Seed = 3, RepetitionPenalty = 1.0001 }))];
        for (int i = 0; i < 500; i++)
            core.Step();
        var parts = new List<AnswerPart>(1 << 16);
        foreach (Request request in requests)
            request.Stream.Read(parts);

        Assert.Equal(0, AllocatedBySteps(core, 60));
        if (speculates && temperature == 0)
            Assert.True(core.Statistics.Speculation.AcceptedTokens > 100, $"{core.Statistics.Speculation}");
    }

    /// <summary>The same with the demo model, in the engine's own loop of steps.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void DecodeSteps_OfAModel_AllocateNothing(bool speculates)
    {
        EngineOptions options = new EngineOptions { Threads = 2, Speculation = speculates ? new() : null, MaxUnreadTokens = 1 << 20 }.Validated();
        using LoadedModel model = LoadedModel.Load(Repository.DemoModel, options);
        using var metrics = new EngineMetrics(() => default, () => true, 1024, 4, options.Clock);
        var pool = new BlockPool(model.KvBlocks, model.BlockSize, prefixCaching: true);
        using var core = new EngineCore(new ModelRunner(model), model.Config.VocabularySize, pool, options, new StepMeter(options.Clock, 1, 1), metrics, speculates ? new NGramDrafter(options.Speculation!) : null);
        for (int i = 0; i < 2; i++)
        {
            SamplingParameters sampling = new SamplingOptions { Temperature = 0.7, Seed = 1, IgnoreEos = true, TopP = 0.9 }.Resolve(GenerationDefaults.None, model.Tokenizer.VocabularySize);
            core.Add(new Request([.. Enumerable.Range(100, 30)], sampling, new RequestOptions(), model.MaxModelLength, model.EosTokenIds, pool) { SubmittedAt = 0 });
        }

        for (int i = 0; i < 300; i++) // tokens that come up often have been counted, buffers have grown
            core.Step();
        Assert.Equal(0, AllocatedBySteps(core, 20));
        core.EndAll(new OperationCanceledException());
        Assert.Equal(pool.Blocks, pool.Free);
    }

    [Fact]
    public void AvailableMemory_IsSome_AndNotMoreThanThereIs() =>
        Assert.InRange(AvailableMemory.Bytes(), 1, GC.GetGCMemoryInfo().TotalAvailableMemoryBytes);

    /// <summary>The least that some steps allocate: a collection that other tests cause in between may count what is left of this thread's allocation context.</summary>
    private static long AllocatedBySteps(EngineCore core, int steps)
    {
        long least = long.MaxValue;
        for (int round = 0; round < 5; round++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < steps; i++)
                core.Step();
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        return least;
    }

    private EngineCore Create(EngineOptions options, IDrafter? drafter = null)
    {
        options = (options with { Clock = _clock, MaxBatchedTokens = Math.Max(options.MaxBatchedTokens, options.MaxSequences) }).Validated();
        var metrics = new EngineMetrics(() => default, () => true, 4096, options.Speculation?.Tokens ?? 0, _clock);
        var pool = new BlockPool(65_536 / options.BlockSize, options.BlockSize, options.EnablePrefixCaching);
        var core = new EngineCore(_network, Vocabulary, pool, options, new StepMeter(_clock, 1, 1), metrics, drafter);
        _owned.AddRange([core, metrics]);
        return core;
    }

    private Request Add(EngineCore core, int[] prompt, SamplingOptions? sampling = null, RequestOptions? options = null)
    {
        sampling ??= new SamplingOptions { MaxTokens = 8, Temperature = 0 };
        var request = new Request(prompt, sampling.Resolve(GenerationDefaults.None, Vocabulary), options ?? new RequestOptions(), 30_000, new HashSet<int>(), core.Pool) { SubmittedAt = _clock.GetTimestamp() };
        core.Add(request);
        return request;
    }

    private static void Run(EngineCore core)
    {
        for (int i = 0; core.HasWork; i++)
        {
            Assert.True(i < 10_000);
            core.Step();
        }
    }

    private static List<AnswerPart> Parts(Request request)
    {
        var parts = new List<AnswerPart>();
        request.Stream.Read(parts);
        return parts;
    }

    /// <summary>All that is there; the stream's error if there is nothing.</summary>
    private static List<AnswerPart> Read(Request request)
    {
        Task wait = request.Stream.WaitAsync().AsTask();
        Assert.True(wait.IsCompleted);
        wait.GetAwaiter().GetResult();
        return Parts(request);
    }

    private static IEnumerable<int> Tokens(IEnumerable<AnswerPart> parts) => parts.Select(p => p.Token!.Value.Id);

    private static void AssertNothingHeld(EngineCore core)
    {
        Assert.False(core.HasWork);
        Assert.Equal(core.Statistics.TotalBlocks, core.Statistics.FreeBlocks);
    }
}
