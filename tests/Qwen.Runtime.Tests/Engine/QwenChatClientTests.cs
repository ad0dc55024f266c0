using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;
using Qwen.Runtime.Engine;

namespace Qwen.Runtime.Tests.Engine;

public sealed class QwenChatClientTests(EngineFixture fixture) : IClassFixture<EngineFixture>
{
    [Fact]
    public async Task GetResponseAsync_AnswersWithUsageAndReason()
    {
        using var client = new QwenChatClient(fixture.Engine);
        ChatResponse response = await client.GetResponseAsync([new(ChatRole.User, "My name is Leo."), new(ChatRole.Assistant, "Nice to meet you, Leo!"), new(ChatRole.User, "What is my name?")]);
        Assert.Equal("Your name is Leo.", response.Text);
        Assert.Equal(ChatFinishReason.Stop, response.FinishReason);
        Assert.Equal(response.Usage!.InputTokenCount + response.Usage.OutputTokenCount, response.Usage.TotalTokenCount);
        Assert.Equal(fixture.Engine.Model.Name, response.ModelId);
    }

    [Fact]
    public async Task GetStreamingResponseAsync_StreamsTheSame_AndKeepsToTheOptions()
    {
        using var client = new QwenChatClient(fixture.Engine);
        var options = new ChatOptions { Temperature = 0, MaxOutputTokens = 4, Instructions = "You are a helpful assistant." };
        ChatResponse whole = await client.GetResponseAsync("What is a KV cache?", options);
        ChatResponse streamed = await client.GetStreamingResponseAsync("What is a KV cache?", options).ToChatResponseAsync();
        Assert.Equal(whole.Text, streamed.Text);
        Assert.Equal((ChatFinishReason.Length, 4L), (streamed.FinishReason, streamed.Usage!.OutputTokenCount));
    }

    [Fact]
    public async Task Tools_AreShownToTheModel_AndTheirResultsRead()
    {
        using var client = new QwenChatClient(fixture.Engine);
        AIFunctionDeclaration tool = AIFunctionFactory.Create((string city) => city, "get_weather", "Weather of a city");
        List<ChatMessage> messages = [new(ChatRole.System, "You are a helpful assistant."), new(ChatRole.User, "What is the weather in Oslo?")];
        ChatResponse call = await client.GetResponseAsync(messages, new ChatOptions { Tools = [tool], Temperature = 0 });
        Assert.Contains("get_weather", call.Text, StringComparison.Ordinal);
        messages.Add(new(ChatRole.Assistant, [new FunctionCallContent("1", "get_weather", new Dictionary<string, object?> { ["city"] = "Oslo" })]));
        messages.Add(new(ChatRole.Tool, [new FunctionResultContent("1", "{\"temperature\": 7, \"sky\": \"rainy\"}")]));
        ChatResponse answer = await client.GetResponseAsync(messages, new ChatOptions { Tools = [tool], Temperature = 0 });
        Assert.Contains("rainy", answer.Text, StringComparison.Ordinal);
    }

    [Fact]
    public async Task AddQwen_RegistersOneEngine_DisposedWithTheContainer()
    {
        QwenEngine engine;
        await using (ServiceProvider provider = new ServiceCollection().AddQwen(Repository.DemoModel).BuildServiceProvider())
        {
            engine = provider.GetRequiredService<QwenEngine>();
            IChatClient client = provider.GetRequiredService<IChatClient>();
            Assert.Same(engine, client.GetService<QwenEngine>());
            Assert.Equal("qwen", client.GetService<ChatClientMetadata>()!.ProviderName);
            Assert.Equal("42", (await client.GetResponseAsync("What is 12 + 30?")).Text);
        }

        await Assert.ThrowsAsync<ObjectDisposedException>(async () => await EngineFixture.CollectAsync(engine.ChatAsync("Hello")));
    }
}
