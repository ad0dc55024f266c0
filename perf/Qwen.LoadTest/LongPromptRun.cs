using System.Diagnostics;

namespace Qwen.LoadTest;

/// <summary>A long prompt arrives while streams decode: how much longer their tokens take to come meanwhile, beside the time of one chunk of the prompt alone.</summary>
internal static class LongPromptRun
{
    private const int ShortPrompt = 32, TokensBefore = 16;

    /// <summary>Runs.</summary>
    /// <param name="client">The server.</param>
    /// <param name="streams">How many decode.</param>
    /// <param name="promptTokens">Of the long prompt.</param>
    /// <param name="chunkTokens">The server's --max-num-batched-tokens.</param>
    /// <param name="report">Gets the figures.</param>
    public static async Task RunAsync(Client client, int streams, int promptTokens, int chunkTokens, Report report)
    {
        var random = new Random(1);
        Answer alone = await PromptAsync().ConfigureAwait(false);
        double chunk = alone.FirstToken / Math.Ceiling((double)promptTokens / chunkTokens);

        using var stop = new CancellationTokenSource();
        var started = new CountdownEvent(streams);
        var answers = new Answer[streams];
        Task[] decoding = [.. Enumerable.Range(0, streams).Select(i =>
        {
            string body = Workload.Body(Workload.Tokens(random, ShortPrompt), maxTokens: 4000).ToJsonString();
            return client.SendAsync(body, Conduct.Disconnect, int.MaxValue, answer =>
            {
                answers[i] = answer;
                if (answer.Tokens.Count == TokensBefore)
                    started.Signal();
                stop.Token.ThrowIfCancellationRequested();
            });
        })];
        await Task.Run(started.Wait).ConfigureAwait(false);
        await Task.Delay(1000).ConfigureAwait(false);
        long from = Stopwatch.GetTimestamp();
        Answer among = await PromptAsync().ConfigureAwait(false);
        long to = Stopwatch.GetTimestamp();
        await stop.CancelAsync().ConfigureAwait(false);
        await Task.WhenAll(decoding).ContinueWith(_ => { }, TaskScheduler.Default).ConfigureAwait(false);

        report.Add("long_prompt_alone_ms", Math.Round(1000 * alone.FirstToken, 1));
        report.Add("chunk_alone_ms", Math.Round(1000 * chunk, 1));
        report.Add("long_prompt_among_streams_ms", Math.Round(1000 * among.FirstToken, 1));
        report.AddTimes("inter_token_before", answers.SelectMany(a => Gaps(a, long.MinValue, from)));
        double[] meanwhile = [.. answers.SelectMany(a => Gaps(a, from, to)).Order()];
        report.AddTimes("inter_token_meanwhile", meanwhile);
        report.Add("p99_over_chunk", Math.Round(Report.Percentile(meanwhile, 99) / chunk, 2));

        Task<Answer> PromptAsync() => client.SendAsync(Workload.Body(Workload.Tokens(random, promptTokens), maxTokens: 1).ToJsonString());
    }

    private static IEnumerable<double> Gaps(Answer answer, long from, long to)
    {
        for (int i = 1; i < answer.TokenTimes.Count; i++)
        {
            if (answer.TokenTimes[i] >= from && answer.TokenTimes[i] <= to)
                yield return Stopwatch.GetElapsedTime(answer.TokenTimes[i - 1], answer.TokenTimes[i]).TotalSeconds;
        }
    }
}
