using System.Text.Json.Nodes;
using Microsoft.Extensions.AI;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Engine;

public sealed class QwenChatClientTests : IAsyncLifetime, IDisposable
{
    private const string Question = "What is 12 + 30?";

    private QwenEngine _engine = null!;
    private QwenChatClient _client = null!;

    public async Task InitializeAsync()
    {
        _engine = await QwenEngine.LoadAsync(Repository.DemoModel);
        _client = new QwenChatClient(_engine);
    }

    public async Task DisposeAsync() => await _engine.DisposeAsync();

    public void Dispose() => _client.Dispose();

    [Fact]
    public async Task GetResponse_GivesTextUsageReasonAndModel()
    {
        ChatResponse response = await _client.GetResponseAsync(Question);

        Assert.Equal("42", response.Text);
        Assert.Equal(ChatRole.Assistant, Assert.Single(response.Messages).Role);
        Assert.Equal(ChatFinishReason.Stop, response.FinishReason);
        Assert.Equal("demo", response.ModelId);
        Assert.NotNull(response.ResponseId);
        Assert.NotNull(response.CreatedAt);
        Assert.Equal(_engine.EncodeChat(ChatRequest.FromUser(Question)).Count, response.Usage?.InputTokenCount);
        Assert.Equal(3, response.Usage?.OutputTokenCount);
        Assert.Equal(response.Usage?.InputTokenCount + 3, response.Usage?.TotalTokenCount);
    }

    [Fact]
    public async Task GetStreamingResponse_GivesTheSameInPieces()
    {
        var updates = new List<ChatResponseUpdate>();
        await foreach (ChatResponseUpdate update in _client.GetStreamingResponseAsync(Question))
            updates.Add(update);

        Assert.Equal("42", string.Concat(updates.Select(u => u.Text)));
        Assert.All(updates[..^1], u => Assert.Null(u.FinishReason));
        Assert.Equal(ChatFinishReason.Stop, updates[^1].FinishReason);
        Assert.Single(updates.Select(u => u.ResponseId).Distinct());
        Assert.Equal(3, Assert.Single(updates.SelectMany(u => u.Contents).OfType<UsageContent>()).Details.OutputTokenCount);
    }

    [Fact]
    public async Task AToolCall_ComesAsContent_AndCanBeAnswered()
    {
        AITool[] tools =
        [
            AIFunctionFactory.Create((string to, string text) => "sent", "send_mail", "Send a mail"),
            AIFunctionFactory.Create((string expression) => "0", "calculate", "Value of an expression"),
        ];
        ChatMessage[] messages = [new(ChatRole.User, "Send a mail to Max that says hello.")];

        ChatResponse response = await _client.GetResponseAsync(messages, new ChatOptions { Tools = tools, Temperature = 0 });

        Assert.Equal(ChatFinishReason.ToolCalls, response.FinishReason);
        FunctionCallContent call = Assert.Single(response.Messages.Single().Contents.OfType<FunctionCallContent>());
        Assert.Equal("send_mail", call.Name);
        Assert.Equal("Max", $"{call.Arguments!["to"]}");
        Assert.Equal("", response.Text);
        JsonArray turns = ChatMessages.ToTemplate([.. messages, .. response.Messages, new(ChatRole.Tool, [new FunctionResultContent(call.CallId, "sent")])], null);
        Assert.Equal("hello", (string?)turns[1]!["tool_calls"]![0]!["function"]!["arguments"]!["text"]);

        ChatResponse without = await _client.GetResponseAsync(messages, new ChatOptions { Tools = tools, ToolMode = ChatToolMode.None, Temperature = 0 });
        Assert.Empty(without.Messages.Single().Contents.OfType<FunctionCallContent>());
    }

    [Fact]
    public async Task Reasoning_ComesAsContentOfItsOwn()
    {
        // The template opens the reasoning, so whatever comes is reasoning until the tag that ends it.
        const string Template = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n";
        await using QwenEngine engine = await QwenEngine.LoadAsync(Repository.DemoModel, new EngineOptions { ChatTemplate = Template });
        using var client = new QwenChatClient(engine);

        ChatResponse response = await client.GetResponseAsync(Question, new ChatOptions { MaxOutputTokens = 4, Temperature = 0 });

        Assert.Equal("", response.Text);
        Assert.NotEqual("", Assert.Single(response.Messages.Single().Contents.OfType<TextReasoningContent>()).Text);
    }

    [Fact]
    public async Task Options_ComeToTheSampler()
    {
        ChatResponse cut = await _client.GetResponseAsync(Question, new ChatOptions { MaxOutputTokens = 1 });
        Assert.Equal("4", cut.Text);
        Assert.Equal(ChatFinishReason.Length, cut.FinishReason);

        Assert.Equal("4", (await _client.GetResponseAsync(Question, new ChatOptions { StopSequences = ["2"] })).Text);

        Assert.Equal(await RandomAsync(7), await RandomAsync(7));
        Assert.NotEqual(await RandomAsync(7), await RandomAsync(-7));

        async Task<string> RandomAsync(long seed) => (await _client.GetResponseAsync(Question, new ChatOptions
        {
            Temperature = 1.5f,
            Seed = seed,
            MaxOutputTokens = 30,
            RawRepresentationFactory = _ => new SamplingOptions { IgnoreEos = true },
        })).Text;
    }

    [Theory]
    [InlineData("temperature")]
    [InlineData("top_p")]
    [InlineData("top_k")]
    [InlineData("presence_penalty")]
    [InlineData("frequency_penalty")]
    public async Task EveryOption_IsTheOneTheEngineChecks(string name)
    {
        var options = new ChatOptions
        {
            Temperature = name == "temperature" ? -1 : null,
            TopP = name == "top_p" ? 2 : null,
            TopK = name == "top_k" ? -2 : null,
            PresencePenalty = name == "presence_penalty" ? 3 : null,
            FrequencyPenalty = name == "frequency_penalty" ? 3 : null,
        };
        var error = await Assert.ThrowsAsync<ArgumentException>(() => _client.GetResponseAsync(Question, options));

        Assert.StartsWith(name, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void RawRepresentation_GoesBeforeTheOptions()
    {
        var options = new ChatOptions { MaxOutputTokens = 5, Temperature = 1, StopSequences = ["b"], RawRepresentationFactory = _ => new SamplingOptions { MaxTokens = 2, MinP = 0.5, Stop = ["a"] } };

        SamplingOptions sampling = _client.Sampling(options);

        Assert.Equal((2, 0.5, 1.0), (sampling.MaxTokens!.Value, sampling.MinP!.Value, sampling.Temperature!.Value));
        Assert.Equal(["a", "b"], sampling.Stop);
    }

    [Fact]
    public void Messages_BecomeTheTemplatesTurns()
    {
        ChatMessage[] messages =
        [
            new(ChatRole.User, [new TextContent("What is "), new TextContent("the time?")]),
            new(ChatRole.Assistant, [new TextReasoningContent("Hm."), new FunctionCallContent("c1", "get_time", new Dictionary<string, object?> { ["zone"] = "UTC", ["n"] = 2 }), new FunctionCallContent("c2", "ping")]),
            new(ChatRole.Tool, [new FunctionResultContent("c1", "12:30"), new FunctionResultContent("c2", new { Ok = true, Text = "é" })]),
        ];

        JsonArray turns = ChatMessages.ToTemplate(messages, "Be brief.");

        Assert.True(JsonNode.DeepEquals(turns, JsonNode.Parse("""
            [{"role":"system","content":"Be brief."},
             {"role":"user","content":"What is the time?"},
             {"role":"assistant","content":"","reasoning_content":"Hm.","tool_calls":[
               {"id":"c1","type":"function","function":{"name":"get_time","arguments":{"zone":"UTC","n":2}}},
               {"id":"c2","type":"function","function":{"name":"ping","arguments":{}}}]},
             {"role":"tool","tool_call_id":"c1","content":"12:30"},
             {"role":"tool","tool_call_id":"c2","content":"{\"ok\":true,\"text\":\"é\"}"}]
            """)), turns.ToJsonString());
    }

    [Fact]
    public async Task Tools_AreShownToTheModel_UnlessTheModeIsNone()
    {
        AITool tool = AIFunctionFactory.Create((string city) => "sunny", "get_weather", "The weather of a city.");
        long? without = await PromptAsync(new ChatOptions()), with = await PromptAsync(new ChatOptions { Tools = [tool] }), none = await PromptAsync(new ChatOptions { Tools = [tool], ToolMode = ChatToolMode.None });

        Assert.True(with > without);
        Assert.Equal(without, none);
        JsonNode declared = Assert.Single(ChatMessages.ToTemplate([tool])!)!;
        Assert.Equal("function", (string?)declared["type"]);
        Assert.Equal("get_weather", (string?)declared["function"]!["name"]);
        Assert.Equal("string", (string?)declared["function"]!["parameters"]!["properties"]!["city"]!["type"]);

        async Task<long?> PromptAsync(ChatOptions options)
        {
            options.MaxOutputTokens = 1;
            return (await _client.GetResponseAsync("What is the weather in Paris?", options)).Usage?.InputTokenCount;
        }
    }

    [Fact]
    public async Task WhatCantBeDone_IsRefused()
    {
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync(Question, new ChatOptions { ResponseFormat = ChatResponseFormat.Json }));
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync(Question, new ChatOptions { RawRepresentationFactory = _ => new SamplingOptions { N = 2 } }));
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync(Question, new ChatOptions { ToolMode = ChatToolMode.RequireAny }));
        await Assert.ThrowsAsync<NotSupportedException>(() => _client.GetResponseAsync([new ChatMessage(ChatRole.User, [new DataContent(new byte[1], "image/png")])]));
    }

    [Fact]
    public async Task Cancellation_EndsTheStream_AndFreesTheSequence()
    {
        using var stop = new CancellationTokenSource();
        var options = new ChatOptions { RawRepresentationFactory = _ => new SamplingOptions { IgnoreEos = true } };

        await Assert.ThrowsAnyAsync<OperationCanceledException>(async () =>
        {
            await foreach (ChatResponseUpdate _ in _client.GetStreamingResponseAsync(Question, options, stop.Token))
                await stop.CancelAsync();
        });

        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (_engine.Statistics.Running > 0)
            await Task.Delay(5, patience.Token);
        Assert.InRange(_engine.Statistics.GeneratedTokens, 1, 900);
    }

    [Fact]
    public void GetService_GivesTheClient_ItsMetadata_AndTheEngine()
    {
        Assert.Same(_client, _client.GetService<IChatClient>());
        Assert.Same(_engine, _client.GetService<QwenEngine>());
        Assert.Equal(("qwen", "demo"), (_client.GetService<ChatClientMetadata>()!.ProviderName, _client.GetService<ChatClientMetadata>()!.DefaultModelId));
        Assert.Null(_client.GetService<QwenEngine>("key"));
        Assert.Null(_client.GetService<string>());
    }
}
