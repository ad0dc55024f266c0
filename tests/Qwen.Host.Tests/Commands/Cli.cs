using System.Text.Json;

namespace Qwen.Host.Tests.Commands;

/// <summary>The program, run in this process with its streams captured.</summary>
internal sealed record Cli(int ExitCode, string Output, string Error)
{
    /// <summary>The lines of its output as JSON.</summary>
    public JsonElement[] Json => [.. Output.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonElement.Parse(line))];

    public static async Task<Cli> RunAsync(string[] args, params string[] input)
    {
        using var output = new StringWriter { NewLine = "\n" };
        using var error = new StringWriter { NewLine = "\n" };
        using var reader = new StringReader(string.Join('\n', input));
        int exitCode = await CommandLine.RunAsync(args, new Streams(reader, output, error, IsWatched: false));
        return new Cli(exitCode, output.ToString(), error.ToString());
    }

    /// <summary>Runs what must succeed, and say nothing beside its results.</summary>
    public static async Task<Cli> SucceedAsync(string[] args, params string[] input)
    {
        Cli result = await RunAsync(args, input);
        Assert.True(result.ExitCode == 0, $"{result.ExitCode}: {result.Error}");
        Assert.Equal("", result.Error);
        return result;
    }
}
