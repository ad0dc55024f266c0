using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Sampling;

public sealed class StopMatcherTests
{
    [Fact]
    public void Append_HoldsBackWhatMayBeAStop_AndReleasesWhatIsNot()
    {
        var matcher = new StopMatcher(["\n\nUser:"], includeStop: false);
        Assert.Equal("Hello", matcher.Append("Hello\n"));
        Assert.Equal("", matcher.Append("\nUs"));
        Assert.Equal("\n\nUsually", matcher.Append("ually"));
        Assert.Equal(" so", matcher.Append(" so\n\nUser: x"));
        Assert.True(matcher.IsStopped);
        Assert.Equal("", matcher.Append("more") + matcher.Flush());
    }

    [Fact]
    public void TheEarliestStopWins_AndCanBeKept()
    {
        Assert.Equal("ab", new StopMatcher(["cd", "bc"], includeStop: false).Append("abcd") + "b");
        Assert.Equal("abc", new StopMatcher(["cd", "bc"], includeStop: true).Append("abcd"));
    }

    /// <summary>However the text is cut, the output is the text up to the first stop.</summary>
    [Fact]
    public void AnyCutting_GivesTheSameOutput()
    {
        for (int seed = 0; seed < 20_000; seed++)
        {
            var random = new Random(seed);
            string text = Letters(random, random.Next(0, 30));
            string[] stops = [.. Enumerable.Range(0, random.Next(1, 4)).Select(_ => Letters(random, random.Next(1, 5)))];
            int first = stops.Select(s => text.IndexOf(s, StringComparison.Ordinal)).Where(i => i >= 0).DefaultIfEmpty(text.Length).Min();
            var matcher = new StopMatcher(stops, includeStop: false);
            string output = "";
            for (int at = 0; at < text.Length;)
            {
                int length = Math.Min(random.Next(1, 5), text.Length - at);
                output += matcher.Append(text.Substring(at, length));
                at += length;
            }

            output += matcher.Flush();
            // A stop that began earlier but ended later than another may not have been complete when the other was found.
            int seen = stops.Select(s => text.IndexOf(s, StringComparison.Ordinal)).Where(i => i >= 0).DefaultIfEmpty(text.Length).Max();
            Assert.True(text.StartsWith(output, StringComparison.Ordinal) && output.Length >= first && output.Length <= seen, $"seed {seed}: '{text}' with {string.Join('|', stops)} gave '{output}'");
            if (stops.Length == 1)
                Assert.Equal(text[..first], output);
        }
    }

    private static string Letters(Random random, int length) => string.Concat(Enumerable.Range(0, length).Select(_ => "ab"[random.Next(2)]));
}
