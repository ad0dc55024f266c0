namespace Qwen.LoadTest;

/// <summary>The time to the first token of a prompt that begins like an earlier one, beside that of the first.</summary>
internal static class PrefixRun
{
    private const int OwnTokens = 16, Repeats = 5;

    /// <summary>Runs.</summary>
    public static async Task RunAsync(Client client, int sharedTokens, Report report)
    {
        var random = new Random(1);
        var first = new List<double>();
        var second = new List<double>();
        for (int i = 0; i < Repeats; i++)
        {
            int[] shared = Workload.Tokens(random, sharedTokens);
            foreach (List<double> times in (List<double>[])[first, second])
                times.Add((await client.SendAsync(Workload.Body([.. shared, .. Workload.Tokens(random, OwnTokens)], maxTokens: 1).ToJsonString()).ConfigureAwait(false)).FirstToken);
        }

        report.AddTimes("first_request", first);
        report.AddTimes("second_request", second);
        report.Add("second_over_first", Math.Round(Report.Percentile([.. second.Order()], 50) / Report.Percentile([.. first.Order()], 50), 3));
    }
}
