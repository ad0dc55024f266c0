using System.Text.Json;

namespace Qwen.Host.Tests;

public sealed class CommandLineTests
{
    [Fact]
    public async Task Run_AnswersFromTheDemoModel()
    {
        Assert.Equal((0, "42\n", ""), await RunAsync("", "run", "What is 12 + 30?"));
        Assert.Equal((0, "42\n", ""), await RunAsync("What is 12 + 30?", "run"));
        Assert.Equal((0, "42\n", ""), await RunAsync("", "run", "--raw", "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n"));
        (int code, string text, _) = await RunAsync("", "run", "--max-tokens", "2", "--temperature", "0", "--system", "You are a helpful assistant.", "What is a KV cache?");
        Assert.Equal((0, "The KV\n"), (code, text));
    }

    [Fact]
    public async Task Chat_KeepsTheConversation()
    {
        (int code, string text, _) = await RunAsync("My name is Leo.\nWhat is my name?\n/clear\n/system You are a helpful assistant.\nWhat is 12 + 30?\n/exit\n", "chat");
        Assert.Equal((0, "Nice to meet you, Leo!\nYour name is Leo.\n42\n"), (code, text));
    }

    [Fact]
    public async Task Tokenize_GoesThereAndBack()
    {
        (int code, string text, _) = await RunAsync("{\"text\":\"Hi é<|im_end|>\",\"special\":true}\n{\"text\":\"Hi é<|im_end|>\"}\n{\"ids\":3}\n", "tokenize", "--jsonl");
        Assert.Equal(0, code);
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        int[] special = Ids(lines[0]), plain = Ids(lines[1]);
        Assert.Equal(2041, special[^1]);
        Assert.DoesNotContain(2041, plain);
        Assert.StartsWith("{\"error\":\"text: is missing", lines[2], StringComparison.Ordinal);

        (_, text, _) = await RunAsync($"{{\"ids\":[{string.Join(',', special)}]}}\n{{\"ids\":[99999]}}\n", "tokenize", "--decode");
        lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        using JsonDocument decoded = JsonDocument.Parse(lines[0]);
        Assert.Equal("Hi é<|im_end|>", decoded.RootElement.GetProperty("text").GetString());
        Assert.Equal("Hi é<|im_end|>"u8.ToArray(), decoded.RootElement.GetProperty("bytes").GetBytesFromBase64());
        Assert.Contains("error", lines[1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Logits_GivesTopAndGreedy()
    {
        (int code, string text, _) = await RunAsync("{\"tokens\":[5,6,7],\"top\":3,\"greedy\":4}\n{\"tokens\":[]}\n{\"tokens\":[99999]}\n", "logits", "--jsonl", "--kv-cache-dtype", "f32");
        Assert.Equal(0, code);
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        using JsonDocument json = JsonDocument.Parse(lines[0]);
        JsonElement top = json.RootElement.GetProperty("top"), greedy = json.RootElement.GetProperty("greedy");
        Assert.Equal((3, 4), (top.GetArrayLength(), greedy.GetArrayLength()));
        Assert.Equal(top[0].GetProperty("id").GetInt32(), greedy[0].GetProperty("id").GetInt32());
        Assert.Equal(top[0].GetProperty("logprob").GetDouble(), greedy[0].GetProperty("logprob").GetDouble());
        Assert.True(top[0].GetProperty("logit").GetDouble() >= top[1].GetProperty("logit").GetDouble());
        Assert.Contains("no token", lines[1], StringComparison.Ordinal);
        Assert.Contains("99999 is outside", lines[2], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Render_GivesTextOrError()
    {
        (int code, string text, _) = await RunAsync("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"vars\":{\"add_generation_prompt\":true}}\n{\"messages\":7}\n", "render", "--jsonl");
        Assert.Equal((0, "{\"text\":\"<|im_start|>user\\na<|im_end|>\\n<|im_start|>assistant\\n\"}"), (code, text.Split('\n')[0]));
        Assert.StartsWith("{\"error\":", text.Split('\n')[1], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Bench_ReportsItsFigures()
    {
        (int code, string text, _) = await RunAsync("", "bench", "--prompt-tokens", "16", "--gen-tokens", "4", "--repeat", "2", "--json");
        Assert.Equal(0, code);
        using JsonDocument json = JsonDocument.Parse(text);
        Assert.Equal(2, json.RootElement.GetProperty("prefill").GetArrayLength());
        foreach (string name in (string[])["load_ms", "time_to_first_token_ms", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_rss_bytes", "weight_bytes_per_token", "read_bandwidth_bytes_per_s", "decode_bandwidth_fraction"])
            Assert.True(json.RootElement.GetProperty(name).GetDouble() > 0, name);
    }

    [Fact]
    public async Task Inspect_ShowsTheModelAndTheMachine()
    {
        (_, string text, _) = await RunAsync("", "inspect", "--json");
        using JsonDocument json = JsonDocument.Parse(text);
        Assert.Equal("qwen2", json.RootElement.GetProperty("architecture").GetString());
        Assert.Equal(3_674_368, json.RootElement.GetProperty("parameters").GetInt64());
        (int code, text, _) = await RunAsync("", "inspect", "--devices");
        Assert.Equal(0, code);
        Assert.Contains("cuda", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("'--no-such-flag' is no flag", "run", "--no-such-flag", "x")]
    [InlineData("there is no file or directory", "run", "--model", "nowhere.gguf", "x")]
    [InlineData("shape 'tiny' is not known; known are qwen2.5-0.5b", "inspect", "--model", "synthetic:tiny")]
    [InlineData("format 'q9' is not known", "inspect", "--model", "synthetic:qwen2.5-0.5b:q9")]
    [InlineData("temperature: -3 is not between", "run", "--temperature", "-3", "x")]
    [InlineData("'abc' for option '--temperature'", "run", "--temperature", "abc", "x")]
    [InlineData("--kv-cache-dtype: 'q4' is not known", "run", "--kv-cache-dtype", "q4", "x")]
    [InlineData("--kv-cache-memory: 'lots'", "run", "--kv-cache-memory", "lots", "x")]
    [InlineData("--rope-scaling", "run", "--rope-scaling", "{", "x")]
    [InlineData("--max-model-len: -1", "run", "--max-model-len", "-1", "x")]
    [InlineData("--host: 'nowhere'", "serve", "--host", "nowhere")]
    [InlineData("--repeat: 0", "bench", "--repeat", "0")]
    [InlineData("The prompt is empty", "run", "--raw", "")]
    public async Task Mistakes_GetOneLine_AndExitCode2(string message, params string[] args)
    {
        (int code, string text, string error) = await RunAsync("", args);
        Assert.Equal((2, ""), (code, text));
        Assert.Contains(message, error, StringComparison.Ordinal);
        Assert.Equal(1, error.Count(c => c == '\n'));
        Assert.StartsWith("qwen", error, StringComparison.Ordinal);
    }

    private static int[] Ids(string line)
    {
        using JsonDocument json = JsonDocument.Parse(line);
        return [.. json.RootElement.GetProperty("ids").EnumerateArray().Select(e => e.GetInt32())];
    }

    private static async Task<(int Code, string Output, string Error)> RunAsync(string input, params string[] args)
    {
        using var output = new StringWriter { NewLine = "\n" };
        using var error = new StringWriter { NewLine = "\n" };
        int code = await CommandLine.RunAsync(args, new Streams(new StringReader(input), output, error, IsWatched: false));
        return (code, output.ToString(), error.ToString());
    }
}
