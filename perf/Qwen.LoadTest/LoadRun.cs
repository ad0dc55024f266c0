using System.Collections.Concurrent;
using System.Diagnostics;

namespace Qwen.LoadTest;

/// <summary>How a run loads the server.</summary>
internal sealed record LoadOptions
{
    /// <summary>Closed loop: so many clients, each of which sends its next request when the last has ended.</summary>
    public int Clients { get; init; } = 8;

    /// <summary>Open loop: requests a second, at times of a Poisson process, whatever the server does; null for a closed loop.</summary>
    public double? Rate { get; init; }

    public TimeSpan Duration { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Shares of requests that are cancelled, disconnected, or bad.</summary>
    public double Cancel { get; init; }

    /// <inheritdoc cref="Cancel"/>
    public double Disconnect { get; init; }

    /// <inheritdoc cref="Cancel"/>
    public double Bad { get; init; }

    /// <summary>Answers each distinct request alone first, and compares every completed answer with that.</summary>
    public bool Verify { get; init; }

    public int Seed { get; init; } = 1;
}

/// <summary>Sends requests for a time, open-loop or closed-loop, and counts what comes of them.</summary>
internal sealed class LoadRun(Client client, Workload work, LoadOptions options)
{
    private const int MostCancelMs = 300, MostDisconnectTokens = 20, MostErrorsShown = 5;
    private static readonly TimeSpan OverloadPause = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan SampleInterval = TimeSpan.FromSeconds(1);

    private readonly Lock _lock = new();
    private readonly Dictionary<Outcome, int> _outcomes = [];
    private readonly List<double> _firstTokens = [], _gaps = [], _totals = [];
    private readonly ConcurrentBag<string> _errors = [];
    private long _tokens, _promptTokens, _cachedTokens;
    private int _different;
    private List<int>[]? _alone;

    /// <summary>Runs. False if anything went wrong that was not provoked.</summary>
    public async Task<bool> RunAsync(Report report, TextWriter notes)
    {
        if (options.Verify)
            _alone = await AnswerAloneAsync(notes).ConfigureAwait(false);
        IReadOnlyDictionary<string, double> before = await client.MetricsAsync().ConfigureAwait(false);
        using var end = new CancellationTokenSource();
        Task<List<double>> memory = SampleMemoryAsync(end.Token);
        long start = Stopwatch.GetTimestamp();
        await (options.Rate is { } rate ? OpenLoopAsync(rate, start) : ClosedLoopAsync(start)).ConfigureAwait(false);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        await end.CancelAsync().ConfigureAwait(false);
        Summarize(report, seconds, await memory.ConfigureAwait(false));
        bool isIdle = await CheckIdleAsync(report, before).ConfigureAwait(false);
        foreach (string error in _errors.Take(MostErrorsShown))
            await notes.WriteLineAsync($"error: {error}").ConfigureAwait(false);
        return isIdle && _different == 0 && _errors.IsEmpty;
    }

    private Task ClosedLoopAsync(long start) => Task.WhenAll(Enumerable.Range(0, options.Clients).Select(i => Task.Run(async () =>
    {
        var random = new Random(HashCode.Combine(options.Seed, i));
        while (Stopwatch.GetElapsedTime(start) < options.Duration)
            await SendOneAsync(random).ConfigureAwait(false);
    })));

    private async Task OpenLoopAsync(double rate, long start)
    {
        var random = new Random(options.Seed);
        var running = new List<Task>();
        for (double next = Gap(); next < options.Duration.TotalSeconds; next += Gap())
        {
            double wait = next - Stopwatch.GetElapsedTime(start).TotalSeconds;
            if (wait > 0)
                await Task.Delay(TimeSpan.FromSeconds(wait)).ConfigureAwait(false);
            var own = new Random(random.Next());
            running.Add(Task.Run(() => SendOneAsync(own)));
        }

        await Task.WhenAll(running).ConfigureAwait(false);

        double Gap() => -Math.Log(1 - random.NextDouble()) / rate; // between events of a Poisson process
    }

    private async Task SendOneAsync(Random random)
    {
        double draw = random.NextDouble();
        Conduct conduct = draw < options.Cancel ? Conduct.Cancel
            : draw < options.Cancel + options.Disconnect ? Conduct.Disconnect
            : draw < options.Cancel + options.Disconnect + options.Bad ? Conduct.Bad
            : Conduct.Complete;
        int index = random.Next(work.Count);
        int patience = conduct == Conduct.Cancel ? random.Next(1, MostCancelMs) : random.Next(1, MostDisconnectTokens);
        string body = conduct == Conduct.Bad ? Workload.BadBody(random) : work.Body(index);
        Answer answer = await client.SendAsync(body, conduct, patience).ConfigureAwait(false);
        Note(index, answer);
        if (answer.Outcome == Outcome.Overloaded && options.Rate is null)
            await Task.Delay(OverloadPause).ConfigureAwait(false); // shorter than Retry-After asks for: the queue is to stay full
    }

    private void Note(int index, Answer answer)
    {
        lock (_lock)
        {
            _outcomes[answer.Outcome] = _outcomes.GetValueOrDefault(answer.Outcome) + 1;
            if (answer.Outcome == Outcome.Failed)
                _errors.Add(answer.Error!);
            if (answer.Outcome != Outcome.Completed)
                return;
            _tokens += answer.Tokens.Count;
            _promptTokens += answer.PromptTokens;
            _cachedTokens += answer.CachedTokens;
            _firstTokens.Add(answer.FirstToken);
            _gaps.AddRange(answer.Gaps);
            _totals.Add(answer.Total);
            if (_alone is not null && !answer.Tokens.SequenceEqual(_alone[index]))
                _different++;
        }
    }

    private async Task<List<int>[]> AnswerAloneAsync(TextWriter notes)
    {
        await notes.WriteLineAsync($"answering {work.Count} requests alone").ConfigureAwait(false);
        var alone = new List<int>[work.Count];
        for (int i = 0; i < alone.Length; i++)
        {
            Answer answer = await client.SendAsync(work.Body(i)).ConfigureAwait(false);
            alone[i] = answer.Outcome == Outcome.Completed ? answer.Tokens : throw new InvalidOperationException($"A request alone failed: {answer.Outcome} {answer.Error}");
        }

        return alone;
    }

    private async Task<List<double>> SampleMemoryAsync(CancellationToken end)
    {
        var samples = new List<double>();
        try
        {
            using var timer = new PeriodicTimer(SampleInterval);
            while (await timer.WaitForNextTickAsync(end).ConfigureAwait(false))
                samples.Add((await client.MetricsAsync().ConfigureAwait(false)).GetValueOrDefault("process_resident_memory_bytes"));
        }
        catch (OperationCanceledException)
        {
            // the run is over
        }

        return samples;
    }

    private void Summarize(Report report, double seconds, List<double> memory)
    {
        report.Add("seconds", Math.Round(seconds, 1));
        foreach (Outcome outcome in Enum.GetValues<Outcome>())
            report.Add(outcome.ToString().ToLowerInvariant(), _outcomes.GetValueOrDefault(outcome));
        report.Add("requests_per_s", Math.Round(_totals.Count / seconds, 2));
        report.Add("completed_tokens_per_s", Math.Round(_tokens / seconds, 1));
        report.Add("cached_share_of_prompts", _promptTokens == 0 ? 0 : Math.Round((double)_cachedTokens / _promptTokens, 3));
        report.AddTimes("first_token", _firstTokens);
        report.AddTimes("inter_token", _gaps);
        report.AddTimes("request", _totals);
        if (_alone is not null)
            report.Add("different_from_alone", _different);
        if (memory.Count < 10)
            return;
        // Medians of the second fifth, after the warm-up, and of the last.
        double warm = Median(memory[(memory.Count / 5)..(2 * memory.Count / 5)]), last = Median(memory[(4 * memory.Count / 5)..]);
        report.Add("rss_warm_mib", Math.Round(warm / (1 << 20), 1));
        report.Add("rss_end_mib", Math.Round(last / (1 << 20), 1));
        report.Add("rss_growth_percent", Math.Round(100 * (last / warm - 1), 2));
    }

    /// <summary>When all requests have ended, nothing may be held: neither sequences nor blocks.</summary>
    private async Task<bool> CheckIdleAsync(Report report, IReadOnlyDictionary<string, double> before)
    {
        const int Tries = 100;
        IReadOnlyDictionary<string, double> metrics = await client.MetricsAsync().ConfigureAwait(false);
        for (int i = 0; i < Tries && !IsIdle(metrics); i++)
        {
            await Task.Delay(100).ConfigureAwait(false);
            metrics = await client.MetricsAsync().ConfigureAwait(false);
        }

        report.Add("running_at_end", metrics["vllm:num_requests_running"]);
        report.Add("kv_cache_used_at_end", metrics["vllm:kv_cache_usage_perc"]);
        report.Add("preemptions", metrics["vllm:num_preemptions_total"]);
        // The client's mean and the engine's own, which differ by what lies between: connection, HTTP, JSON. Comparable where all requests completed.
        double engine = 1000 * Since("vllm:time_to_first_token_seconds_sum") / Math.Max(Since("vllm:time_to_first_token_seconds_count"), 1);
        report.Add("engine_first_token_ms_mean", Math.Round(engine, 3));
        if (_firstTokens.Count > 0)
            report.Add("client_first_token_ms_mean", Math.Round(1000 * _firstTokens.Average(), 3));
        return IsIdle(metrics);

        double Since(string name) => metrics[name] - before[name];
    }

    private static bool IsIdle(IReadOnlyDictionary<string, double> metrics) =>
        metrics["vllm:num_requests_running"] + metrics["vllm:num_requests_waiting"] + metrics["vllm:kv_cache_usage_perc"] == 0;

    private static double Median(List<double> values) => Report.Percentile([.. values.Order()], 50);
}
