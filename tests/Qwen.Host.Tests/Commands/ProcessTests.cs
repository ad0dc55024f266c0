using System.Diagnostics;
using System.Text;
using System.Text.RegularExpressions;

namespace Qwen.Host.Tests.Commands;

/// <summary>The program as a process of its own: streams, signals, exit codes.</summary>
public sealed class ProcessTests : IDisposable
{
    private readonly CancellationTokenSource _patience = new(TimeSpan.FromSeconds(120));

    public void Dispose() => _patience.Dispose();

    [Fact]
    public async Task Run_WritesOnlyTheAnswer()
    {
        using Process process = Start("run", "What is 12 + 30?");
        Task<string> error = process.StandardError.ReadToEndAsync(_patience.Token);

        Assert.Equal($"42{Environment.NewLine}", await process.StandardOutput.ReadToEndAsync(_patience.Token));
        Assert.Equal("", await error);
        await process.WaitForExitAsync(_patience.Token);
        Assert.Equal(0, process.ExitCode);
    }

    [Fact]
    public async Task Tokenize_ReadsAndWritesUtf8_AndAnswersEachLineAtOnce()
    {
        using Process process = Start("tokenize", "--decode");
        await process.StandardInput.WriteLineAsync("""{"ids":[67,68]}""");
        await process.StandardInput.FlushAsync(_patience.Token);
        Assert.StartsWith("{\"bytes\":", await process.StandardOutput.ReadLineAsync(_patience.Token), StringComparison.Ordinal);
        process.StandardInput.Close();
        await process.WaitForExitAsync(_patience.Token);
        Assert.Equal(0, process.ExitCode);

        using Process encode = Start("tokenize");
        byte[] line = Encoding.UTF8.GetBytes("{\"text\":\"日本\"}\n");
        await encode.StandardInput.BaseStream.WriteAsync(line, _patience.Token);
        encode.StandardInput.Close();
        string ids = await encode.StandardOutput.ReadToEndAsync(_patience.Token);
        Assert.Equal((await Cli.SucceedAsync(["tokenize"], """{"text":"\u65e5\u672c"}""")).Output.Trim(), ids.Trim());
    }

    [SkippableFact]
    public async Task CtrlC_StopsTheAnswer_AndNotTheProgram()
    {
        Skip.If(OperatingSystem.IsWindows(), "Windows has no SIGINT to send.");
        using Process process = Start("chat", "--ignore-eos", "--threads", "1");
        await process.StandardInput.WriteLineAsync("Tell me a story.");
        await process.StandardInput.FlushAsync(_patience.Token);
        var first = new char[1];
        Assert.Equal(1, await process.StandardOutput.ReadAsync(first, _patience.Token)); // it answers
        await InterruptAsync(process);
        await process.StandardInput.WriteLineAsync("/clear\nWhat is 12 + 30?\n/exit");
        process.StandardInput.Close();

        string rest = await process.StandardOutput.ReadToEndAsync(_patience.Token);
        await process.WaitForExitAsync(_patience.Token);
        Assert.Equal(0, process.ExitCode);
        Assert.Contains("\n42", rest, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task CtrlC_AtThePrompt_EndsTheProgram()
    {
        Skip.If(OperatingSystem.IsWindows(), "Windows has no SIGINT to send.");
        using Process process = Start("chat");
        await process.StandardInput.WriteLineAsync("What is 12 + 30?");
        await process.StandardInput.FlushAsync(_patience.Token);
        Assert.Equal("42", await process.StandardOutput.ReadLineAsync(_patience.Token));
        await Task.Delay(100); // for the prompt to be there
        await InterruptAsync(process);

        await process.WaitForExitAsync(_patience.Token);
        Assert.NotEqual(0, process.ExitCode);
    }

    [SkippableFact]
    public async Task Serve_SaysWhereItListens_Answers_AndEndsCleanlyOnSigterm()
    {
        Skip.If(OperatingSystem.IsWindows(), "Windows has no SIGTERM to send.");
        using Process process = Start("serve", "--port", "0", "--served-model-name", "mine");
        string started = (await process.StandardError.ReadLineAsync(_patience.Token))!;
        using var client = new HttpClient { BaseAddress = new Uri(Regex.Match(started, @"http://127\.0\.0\.1:\d+").Value) };

        Assert.Contains("\"id\":\"mine\"", await client.GetStringAsync("/v1/models", _patience.Token), StringComparison.Ordinal);
        string log = (await process.StandardError.ReadLineAsync(_patience.Token))!;
        Assert.Contains("GET /v1/models 200", log, StringComparison.Ordinal);

        await SignalAsync(process, "TERM");
        await process.WaitForExitAsync(_patience.Token);
        Assert.Equal(0, process.ExitCode);
        Assert.Equal("", await process.StandardOutput.ReadToEndAsync(_patience.Token));
    }

    [SkippableFact]
    public async Task Serve_DrainsOnSigterm_ThenCutsWhatStillRuns_AndExitsWith0()
    {
        Skip.If(OperatingSystem.IsWindows(), "Windows has no SIGTERM to send.");
        using Process process = Start("serve", "--port", "0", "--drain-timeout", "1.5", "--max-model-len", "60000", "--log-format", "json");
        using HttpClient client = await ConnectAsync(process);
        using HttpResponseMessage stream = await StartStreamAsync(client);
        using Stream events = await stream.Content.ReadAsStreamAsync(_patience.Token);
        using var reader = new StreamReader(events);
        Assert.StartsWith("data: {", await reader.ReadLineAsync(_patience.Token), StringComparison.Ordinal);

        await SignalAsync(process, "TERM");
        Assert.Contains("1 sequences run", await process.StandardError.ReadLineAsync(_patience.Token), StringComparison.Ordinal);
        using HttpResponseMessage ready = await client.GetAsync("/health/ready", _patience.Token);
        Assert.Equal(System.Net.HttpStatusCode.ServiceUnavailable, ready.StatusCode);
        string rest = await reader.ReadToEndAsync(_patience.Token);
        Assert.Contains("server_stopping", rest, StringComparison.Ordinal);
        Assert.EndsWith("data: [DONE]\n\n", rest, StringComparison.Ordinal);
        string[] log = (await process.StandardError.ReadToEndAsync(_patience.Token)).Split('\n', StringSplitOptions.RemoveEmptyEntries);
        await process.WaitForExitAsync(_patience.Token);
        Assert.Equal(0, process.ExitCode);

        System.Text.Json.JsonElement line = Assert.Single(log.Where(l => l[0] == '{').Select(l => System.Text.Json.JsonElement.Parse(l)), l => l.GetProperty("State").GetProperty("Path").GetString() == "/v1/completions");
        Assert.True(line.GetProperty("State").GetProperty("CompletionTokens").GetInt32() > 0);
    }

    [SkippableFact]
    public async Task Serve_EndsAtOnceOnTheSecondSignal()
    {
        Skip.If(OperatingSystem.IsWindows(), "Windows has no SIGINT to send.");
        using Process process = Start("serve", "--port", "0", "--drain-timeout", "600", "--max-model-len", "60000");
        using HttpClient client = await ConnectAsync(process);
        using HttpResponseMessage stream = await StartStreamAsync(client);
        await SignalAsync(process, "INT");
        Assert.Contains("a second signal ends the program", await process.StandardError.ReadLineAsync(_patience.Token), StringComparison.Ordinal);
        Assert.False(process.HasExited);
        await InterruptAsync(process);
        await process.WaitForExitAsync(_patience.Token);
        Assert.NotEqual(0, process.ExitCode);
    }

    private async Task<HttpClient> ConnectAsync(Process process)
    {
        string started = (await process.StandardError.ReadLineAsync(_patience.Token))!;
        return new HttpClient { BaseAddress = new Uri(Regex.Match(started, @"http://127\.0\.0\.1:\d+").Value) };
    }

    private async Task<HttpResponseMessage> StartStreamAsync(HttpClient client)
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            Content = new StringContent("""{"prompt": "Tell me a story.", "max_tokens": 50000, "ignore_eos": true, "stream": true, "return_token_ids": true}""", Encoding.UTF8, "application/json"),
        };
        HttpResponseMessage response = await client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, _patience.Token);
        response.EnsureSuccessStatusCode();
        return response;
    }

    private static Process Start(params string[] args)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "qwen.dll"), .. args])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            StandardOutputEncoding = Encoding.UTF8,
        };
        start.Environment["LC_ALL"] = "C"; // the program's encoding does not follow the locale
        return Process.Start(start)!;
    }

    private Task InterruptAsync(Process process) => SignalAsync(process, "INT");

    private async Task SignalAsync(Process process, string signal)
    {
        using Process kill = Process.Start("kill", [$"-{signal}", $"{process.Id}"]);
        await kill.WaitForExitAsync(_patience.Token);
    }
}
