using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.Host.Tests.Http;

[Collection(DemoEngine.Collection)]
public sealed class ChatEndpointTests(DemoEngine demo) : IAsyncLifetime
{
    private const string Path = "/v1/chat/completions";

    private TestHost _host = null!;

    public async Task InitializeAsync() => _host = await TestHost.StartAsync(demo.Engine);

    public async Task DisposeAsync() => await _host.DisposeAsync();

    [Fact]
    public async Task Chat_AnswersInOpenAiForm()
    {
        JsonElement answer = await _host.AskAsync(Path, Ask());

        Assert.StartsWith("chatcmpl-", answer.GetProperty("id").GetString(), StringComparison.Ordinal);
        Assert.Equal("chat.completion", answer.GetProperty("object").GetString());
        Assert.Equal("demo", answer.GetProperty("model").GetString());
        Assert.InRange(answer.GetProperty("created").GetInt64(), DateTimeOffset.UtcNow.ToUnixTimeSeconds() - 3600, DateTimeOffset.UtcNow.ToUnixTimeSeconds());
        JsonElement choice = Assert.Single(answer.GetProperty("choices").EnumerateArray());
        Assert.Equal("assistant", choice.GetProperty("message").GetProperty("role").GetString());
        Assert.Equal("42", Content(answer));
        Assert.Equal("stop", choice.GetProperty("finish_reason").GetString());
        JsonElement usage = answer.GetProperty("usage");
        Assert.Equal(3, usage.GetProperty("completion_tokens").GetInt32()); // 4, 2, <|im_end|>
        Assert.Equal(usage.GetProperty("total_tokens").GetInt32(), usage.GetProperty("prompt_tokens").GetInt32() + 3);
    }

    [Fact]
    public async Task Stream_SendsTheRole_ThenPiecesOfTheAnswer_ThenTheReason()
    {
        JsonElement[] events = await _host.StreamAsync(Path, Ask());

        Assert.All(events, e => Assert.Equal("chat.completion.chunk", e.GetProperty("object").GetString()));
        Assert.Single(events.Select(e => e.GetProperty("id").GetString()).Distinct());
        Assert.Equal("assistant", Delta(events[0]).GetProperty("role").GetString());
        Assert.Equal("42", string.Concat(events.Select(e => Delta(e).TryGetProperty("content", out JsonElement text) ? text.GetString() : "")));
        string?[] reasons = [.. events.Select(e => e.GetProperty("choices")[0].GetProperty("finish_reason").GetString())];
        Assert.All(reasons[..^1], Assert.Null);
        Assert.Equal("stop", reasons[^1]);
        Assert.All(events, e => Assert.False(e.TryGetProperty("usage", out _)));

        static JsonElement Delta(JsonElement e) => e.GetProperty("choices")[0].GetProperty("delta");
    }

    [Fact]
    public async Task Stream_WithIncludeUsage_EndsWithTheUsage()
    {
        JsonElement whole = await _host.AskAsync(Path, Ask());
        JsonElement[] events = await _host.StreamAsync(Path, Ask(("stream_options", new JsonObject { ["include_usage"] = true })));

        Assert.Empty(events[^1].GetProperty("choices").EnumerateArray());
        Assert.Equal(whole.GetProperty("usage").GetRawText(), events[^1].GetProperty("usage").GetRawText());
        Assert.All(events[..^1], e => Assert.Equal(JsonValueKind.Null, e.GetProperty("usage").ValueKind));
    }

    [Fact]
    public async Task Chat_WithSeed_GivesTheSameTextAgain()
    {
        (string, JsonNode?)[] options = [("temperature", 1.5), ("seed", 7), ("max_tokens", 30), ("ignore_eos", true)];
        string first = Content(await _host.AskAsync(Path, Ask(options)));
        string again = Content(await _host.AskAsync(Path, Ask(options)));
        string other = Content(await _host.AskAsync(Path, Ask([.. options, ("seed", -7L)])));

        Assert.Equal(first, again);
        Assert.NotEqual(first, other);
    }

    [Fact]
    public async Task Chat_WithLogprobs_GivesEachToken_AndTheLikeliest()
    {
        JsonElement answer = await _host.AskAsync(Path, Ask(("logprobs", true), ("top_logprobs", 2)));

        JsonElement[] tokens = [.. answer.GetProperty("choices")[0].GetProperty("logprobs").GetProperty("content").EnumerateArray()];
        Assert.Equal(["4", "2", "<|im_end|>"], tokens.Select(t => t.GetProperty("token").GetString()));
        Assert.Equal([(int)'4'], tokens[0].GetProperty("bytes").EnumerateArray().Select(b => b.GetInt32()));
        Assert.All(tokens, t =>
        {
            JsonElement[] top = [.. t.GetProperty("top_logprobs").EnumerateArray()];
            Assert.Equal(2, top.Length);
            Assert.Equal(t.GetProperty("logprob").GetDouble(), top[0].GetProperty("logprob").GetDouble()); // greedy
            Assert.True(top[0].GetProperty("logprob").GetDouble() > top[1].GetProperty("logprob").GetDouble());
        });
    }

    [Fact]
    public async Task StreamedLogprobs_AreThoseOfTheWholeAnswer()
    {
        JsonElement whole = await _host.AskAsync(Path, Ask(("logprobs", true)));
        JsonElement[] events = await _host.StreamAsync(Path, Ask(("logprobs", true)));

        string[] streamed = [.. events.Select(e => e.GetProperty("choices")[0].GetProperty("logprobs"))
            .Where(l => l.ValueKind == JsonValueKind.Object)
            .SelectMany(l => l.GetProperty("content").EnumerateArray())
            .Select(t => t.GetRawText())];
        Assert.Equal(whole.GetProperty("choices")[0].GetProperty("logprobs").GetProperty("content").EnumerateArray().Select(t => t.GetRawText()), streamed);
    }

    [Fact]
    public async Task Chat_StopsAtMaxTokens_AndAtStopTexts_AndGoesOnOverEos()
    {
        JsonElement cut = await _host.AskAsync(Path, Ask(("max_completion_tokens", 1)));
        Assert.Equal("4", Content(cut));
        Assert.Equal("length", Reason(cut));

        JsonElement stopped = await _host.AskAsync(Path, Ask(("stop", new JsonArray("x", "2"))));
        Assert.Equal("4", Content(stopped));
        Assert.Equal("stop", Reason(stopped));

        JsonElement longer = await _host.AskAsync(Path, Ask(("ignore_eos", true), ("max_tokens", 8)));
        Assert.Equal(8, longer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        Assert.Equal("length", Reason(longer));
    }

    [Fact]
    public async Task LogitBias_BansAToken()
    {
        int four = demo.Engine.Model.Tokenizer.EncodeToIds("4")[0];
        string answer = Content(await _host.AskAsync(Path, Ask(("logit_bias", new JsonObject { [$"{four}"] = -100 }))));

        Assert.DoesNotContain("4", answer, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""[{"role":"user","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]}]""", """[{"role":"user","content":"one\ntwo"}]""")]
    [InlineData("""[{"role":"developer","content":"Be brief."},{"role":"user","content":"Hi"}]""", """[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}]""")]
    [InlineData(
        """[{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\": [1, \"x\"]}"}}]}]""",
        """[{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"a":[1,"x"]}}}]}]""")]
    [InlineData(
        """[{"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":""}}]}]""",
        """[{"role":"assistant","content":"","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{}}}]}]""")]
    public async Task Messages_ComeToTheTemplate_InItsForm(string sent, string meant)
    {
        // Token by token the same prompt: the same log-probability of whatever comes next.
        JsonElement[] answers = [await AskAsync(sent), await AskAsync(meant)];

        Assert.Equal(answers[1].GetProperty("usage").GetRawText(), answers[0].GetProperty("usage").GetRawText());
        Assert.Equal(answers[1].GetProperty("choices").GetRawText(), answers[0].GetProperty("choices").GetRawText());

        Task<JsonElement> AskAsync(string messages) =>
            _host.AskAsync(Path, new JsonObject { ["messages"] = JsonNode.Parse(messages), ["max_tokens"] = 1, ["logprobs"] = true, ["top_logprobs"] = 5, ["cache_salt"] = $"{Guid.NewGuid()}" });
    }

    [Fact]
    public async Task Tools_AreShownToTheModel_UnlessToolChoiceIsNone()
    {
        JsonArray tools = [new JsonObject { ["type"] = "function", ["function"] = new JsonObject { ["name"] = "get_time", ["parameters"] = new JsonObject() } }];
        int without = PromptTokens(await _host.AskAsync(Path, Ask()));
        int with = PromptTokens(await _host.AskAsync(Path, Ask(("tools", tools.DeepClone()), ("tool_choice", "auto"))));
        int none = PromptTokens(await _host.AskAsync(Path, Ask(("tools", tools), ("tool_choice", "none"))));

        Assert.True(with > without);
        Assert.Equal(without, none);
    }

    [Fact]
    public async Task AddGenerationPrompt_False_LeavesTheTurnUnopened()
    {
        int open = PromptTokens(await _host.AskAsync(Path, Ask(("max_tokens", 1))));
        int closed = PromptTokens(await _host.AskAsync(Path, Ask(("max_tokens", 1), ("add_generation_prompt", false))));

        Assert.True(closed < open);
    }

    [Fact]
    public async Task ControlTokensInAMessage_StayText()
    {
        int plain = PromptTokens(await _host.AskAsync(Path, Ask("", ("max_tokens", 1))));
        int written = PromptTokens(await _host.AskAsync(Path, Ask("<|im_end|>", ("max_tokens", 1))));

        Assert.True(written - plain > 1, $"<|im_end|> in a message took {written - plain} token");
    }

    private static JsonObject Ask(params (string Name, JsonNode? Value)[] options) => Ask(DemoEngine.Question, options);

    [Fact]
    public async Task ToolCall_IsParsed_WholeAndStreamed()
    {
        JsonNode tools = JsonNode.Parse("""
            [{"type": "function", "function": {"name": "send_mail", "description": "Send a mail", "parameters": {"type": "object", "properties": {"to": {"type": "string"}, "text": {"type": "string"}}, "required": ["to", "text"]}}},
             {"type": "function", "function": {"name": "calculate", "description": "Value of an expression", "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}]
            """)!;
        JsonObject body = Ask("Send a mail to Max that says hello.", ("tools", tools), ("temperature", 0));

        JsonElement choice = (await _host.AskAsync(Path, body)).GetProperty("choices")[0];
        Assert.Equal("tool_calls", choice.GetProperty("finish_reason").GetString());
        JsonElement message = choice.GetProperty("message");
        Assert.Equal(JsonValueKind.Null, message.GetProperty("content").ValueKind);
        JsonElement call = message.GetProperty("tool_calls").EnumerateArray().Single();
        Assert.StartsWith("call_", call.GetProperty("id").GetString(), StringComparison.Ordinal);
        Assert.Equal("send_mail", call.GetProperty("function").GetProperty("name").GetString());
        Assert.Equal("""{"to": "Max", "text": "hello"}""", call.GetProperty("function").GetProperty("arguments").GetString());

        JsonElement[] events = await _host.StreamAsync(Path, body);
        JsonElement[] deltas = [.. events.Select(e => e.GetProperty("choices")[0].GetProperty("delta"))];
        JsonElement streamed = deltas.Where(d => d.TryGetProperty("tool_calls", out _)).Single().GetProperty("tool_calls")[0];
        Assert.Equal(0, streamed.GetProperty("index").GetInt32());
        Assert.Equal(call.GetProperty("function").GetRawText(), streamed.GetProperty("function").GetRawText());
        Assert.All(deltas, d => Assert.True(!d.TryGetProperty("content", out JsonElement text) || text.GetString() is ""));
        Assert.Equal("tool_calls", events[^1].GetProperty("choices")[0].GetProperty("finish_reason").GetString());

        (body["tool_choice"], body["stream"]) = ("none", false);
        JsonElement none = (await _host.AskAsync(Path, body)).GetProperty("choices")[0];
        Assert.False(none.GetProperty("message").TryGetProperty("tool_calls", out _));
    }

    private static JsonObject Ask(string message, params (string Name, JsonNode? Value)[] options)
    {
        var body = new JsonObject { ["messages"] = new JsonArray(new JsonObject { ["role"] = "user", ["content"] = message }) };
        foreach ((string name, JsonNode? value) in options)
            body[name] = value?.DeepClone();
        return body;
    }

    private static string Content(JsonElement answer) => answer.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString()!;

    private static string? Reason(JsonElement answer) => answer.GetProperty("choices")[0].GetProperty("finish_reason").GetString();

    private static int PromptTokens(JsonElement answer) => answer.GetProperty("usage").GetProperty("prompt_tokens").GetInt32();
}
