using System.ClientModel;
using OpenAI;
using OpenAI.Chat;
using OpenAI.Models;

namespace Qwen.Host.Tests.Http;

/// <summary>The official client, over a socket.</summary>
[Collection(DemoEngine.Collection)]
public sealed class OpenAiClientTests(DemoEngine demo) : IAsyncLifetime
{
    private TestHost _host = null!;

    public async Task InitializeAsync() => _host = await TestHost.ListenAsync(demo.Engine);

    public async Task DisposeAsync() => await _host.DisposeAsync();

    [Fact]
    public async Task CompleteChat_GivesTheAnswer()
    {
        ChatCompletion answer = await Client().CompleteChatAsync([new UserChatMessage(DemoEngine.Question)]);

        Assert.Equal("42", answer.Content[0].Text);
        Assert.Equal(ChatMessageRole.Assistant, answer.Role);
        Assert.Equal(OpenAI.Chat.ChatFinishReason.Stop, answer.FinishReason);
        Assert.Equal(3, answer.Usage.OutputTokenCount);
        Assert.Equal("demo", answer.Model);
    }

    [Fact]
    public async Task CompleteChatStreaming_GivesTheAnswerInPieces_AndTheUsage()
    {
        string text = "";
        OpenAI.Chat.ChatFinishReason? reason = null;
        ChatTokenUsage? usage = null;
        await foreach (StreamingChatCompletionUpdate update in Client().CompleteChatStreamingAsync([new UserChatMessage(DemoEngine.Question)]))
        {
            text += string.Concat(update.ContentUpdate.Select(c => c.Text));
            reason ??= update.FinishReason;
            usage ??= update.Usage;
        }

        Assert.Equal("42", text);
        Assert.Equal(OpenAI.Chat.ChatFinishReason.Stop, reason);
        Assert.Equal(3, usage?.OutputTokenCount);
    }

    [Fact]
    public async Task CompleteChat_WithOptions_ToolsAndAConversation()
    {
        var options = new ChatCompletionOptions
        {
            Temperature = 0.5f,
            TopP = 0.9f,
            FrequencyPenalty = 0.1f,
            PresencePenalty = 0.1f,
            MaxOutputTokenCount = 5,
            IncludeLogProbabilities = true,
            TopLogProbabilityCount = 2,
            Tools = { ChatTool.CreateFunctionTool("get_time", "The time.", BinaryData.FromString("""{"type":"object","properties":{}}""")) },
            ToolChoice = ChatToolChoice.CreateAutoChoice(),
        };
        options.StopSequences.Add("never");
        options.LogitBiases[5] = -10;
        ChatMessage[] messages =
        [
            new SystemChatMessage("You are brief."),
            new UserChatMessage(ChatMessageContentPart.CreateTextPart("What is the time?")),
            new AssistantChatMessage([ChatToolCall.CreateFunctionToolCall("1", "get_time", BinaryData.FromString("{}"))]),
            new ToolChatMessage("1", "12:30"),
        ];

        ChatCompletion answer = await Client().CompleteChatAsync(messages, options);

        Assert.InRange(answer.Usage.OutputTokenCount, 1, 5);
        Assert.Equal(answer.Usage.OutputTokenCount, answer.ContentTokenLogProbabilities.Count);
        Assert.All(answer.ContentTokenLogProbabilities, t => Assert.Equal(2, t.TopLogProbabilities.Count));
    }

    [Fact]
    public async Task UnknownModel_IsTheClientsException_WithOurMessage()
    {
        var error = await Assert.ThrowsAsync<ClientResultException>(() => Client("gpt-4o").CompleteChatAsync([new UserChatMessage("Hi")]));

        Assert.Equal(404, error.Status);
        Assert.Contains("'gpt-4o' is not served here; 'demo' is", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Models_AreListed()
    {
        var client = new OpenAIModelClient(new ApiKeyCredential("none"), Options());

        OpenAIModelCollection models = await client.GetModelsAsync();
        OpenAIModel model = await client.GetModelAsync("demo");

        Assert.Equal("demo", Assert.Single(models).Id);
        Assert.Equal("qwen", model.OwnedBy);
    }

    private ChatClient Client(string model = "demo") => new(model, new ApiKeyCredential("none"), Options());

    private OpenAIClientOptions Options() => new() { Endpoint = new Uri(_host.Address, "/v1") };
}
