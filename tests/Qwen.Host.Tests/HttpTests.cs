using System.Net;
using System.Net.Http.Json;
using System.Text;
using System.Text.Json;
using OpenAI.Chat;

namespace Qwen.Host.Tests;

public sealed class HttpTests(ServerFixture server) : IClassFixture<ServerFixture>
{
    [Fact]
    public async Task Chat_WithTheOfficialClient()
    {
        ChatClient client = server.OpenAI.GetChatClient("demo");
        ChatCompletion answer = await client.CompleteChatAsync([new UserChatMessage("What is 12 + 30?")], new ChatCompletionOptions { Temperature = 0, IncludeLogProbabilities = true, TopLogProbabilityCount = 2 });
        Assert.Equal("42", answer.Content[0].Text);
        Assert.Equal(ChatFinishReason.Stop, answer.FinishReason);
        Assert.Equal(answer.Usage.InputTokenCount + answer.Usage.OutputTokenCount, answer.Usage.TotalTokenCount);
        Assert.All(answer.ContentTokenLogProbabilities, t => Assert.True(t.LogProbability <= 0 && t.TopLogProbabilities.Count == 2));
    }

    [Fact]
    public async Task Chat_Streamed_WithTheOfficialClient()
    {
        ChatClient client = server.OpenAI.GetChatClient("demo");
        var text = new StringBuilder();
        ChatFinishReason? reason = null;
        int? total = null;
        await foreach (StreamingChatCompletionUpdate update in client.CompleteChatStreamingAsync([new SystemChatMessage("You are a helpful assistant."), new UserChatMessage("What is the capital of Norway?")]))
        {
            foreach (ChatMessageContentPart part in update.ContentUpdate)
                text.Append(part.Text);
            reason = update.FinishReason ?? reason;
            total = update.Usage?.TotalTokenCount ?? total;
        }

        Assert.Equal(("The capital of Norway is Oslo.", ChatFinishReason.Stop), (text.ToString(), reason));
        Assert.True(total > 10);
    }

    [Fact]
    public async Task Chat_TakesEverySamplingField()
    {
        JsonElement answer = await PostAsync("/v1/chat/completions", """
            {"model": "demo", "messages": [{"role": "user", "content": [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "a story about a fox named Leo."}]}],
             "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "repetition_penalty": 1.05, "presence_penalty": 0.1, "frequency_penalty": 0.1,
             "logit_bias": {"5": -100}, "seed": 1, "max_completion_tokens": 7, "min_tokens": 2, "stop": ["zzz"], "stop_token_ids": [3], "ignore_eos": true, "unknown": {"x": 1}}
            """, HttpStatusCode.OK);
        Assert.Equal("length", answer.GetProperty("choices")[0].GetProperty("finish_reason").GetString());
        Assert.Equal(7, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
    }

    [Fact]
    public async Task Chat_PassesToolsToTheTemplate()
    {
        JsonElement answer = await PostAsync("/v1/chat/completions", """
            {"messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "What time is it in Oslo?"}], "temperature": 0,
             "tools": [{"type": "function", "function": {"name": "get_time", "description": "Local time of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]}
            """, HttpStatusCode.OK);
        string text = answer.GetProperty("choices")[0].GetProperty("message").GetProperty("content").GetString()!;
        Assert.Contains("\"get_time\"", text, StringComparison.Ordinal);
        Assert.Contains("Oslo", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"prompt": "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n", "parse_special": true, "temperature": 0}""", 1)]
    [InlineData("""{"prompt": ["Once upon", "One day"], "max_tokens": 5}""", 2)]
    [InlineData("""{"prompt": [10, 20, 30], "max_tokens": 3, "logprobs": 2}""", 1)]
    [InlineData("""{"prompt": [[10, 20], [30]], "max_tokens": 3}""", 2)]
    public async Task Completions_TakeEveryKindOfPrompt(string body, int choices)
    {
        JsonElement answer = await PostAsync("/v1/completions", body, HttpStatusCode.OK);
        Assert.Equal(choices, answer.GetProperty("choices").GetArrayLength());
        if (body.Contains("parse_special", StringComparison.Ordinal))
            Assert.Equal("42", answer.GetProperty("choices")[0].GetProperty("text").GetString());
    }

    [Fact]
    public async Task Completions_Stream_EndsWithUsageAndDone()
    {
        using HttpResponseMessage response = await server.Http.PostAsync("/v1/completions", Json("""{"prompt": "Once", "max_tokens": 4, "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}}"""));
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType!.MediaType);
        string[] events = (await response.Content.ReadAsStringAsync()).Split("\n\n", StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal("data: [DONE]", events[^1]);
        using JsonDocument usage = JsonDocument.Parse(events[^2]["data: ".Length..]);
        Assert.Equal(4, usage.RootElement.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        Assert.Equal(0, usage.RootElement.GetProperty("choices").GetArrayLength());
    }

    [Fact]
    public async Task Models_AndHealth()
    {
        JsonElement models = await server.Http.GetFromJsonAsync<JsonElement>("/v1/models");
        Assert.Equal("demo", models.GetProperty("data")[0].GetProperty("id").GetString());
        Assert.Equal(HttpStatusCode.OK, (await server.Http.GetAsync("/health")).StatusCode);
        Assert.Equal(HttpStatusCode.OK, (await server.Http.GetAsync("/v1/models/demo")).StatusCode);
        Assert.Equal(HttpStatusCode.NotFound, (await server.Http.GetAsync("/v1/models/other")).StatusCode);
    }

    [Theory]
    [InlineData("{", "not valid JSON", null)]
    [InlineData("[]", "is not a JSON object", null)]
    [InlineData("""{"messages": []}""", "messages: is empty", "messages")]
    [InlineData("""{"messages": "x"}""", "messages: \"x\" is not a list of objects", "messages")]
    [InlineData("""{"messages": [7]}""", "messages[0]: 7 is not an object", "messages[0]")]
    [InlineData("""{"messages": [{"content": "x"}]}""", "messages[0].role: is missing", "messages[0].role")]
    [InlineData("""{"messages": [{"role": "user", "content": 5}]}""", "messages[0].content: 5 is not a string", "messages[0].content")]
    [InlineData("""{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}""", "only parts of type 'text'", "messages[0].content[0].type")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "temperature": "hot"}""", "temperature: \"hot\" is not a number", "temperature")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "temperature": -1}""", "temperature: -1 is not between", "temperature")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}""", "max_tokens: 0", "max_tokens")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1e99}""", "max_tokens: 1e99 is not a whole number", "max_tokens")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "n": 2}""", "n: only 1", "n")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "stop": [1]}""", "stop[0]: 1 is not a string", "stop[0]")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"a": 1}}""", "logit_bias: 'a' is not a token id", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "logit_bias": {"99999": 1}}""", "logit_bias: token 99999 is outside", "logit_bias")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}""", "needs logprobs", "top_logprobs")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_object"}}""", "response_format.type: only", "response_format.type")]
    [InlineData("""{"messages": [{"role": "user", "content": "x"}], "stream": "yes"}""", "stream: \"yes\" is not true or false", "stream")]
    [InlineData("""{"messages": [{"role": "user", "content": "\ud800"}]}""", "not valid Unicode", null)]
    public async Task Chat_BadRequests_GetA400_ThatNamesTheField(string body, string message, string? parameter)
    {
        JsonElement error = (await PostAsync("/v1/chat/completions", body, HttpStatusCode.BadRequest)).GetProperty("error");
        Assert.Contains(message, error.GetProperty("message").GetString(), StringComparison.Ordinal);
        Assert.Equal("invalid_request_error", error.GetProperty("type").GetString());
        if (parameter is not null)
            Assert.Equal(parameter, error.GetProperty("param").GetString());
    }

    [Fact]
    public async Task OtherErrors_HaveTheirStatus()
    {
        await PostAsync("/v1/chat/completions", """{"model": "gpt-4", "messages": [{"role": "user", "content": "x"}]}""", HttpStatusCode.NotFound);
        await PostAsync("/v1/nothing", "{}", HttpStatusCode.NotFound);
        await PostAsync("/v1/completions", """{"prompt": ""}""", HttpStatusCode.BadRequest);
        await PostAsync("/v1/completions", $$"""{"prompt": [{{string.Join(',', Enumerable.Repeat(5, 2000))}}]}""", HttpStatusCode.BadRequest);
        await PostAsync("/v1/completions", $$"""{"prompt": "{{new string('x', 200_000)}}"}""", HttpStatusCode.RequestEntityTooLarge);
        using HttpResponseMessage wrongMethod = await server.Http.GetAsync("/v1/chat/completions");
        Assert.Equal(HttpStatusCode.MethodNotAllowed, wrongMethod.StatusCode);
        Assert.Contains("\"error\"", await wrongMethod.Content.ReadAsStringAsync(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task ADisconnect_FreesTheSequence()
    {
        using (var stop = new CancellationTokenSource())
        {
            using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = Json("""{"prompt": "Once", "max_tokens": 1000, "ignore_eos": true, "stream": true}""") };
            using HttpResponseMessage response = await server.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, stop.Token);
            using Stream body = await response.Content.ReadAsStreamAsync(stop.Token);
            Assert.True(await body.ReadAsync(new byte[10], stop.Token) > 0);
        }

        for (int i = 0; server.Engine.Statistics is not { Running: 0, Waiting: 0 }; i++)
        {
            Assert.True(i < 1000, "the sequence goes on");
            await Task.Delay(5);
        }

        Assert.Equal(server.Engine.Statistics.TotalBlocks, server.Engine.Statistics.FreeBlocks);
    }

    private static StringContent Json(string body) => new(body, Encoding.UTF8, "application/json");

    private async Task<JsonElement> PostAsync(string path, string body, HttpStatusCode status)
    {
        using HttpResponseMessage response = await server.Http.PostAsync(path, Json(body));
        string text = await response.Content.ReadAsStringAsync();
        Assert.True(status == response.StatusCode, $"{response.StatusCode}: {text}");
        return JsonDocument.Parse(text).RootElement;
    }
}
