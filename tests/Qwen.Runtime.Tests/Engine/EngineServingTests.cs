using System.Diagnostics;
using System.Diagnostics.Metrics;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Engine;

/// <summary>What the engine offers to those who serve with it.</summary>
public sealed class EngineServingTests(EngineFixture fixture) : IClassFixture<EngineFixture>
{
    private const string Story = "Tell me a story about a fox named Leo.";

    private readonly QwenEngine _engine = fixture.Engine;

    [Fact]
    public async Task SeveralAnswers_ComeWithTheirIndex_AndCountThePromptOnce()
    {
        var options = new SamplingOptions { Temperature = 1.5, Seed = 8, MaxTokens = 20 };
        var texts = new string[3];
        var reasons = new FinishReason?[3];
        Usage usage = default;
        await foreach (GenerationChunk piece in _engine.ChatAsync(Story, options with { N = 3 }))
        {
            Assert.Null(reasons[piece.Index]);
            texts[piece.Index] += piece.Text;
            reasons[piece.Index] = piece.FinishReason;
            Assert.Equal(piece.FinishReason is not null, piece.Times is not null);
            usage = piece.Usage;
        }

        int completion = 0;
        for (int i = 0; i < 3; i++)
        {
            (string text, GenerationChunk last, _) = await EngineFixture.CollectAsync(_engine.ChatAsync(Story, options with { Seed = 8 + (ulong)i }));
            Assert.Equal(text, texts[i]);
            completion += last.Usage.CompletionTokens;
        }

        Assert.Equal((_engine.EncodeChat(ChatRequest.FromUser(Story)).Count, completion), (usage.PromptTokens, usage.CompletionTokens));
    }

    [Fact]
    public async Task AStopText_EndsItsAnswerAlone()
    {
        var pieces = new List<GenerationChunk>();
        await foreach (GenerationChunk piece in _engine.ChatAsync(Story, new SamplingOptions { Temperature = 1.5, Seed = 8, N = 4, MaxTokens = 40, IgnoreEos = true, Stop = ["e"] }))
            pieces.Add(piece);
        for (int i = 0; i < 4; i++)
        {
            Assert.Single(pieces, p => p.Index == i && p.FinishReason is not null);
            Assert.DoesNotContain('e', string.Concat(pieces.Where(p => p.Index == i).Select(p => p.Text)));
        }
    }

    [Fact]
    public async Task BestOf_GivesTheLikeliest_WithoutLogprobsNobodyAskedFor()
    {
        var options = new SamplingOptions { Temperature = 1.5, Seed = 8, MaxTokens = 12 };
        var scores = new List<(double Score, string Text)>();
        for (int i = 0; i < 4; i++)
        {
            (string text, _, List<GeneratedToken> tokens) = await EngineFixture.CollectAsync(_engine.ChatAsync(Story, options with { Seed = 8 + (ulong)i, Logprobs = 0 }));
            scores.Add((tokens.Average(t => t.Logprobs!.Logprob), text));
        }

        var best = new List<GenerationChunk>();
        await foreach (GenerationChunk piece in _engine.ChatAsync(Story, options with { N = 2, BestOf = 4 }))
            best.Add(piece);

        Assert.Equal(scores.OrderByDescending(s => s.Score).Take(2).Select(s => s.Text), best.Select(b => b.Text));
        Assert.Equal([0, 1], best.Select(b => b.Index));
        Assert.All(best.SelectMany(b => b.Tokens), t => Assert.Null(t.Logprobs));
        Assert.Contains("65 answers at once are more than the 64", Assert.Throws<ArgumentException>(() => _engine.ChatAsync(Story, new SamplingOptions { BestOf = 65 })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task PromptLogprobs_ComeWithTheFirstPiece()
    {
        IReadOnlyList<int> prompt = _engine.EncodeChat(ChatRequest.FromUser(Story));
        var pieces = new List<GenerationChunk>();
        await foreach (GenerationChunk piece in _engine.GenerateAsync(prompt, new SamplingOptions { Temperature = 0, MaxTokens = 3, PromptLogprobs = 1 }))
            pieces.Add(piece);
        IReadOnlyList<TokenLogprobs?> logprobs = pieces[0].PromptLogprobs!;
        Assert.All(pieces[1..], p => Assert.Null(p.PromptLogprobs));
        Assert.Equal(prompt.Count, logprobs.Count);

        // Those of a shorter prompt whose first token is the one in question.
        for (int i = 1; i < prompt.Count; i += 3)
        {
            (_, _, List<GeneratedToken> tokens) = await EngineFixture.CollectAsync(_engine.GenerateAsync([.. prompt.Take(i)], new SamplingOptions { Temperature = 0, MaxTokens = 1, Logprobs = 1 }));
            Assert.Equal(tokens[0].Logprobs!.Top, logprobs[i]!.Top);
        }
    }

    [Fact]
    public async Task Drain_FinishesWhatRuns_AndTakesNoMore()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync(Repository.DemoModel, new EngineOptions { Threads = 2, MaxUnreadTokens = 4 });
        using var stop = new CancellationTokenSource();
        var goOn = new TaskCompletionSource();
        Task unread = Task.Run(async () =>
        {
            // Its reader waits, so that it can't end before it is cancelled.
            await foreach (GenerationChunk _ in engine.ChatAsync(Story, new SamplingOptions { IgnoreEos = true, Temperature = 0 }, cancellation: stop.Token))
                await goOn.Task;
        });
        await EventuallyAsync(() => engine.Statistics.Running == 1);
        Assert.Equal(EngineState.Ready, engine.Health.State);

        Assert.False(await engine.DrainAsync(TimeSpan.FromMilliseconds(1)));
        Assert.Equal(EngineState.Draining, engine.Health.State);
        await Assert.ThrowsAsync<EngineUnavailableException>(() => EngineFixture.CollectAsync(engine.ChatAsync("Hello")));
        await stop.CancelAsync();
        Assert.True(await engine.DrainAsync(TimeSpan.FromMinutes(1)));
        goOn.SetResult();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => unread);
        await engine.DisposeAsync();
        Assert.Equal(EngineState.Stopped, engine.Health.State);
    }

    [Fact]
    public async Task ATimeout_EndsARequest()
    {
        var options = new SamplingOptions { IgnoreEos = true, Temperature = 0 };
        await Assert.ThrowsAsync<RequestTimeoutException>(() => EngineFixture.CollectAsync(_engine.ChatAsync(Story, options, new RequestOptions { Timeout = TimeSpan.FromMilliseconds(1) })));
        Assert.Contains("timeout:", Assert.Throws<ArgumentException>(() => _engine.ChatAsync(Story, null, new RequestOptions { Timeout = TimeSpan.Zero })).Message, StringComparison.Ordinal);
        Assert.Contains("cache_salt:", Assert.Throws<ArgumentException>(() => _engine.ChatAsync(Story, null, new RequestOptions { CacheSalt = "" })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AStepThatTakesTooLong_IsReportedWhileItRuns_AndAFailureOfTheLoop_ToAll()
    {
        var clock = new FakeClock();
        EngineOptions options = new() { Clock = clock, StuckAfter = TimeSpan.FromSeconds(30) };
        var network = new FakeNetwork(50);
        using var metrics = new EngineMetrics(() => default, () => true, 100, 0, clock);
        var pool = new BlockPool(16, 4);
        using var inStep = new ManualResetEventSlim();
        using var goOn = new ManualResetEventSlim();
        network.BeforeStep = _ =>
        {
            inStep.Set();
            goOn.Wait();
        };
        using var loop = new EngineLoop(new EngineCore(network, 50, pool, options, new StepMeter(clock, 1, 1), metrics), options);
        loop.Submit(Request(3));
        inStep.Wait();
        Assert.Equal(EngineState.Ready, loop.Health.State);
        clock.Advance(TimeSpan.FromSeconds(31));
        Assert.Equal((EngineState.Stuck, TimeSpan.FromSeconds(31)), (loop.Health.State, loop.Health.StepTime));
        goOn.Set();
        SpinWait.SpinUntil(() => loop.Health.IsReady, TimeSpan.FromSeconds(60));
        Assert.Equal(EngineState.Ready, loop.Health.State);

        network.BeforeStep = _ => throw new InvalidOperationException("lost");
        for (int i = 0; i < 3; i++)
        {
            Assert.True(loop.Health.IsReady);
            loop.Submit(Request(3));
            SpinWait.SpinUntil(() => loop.Statistics is { Running: 0, Waiting: 0 }, TimeSpan.FromSeconds(60));
        }

        SpinWait.SpinUntil(() => !loop.Health.IsReady, TimeSpan.FromSeconds(60));
        Assert.Equal(EngineState.Failing, loop.Health.State);
        network.BeforeStep = null;
        loop.Submit(Request(3));
        SpinWait.SpinUntil(() => loop.Health.IsReady, TimeSpan.FromSeconds(60));
        Assert.Equal(EngineState.Ready, loop.Health.State);

        // A request that the engine would have refused: the core throws, and the loop with it.
        loop.Submit(Request(1000));
        SpinWait.SpinUntil(() => loop.Health.State == EngineState.Failed, TimeSpan.FromSeconds(60));
        Assert.Contains("needs 251 blocks", loop.Health.Error!.Message, StringComparison.Ordinal);
        Assert.Contains("has failed", Assert.Throws<EngineUnavailableException>(() => loop.Submit(Request(3))).Message, StringComparison.Ordinal);

        Request Request(int length) => new(new int[length], new SamplingOptions { MaxTokens = 4 }.Resolve(GenerationDefaults.None, 50), new RequestOptions(), 2000, new HashSet<int>(), pool);
    }

    [Fact]
    public async Task Metrics_CountWhatHappens_WithVllmsNamesAndBuckets_AndARequestIsASpan()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync(Repository.DemoModel, new EngineOptions { Threads = 2, Speculation = new() });
        var counts = new Dictionary<string, double>();
        var buckets = new Dictionary<string, int>();
        using var meters = new MeterListener();
        meters.InstrumentPublished = (instrument, listener) =>
        {
            if (!ReferenceEquals(instrument.Meter, engine.Meter))
                return;
            listener.EnableMeasurementEvents(instrument);
            if (instrument is Histogram<double> histogram)
                buckets[instrument.Name] = histogram.Advice!.HistogramBucketBoundaries!.Count;
        };
        meters.SetMeasurementEventCallback<double>((i, value, tags, _) => Count(i, value, tags));
        meters.SetMeasurementEventCallback<long>((i, value, tags, _) => Count(i, value, tags));
        meters.SetMeasurementEventCallback<int>((i, value, tags, _) => Count(i, value, tags));
        meters.Start();
        var spans = new List<Activity>();
        using var listener = new ActivityListener
        {
            ShouldListenTo = source => source.Name == engine.Meter.Name,
            Sample = (ref _) => ActivitySamplingResult.AllData,
            ActivityStopped = span =>
            {
                if (span.GetTagItem("gen_ai.request.id") as string == "mine")
                    spans.Add(span);
            },
        };
        ActivitySource.AddActivityListener(listener);

        (_, GenerationChunk last, _) = await EngineFixture.CollectAsync(engine.ChatAsync(Story, new SamplingOptions { Temperature = 0, MaxTokens = 60, IgnoreEos = true }, new RequestOptions { Id = "mine" }));
        await EventuallyAsync(() => engine.Statistics.Running == 0);
        meters.RecordObservableInstruments();

        Assert.Equal(1, counts["vllm.request_success length"]);
        Assert.Equal(last.Usage.PromptTokens, counts["vllm.prompt_tokens"]);
        Assert.Equal(60, counts["vllm.generation_tokens"]);
        Assert.Equal(60, counts["vllm.request_generation_tokens"]);
        Assert.Equal(last.Usage.PromptTokens, counts["vllm.prefix_cache_queries"]);
        Assert.Equal(0, counts["vllm.kv_cache_usage_perc"]);
        Assert.Equal(1, counts["qwen.engine_ready"]);
        Assert.Equal(counts["vllm.spec_decode_num_accepted_tokens"], Enumerable.Range(0, 4).Sum(i => counts[$"vllm.spec_decode_num_accepted_tokens_per_pos {i}"]));
        Assert.Equal(engine.Statistics.Decode.Steps, counts["qwen.steps decode"]);
        Assert.True(counts["qwen.step_read_bytes decode"] > 0 && counts["qwen.step_time_seconds decode"] > 0 && counts["vllm.time_to_first_token_seconds"] > 0);
        Assert.Equal((22, 19, 21), (buckets["vllm.time_to_first_token_seconds"], buckets["vllm.inter_token_latency_seconds"], buckets["vllm.e2e_request_latency_seconds"]));
        Activity span = Assert.Single(spans);
        Assert.Equal(60, span.GetTagItem("gen_ai.usage.completion_tokens"));

        void Count(Instrument instrument, double value, ReadOnlySpan<KeyValuePair<string, object?>> tags)
        {
            string name = tags.IsEmpty ? instrument.Name : $"{instrument.Name} {tags[0].Value}";
            lock (counts)
                counts[name] = instrument is ObservableInstrument<double> or ObservableInstrument<long> or ObservableInstrument<int> ? value : counts.GetValueOrDefault(name) + value;
        }
    }

    private static async Task EventuallyAsync(Func<bool> condition)
    {
        for (int i = 0; !condition(); i++)
        {
            Assert.True(i < 4000, "it never came true");
            await Task.Delay(5);
        }
    }
}
