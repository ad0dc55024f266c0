using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Runtime.InteropServices;

namespace Qwen.Runtime.Engine;

/// <summary>
/// What an engine measures, as instruments of System.Diagnostics.Metrics with vLLM's names and buckets: <c>vllm.num_requests_running</c>
/// is <c>vllm:num_requests_running</c> in Prometheus's text (OpenTelemetry allows no colon), and counters get <c>_total</c> there.
/// What vLLM has no name for begins with <c>qwen.</c> Recording allocates nothing.
/// </summary>
internal sealed class EngineMetrics : IDisposable
{
    /// <summary>The name of meters and of the activity source.</summary>
    public const string Name = "Qwen.Runtime";

    /// <summary>Outcomes of requests, as vLLM names them.</summary>
    public const string Stopped = "stop", LengthReached = "length", Aborted = "abort", Failed = "error";

    /// <summary>Traces: one span per request.</summary>
    public static readonly ActivitySource Source = new(Name);

    private static readonly double[] FirstTokenBuckets = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560];
    private static readonly double[] NextTokenBuckets = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80];
    private static readonly double[] RequestBuckets = [0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680];
    private static readonly int[] StepBuckets = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

    private readonly TimeProvider _clock;
    private readonly Histogram<double> _firstToken, _nextToken, _whole, _queued, _inference, _prefill, _decode;
    private readonly Histogram<int> _promptTokens, _generatedTokens, _maxTokens, _answers;
    private readonly Counter<long> _outcomes;
    private readonly long[] _acceptedAt; // by position of the guess

    /// <summary>The instruments of one engine.</summary>
    /// <param name="statistics">What it is doing.</param>
    /// <param name="isReady">Whether it answers.</param>
    /// <param name="maxModelLength">Longest sequence, for buckets.</param>
    /// <param name="draftTokens">Most tokens that are guessed at once; 0 without speculation.</param>
    /// <param name="clock">Of all times.</param>
    public EngineMetrics(Func<EngineStatistics> statistics, Func<bool> isReady, int maxModelLength, int draftTokens, TimeProvider clock)
    {
        _clock = clock;
        _acceptedAt = new long[draftTokens];
        Meter = new Meter(Name);
        Gauge("vllm.num_requests_running", "Sequences that hold a part of the KV cache.", s => s.Running);
        Gauge("vllm.num_requests_waiting", "Requests that wait for a place.", s => s.Waiting);
        Meter.CreateObservableGauge("vllm.kv_cache_usage_perc", () => 1 - ((double)statistics().FreeBlocks / statistics().TotalBlocks), "1", "The share of the KV cache's blocks that are held; 1 is all.");
        Gauge("qwen.kv_cache_cached_blocks", "Blocks of the KV cache that can be found by their tokens.", s => s.CachedBlocks);
        Meter.CreateObservableGauge("qwen.engine_ready", () => isReady() ? 1 : 0, null, "1 while the engine answers, 0 while it is drained, stuck or has failed.");
        Counter("vllm.prompt_tokens", "Tokens of prompts that were read.", s => s.PromptTokens);
        Counter("vllm.generation_tokens", "Tokens sampled.", s => s.GeneratedTokens);
        Counter("vllm.num_preemptions", "How often a sequence gave up its blocks to a more urgent one.", s => s.Preemptions);
        Counter("vllm.prefix_cache_queries", "Tokens of prompts looked for in the prefix cache.", s => s.PrefixQueries);
        Counter("vllm.prefix_cache_hits", "Tokens of those that were there.", s => s.PrefixHits);
        Steps("qwen.steps", null, "Steps of the network, by kind.", s => s.Steps);
        Steps("qwen.step_time_seconds", "s", "What steps took, by kind.", s => s.Time.TotalSeconds);
        Steps("qwen.step_wait_seconds", "s", "How much of that the host waited for a device, by kind.", s => s.Waited.TotalSeconds);
        Steps("qwen.step_read_bytes", "By", "Weights, keys and values that steps had to read, by kind: over their time, the bandwidth they reached.", s => s.Bytes);
        if (draftTokens > 0)
        {
            Counter("vllm.spec_decode_num_drafts", "How often tokens were guessed for a sequence.", s => s.Speculation.Drafts);
            Counter("vllm.spec_decode_num_draft_tokens", "Tokens guessed and checked.", s => s.Speculation.DraftTokens);
            Counter("vllm.spec_decode_num_accepted_tokens", "Tokens guessed right.", s => s.Speculation.AcceptedTokens);
            Meter.CreateObservableCounter("vllm.spec_decode_num_accepted_tokens_per_pos", () => _acceptedAt.Select((n, i) => new Measurement<long>(Interlocked.Read(ref _acceptedAt[i]), new KeyValuePair<string, object?>("position", i))), null, "Tokens guessed right, by their place in the guess.");
        }

        int[] lengths = OneTwoFive(maxModelLength);
        _firstToken = Histogram("vllm.time_to_first_token_seconds", "s", "From submission to the first token.", FirstTokenBuckets);
        _nextToken = Histogram("vllm.inter_token_latency_seconds", "s", "From one token of an answer to the next.", NextTokenBuckets);
        _whole = Histogram("vllm.e2e_request_latency_seconds", "s", "From submission to the last token.", RequestBuckets);
        _queued = Histogram("vllm.request_queue_time_seconds", "s", "From submission to the first step.", RequestBuckets);
        _inference = Histogram("vllm.request_inference_time_seconds", "s", "From the first step to the last token.", RequestBuckets);
        _prefill = Histogram("vllm.request_prefill_time_seconds", "s", "From the first step to the first token.", RequestBuckets);
        _decode = Histogram("vllm.request_decode_time_seconds", "s", "From the first token to the last.", RequestBuckets);
        _promptTokens = Histogram("vllm.request_prompt_tokens", null, "Tokens of a prompt.", lengths);
        _generatedTokens = Histogram("vllm.request_generation_tokens", null, "Tokens of a request's answers.", lengths);
        _maxTokens = Histogram("vllm.request_params_max_tokens", null, "max_tokens of requests that have it.", lengths);
        _answers = Histogram("vllm.request_params_n", null, "n of requests.", [1, 2, 5, 10, 20]);
        StepTokens = Histogram("vllm.iteration_tokens_total", null, "Tokens of a step.", StepBuckets);
        _outcomes = Meter.CreateCounter<long>("vllm.request_success", null, "Requests that ended, by finished_reason.");

        void Gauge(string name, string text, Func<EngineStatistics, int> value) => Meter.CreateObservableGauge(name, () => value(statistics()), null, text);

        void Counter(string name, string text, Func<EngineStatistics, long> value) => Meter.CreateObservableCounter(name, () => value(statistics()), null, text);

        void Steps<T>(string name, string? unit, string text, Func<StepStatistics, T> value)
            where T : struct =>
            Meter.CreateObservableCounter(name, () => Kinds(statistics()).Select(k => new Measurement<T>(value(k.Steps), new KeyValuePair<string, object?>("kind", k.Kind))), unit, text);
    }

    /// <summary>The engine's own meter.</summary>
    public Meter Meter { get; }

    /// <summary>Tokens of each step.</summary>
    public Histogram<int> StepTokens { get; }

    /// <summary>A request got its first token.</summary>
    public void FirstToken(Request request, long now) => _firstToken.Record(Seconds(request.SubmittedAt, now));

    /// <summary>An answer got a further token, after the one before.</summary>
    public void NextToken(long last, long now) => _nextToken.Record(Seconds(last, now));

    /// <summary>So many tokens of a guess were right.</summary>
    public void Accepted(int tokens)
    {
        for (int i = 0; i < tokens; i++)
            Interlocked.Increment(ref _acceptedAt[i]);
    }

    /// <summary>A request has ended.</summary>
    public void Left(Request request, string outcome, long now)
    {
        if (request.WhenRead is not null)
            return; // no request of a client's
        _outcomes.Add(1, new KeyValuePair<string, object?>("finished_reason", outcome));
        _whole.Record(Seconds(request.SubmittedAt, now));
        _queued.Record(Seconds(request.SubmittedAt, request.StartedAt ?? now));
        _promptTokens.Record(request.PromptLength);
        _generatedTokens.Record(request.Generated);
        _answers.Record(request.Sampling.N);
        if (request.Sampling.MaxTokens < int.MaxValue)
            _maxTokens.Record(request.Sampling.MaxTokens);
        if (request.StartedAt is not { } started)
            return;
        _inference.Record(Seconds(started, now));
        _prefill.Record(Seconds(started, request.FirstTokenAt ?? now));
        if (request.FirstTokenAt is { } first)
            _decode.Record(Seconds(first, now));
    }

    /// <summary>Starts the span of a request; null if nobody traces. It isn't the current one: what the reader does between pieces is no part of it.</summary>
    public static Activity? StartSpan(Request request, string model)
    {
        Activity? current = Activity.Current, span = Source.StartActivity("llm_request", ActivityKind.Server);
        Activity.Current = current;
        span?.SetTag("gen_ai.request.model", model);
        span?.SetTag("gen_ai.request.id", request.Options.Id);
        span?.SetTag("gen_ai.request.temperature", request.Sampling.Temperature);
        span?.SetTag("gen_ai.request.top_p", request.Sampling.TopP);
        span?.SetTag("gen_ai.request.max_tokens", request.Sampling.MaxTokens);
        span?.SetTag("gen_ai.request.n", request.Sampling.N);
        return span;
    }

    /// <summary>Ends the span of a request.</summary>
    public void EndSpan(Activity span, Request request, Exception? error)
    {
        span.SetTag("gen_ai.usage.prompt_tokens", request.PromptLength);
        span.SetTag("gen_ai.usage.completion_tokens", request.Generated);
        span.SetTag("gen_ai.usage.cached_tokens", request.CachedTokens);
        long now = _clock.GetTimestamp();
        span.SetTag("gen_ai.latency.e2e", Seconds(request.SubmittedAt, now));
        if (request.StartedAt is { } started)
            span.SetTag("gen_ai.latency.time_in_queue", Seconds(request.SubmittedAt, started));
        if (request.FirstTokenAt is { } first)
            span.SetTag("gen_ai.latency.time_to_first_token", Seconds(request.SubmittedAt, first));
        if (error is not null)
            span.SetStatus(ActivityStatusCode.Error, error.Message);
        span.Dispose();
    }

    /// <inheritdoc/>
    public void Dispose() => Meter.Dispose();

    private double Seconds(long? from, long to) => from is { } start ? _clock.GetElapsedTime(start, to).TotalSeconds : 0;

    private Histogram<T> Histogram<T>(string name, string? unit, string text, T[] buckets)
        where T : struct =>
        Meter.CreateHistogram(name, unit, text, tags: null, new InstrumentAdvice<T> { HistogramBucketBoundaries = ImmutableCollectionsMarshal.AsImmutableArray(buckets) });

    private static IEnumerable<(string Kind, StepStatistics Steps)> Kinds(EngineStatistics statistics) =>
        [("prefill", statistics.Prefill), ("decode", statistics.Decode), ("mixed", statistics.Mixed)];

    /// <summary>1, 2, 5, 10, 20, ... up to the most.</summary>
    private static int[] OneTwoFive(int most)
    {
        var buckets = new List<int>();
        for (long power = 1; power <= most; power *= 10)
            buckets.AddRange(new[] { power, 2 * power, 5 * power }.Where(b => b <= most).Select(b => (int)b));
        return [.. buckets];
    }
}
